// "optimizer" and "scheduler" of DeepSpeed's JSON, with DeepSpeed's own defaults where they leave
// something out. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_OPTIMIZER_H_
#define DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_OPTIMIZER_H_

#include "launcher/commands/deepspeed_reader.h"

namespace dsrun::launcher {

// --optimizer, --optimizer-param, --lr, --weight-decay. Findings: no such optimizer or parameter, a
// value of another kind, or one that dsrun has nothing for.
void ReadOptimizer(DeepSpeedReader& reader);
// --lr-schedule, --lr-schedule-param. Findings: likewise.
void ReadScheduler(DeepSpeedReader& reader);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_OPTIMIZER_H_
