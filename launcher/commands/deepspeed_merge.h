// What of a file stands beside what was typed. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_MERGE_H_
#define DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_MERGE_H_

#include <string>
#include <vector>

#include "common/config/source_text.h"
#include "launcher/commands/command_line.h"
#include "launcher/commands/deepspeed_config.h"

namespace dsrun::launcher {

// Puts the flags before those that were typed, which win: what they replace is
// told in `notes`, and what has no effect beside the rest.
void PutFlags(const SourceText& text, const DeepSpeedConfig& config, FlagUses& flags,
              std::vector<std::string>& notes);

// Findings about a flag that the file has implied, and nobody typed, as findings at its place.
Findings PointedInto(const SourceText& text, const DeepSpeedConfig& config, const FlagUses& typed,
                     const Findings& findings);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_MERGE_H_
