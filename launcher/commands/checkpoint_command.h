// dsrun checkpoint hash DIR       the content hash of the newest whole checkpoint of DIR
// dsrun checkpoint inspect DIR    what it holds: tensors, shapes, shards, sizes, fingerprint
//
// --json: one JSON object on standard output instead. --job ID: that job's checkpoints only. DIR
// may also be the path of one manifest. Checkpoints that are newer but damaged are named on
// standard error. --help says all this.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_COMMAND_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_COMMAND_H_

#include <ostream>
#include <span>
#include <string>

#include "common/base/file_system.h"

namespace dsrun::launcher {

// `args` begin after "checkpoint". Returns the exit code: 0; 90: bad flags, or no whole
// checkpoint there (docs/errors.md).
int CheckpointCommand(std::span<const std::string> args);

// The same, on any file system and streams.
int CheckpointCommand(std::span<const std::string> args, FileSystem& fs, std::ostream& out,
                      std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_COMMAND_H_
