// Which checkpoint a generation goes on from: the newest whole one of its own job, else what --load
// names, else the initial state. Never less than was committed because something could not be read.

#ifndef DSRUN_WORKER_CHECKPOINT_FIND_CHECKPOINT_H_
#define DSRUN_WORKER_CHECKPOINT_FIND_CHECKPOINT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/patience.h"
#include "common/format/checkpoint_reader.h"

namespace dsrun::worker {

struct WantedCheckpoint {
  std::string job_id;
  std::string save_dir;
  std::string load_dir;              // empty: no --load
  std::optional<int64_t> load_step;  // of load_dir; absent: the newest
  // The newest that this job is known to have committed (GenerationPlan); 0 and "": none.
  int64_t floor_step = 0;
  std::string floor_manifest;
  bool restart = false;       // not the first generation of the job
  bool allow_rewind = false;  // begin with less all the same
  // Paths of manifests that ranks have proven to be damaged, and what (SearchCheckpoints).
  std::map<std::string, std::string> damaged;
  std::map<std::string, std::string> unreadable;  // the same, of what is given up (allow_rewind)
  Verify verify = Verify::kFull;  // kSizes where all ranks verify together what is found
};

struct FoundCheckpoint {
  std::string folder;
  std::string manifest;  // "": the initial state
};

// Looks again and again while `patience` lasts and something cannot be read, or less is there than
// the floor. Damaged checkpoints (see SearchCheckpoints) are passed over; `warn` is told each, and
// how many steps are lost by it. With allow_rewind, what cannot be read when patience is over is
// passed over as well, and `warn` is told what is thrown away; the folder that is there, if it is
// another one than the job began with, is its save folder from then on.
// Errors: UNAVAILABLE: there may be more than what can be read: nothing must begin; the message
// says the floor, the folder, what is wrong and what to do. NOT_FOUND: nothing whole in load_dir:
// at the start of a job at once if the folder is missing, and at a restart only what is proven to
// be damaged; what has been loaded from there before and is missing now, is waited for, and then
// UNAVAILABLE. FAILED_PRECONDITION: a checkpoint in load_dir of a newer format version.
absl::StatusOr<FoundCheckpoint> FindCheckpoint(FileSystem& fs, const WantedCheckpoint& wanted,
                                               Patience& patience,
                                               const std::function<void(const std::string&)>& warn);

// Whether a later try may do better: not for damage, another model, or a newer format.
bool MayPass(const absl::Status& status);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_FIND_CHECKPOINT_H_
