// Tidying a checkpoint folder after a commit. Careful, because it deletes: only what readable
// manifests prove to be old or superseded, of this job alone. Any doubt ends it before anything is
// removed: what cannot be read may name what would be removed.
//
// Somebody may give a checkpoint a tag at any moment: an old manifest is set aside, the tags are
// read once more, and only then it is removed (common/format/aside.h). A prune that dies in between
// leaves a manifest aside; the next one brings it back before anything else and judges it anew.

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
  std::string job_id;      // this job; nothing of any other is touched
  Generation generation;   // of the caller; nothing newer is touched
  int64_t keep = 3;        // whole checkpoints of this job that stay, at least 1
  int64_t keep_every = 0;  // one whose step is a multiple stays; 0: none
  std::vector<RunningSave> running = {};
};

// Removes, of this job:
//   - manifests that are older than its `keep` newest whole ones and than the caller's own `keep`
//     newest, with the shards that no other manifest names; but not those that a tag names
//     (common/format/tags.h), and not every keep_every-th step;
//   - of generations before this one: unfinished manifests, and shards that no manifest names, once
//     a whole checkpoint of a later generation stands at their step or beyond. Before that a
//     manifest for them may still come, or be hidden by a network file system;
//   - and of any job, a tag that was not written to its end, and whose manifest is gone.
// Returns the names removed. "Whole" is judged by names and sizes: reading every byte would cost as
// much as a save.
// Errors: a manifest or tag that cannot be read, is torn, or of a newer format, and a folder that
// cannot be listed: nothing was removed, the message says which and what to do. Those of FileSystem
// while removing: what was removed before stays removed, what was aside is brought back as far as
// that can be done, and a manifest always goes, for good, before its shards. Shards of a manifest
// that somebody else has removed, or brought back, stay.
absl::StatusOr<std::vector<std::string>> PruneCheckpoints(FileSystem& fs, const std::string& folder,
                                                          const PruneOptions& options);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_PRUNE_H_
