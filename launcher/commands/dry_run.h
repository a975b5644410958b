// `dsrun --dry-run`: the resolved job, as text for people or as JSON for programs. Values of
// inherited environment variables are not shown: they may be secrets. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DRY_RUN_H_
#define DSRUN_LAUNCHER_COMMANDS_DRY_RUN_H_

#include <string>

#include "launcher/commands/machine.h"
#include "launcher/commands/resolve.h"

namespace dsrun::launcher {

// REQUIRES: Resolve found no error.
std::string DryRunText(const Resolved& resolved, const Machine& machine);
std::string DryRunJson(const Resolved& resolved, const Machine& machine);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DRY_RUN_H_
