// dsrun checkpoint VERB ...: looking at checkpoints without starting a job (--help has the verbs).
// hash and inspect are here; verify, diff, tags, export and where have files of their own.
// `dsrun where ...` is `dsrun checkpoint where ...`.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_COMMAND_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_COMMAND_H_

#include <ostream>
#include <span>
#include <string>
#include <string_view>

#include "common/base/file_system.h"
#include "launcher/commands/stop_flag.h"

namespace dsrun::launcher {

// One line a verb, for dsrun's own help.
std::string_view CheckpointUsage();

// `args` begin after "checkpoint". Returns the exit code (checkpoint_place.h, docs/errors.md).
int CheckpointCommand(std::span<const std::string> args, StopFlag& stop);

// The same, on any file system and streams. `terminal`: where the progress of long readings is
// shown; nullptr: nowhere.
int CheckpointCommand(std::span<const std::string> args, FileSystem& fs, std::ostream& out,
                      std::ostream& err, std::ostream* terminal = nullptr,
                      StopFlag* stop = nullptr);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_COMMAND_H_
