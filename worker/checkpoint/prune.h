// Tidying a checkpoint folder after a commit. Careful, because it deletes: only what this job
// wrote, says so itself, and no kept manifest needs.

#ifndef DSRUN_WORKER_CHECKPOINT_PRUNE_H_
#define DSRUN_WORKER_CHECKPOINT_PRUNE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"

namespace dsrun::worker {

// A save that is under way or may be committed: nothing of its step and generation is touched.
struct RunningSave {
  Step step;
  Generation generation;
  friend bool operator==(const RunningSave&, const RunningSave&) = default;
};

struct PruneOptions {
  std::string job_id;     // this job; nothing of any other is touched
  Generation generation;  // of the caller; nothing newer is touched
  int64_t keep = 3;       // whole checkpoints of this job that stay, at least 1
  std::vector<RunningSave> running = {};
};

// Removes this job's manifests that are older than its `keep` newest whole ones, with their shards;
// and, of generations before this one, shards that no manifest names and unfinished manifests.
// Returns the names removed. "Whole" is judged by names and sizes: reading every byte would cost as
// much as a save. Errors: those of FileSystem; what was removed before stays removed, and a
// manifest always goes before its shards.
absl::StatusOr<std::vector<std::string>> PruneCheckpoints(FileSystem& fs, const std::string& folder,
                                                          const PruneOptions& options);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_PRUNE_H_
