// What the words of `dsrun checkpoint` and --load mean: a save folder, a run folder (its
// checkpoints/), or one manifest. And the exit codes of `dsrun checkpoint` (docs/errors.md).

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_PLACE_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_PLACE_H_

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"

namespace dsrun::launcher {

inline constexpr int kCheckpointGood = 0;        // whole, equal, done
inline constexpr int kCheckpointDamaged = 1;     // verify: damaged or missing; diff: they differ
inline constexpr int kCheckpointUnreadable = 2;  // something could not be read: no answer
inline constexpr int kCheckpointBadInput = 90;   // flags, or no such checkpoint

struct CheckpointPlace {
  std::string folder;
  std::string manifest = {};  // empty: the newest
  bool of_run = false;        // the folder is the checkpoints/ of the run folder that was named
};

// Errors: NOT_FOUND: no such folder; those of FileSystem. A folder without any manifest is given
// back as it is: whoever looks for one in it says what is missing.
absl::StatusOr<CheckpointPlace> LocateCheckpoints(FileSystem& fs, const std::string& path);

// The one checkpoint of a place: the manifest that is named, else the newest whole one (of the job,
// if one is given). Newer ones that are not used are named on `err`. Errors: INVALID_ARGUMENT: the
// manifest that is named is another job's; NOT_FOUND, DATA_LOSS: there is none, or none that is
// whole; those of SearchCheckpoints.
absl::StatusOr<Checkpoint> OpenAt(FileSystem& fs, const CheckpointPlace& place,
                                  const std::string& job_id, Verify verify, std::ostream& err);

// Prints "dsrun checkpoint: MESSAGE"; kCheckpointBadInput where the caller named what is not there
// or no whole checkpoint, kCheckpointUnreadable where it could not be told.
int PrintCheckpointError(const absl::Status& status, std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_PLACE_H_
