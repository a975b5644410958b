// dsrun plan: flags -> what is asked. The model, the batch and the engine's settings are resolved
// as those of `dsrun train`, from the same flags; what it plans with is a SweepInput.

#ifndef DSRUN_LAUNCHER_COMMANDS_RESOLVE_PLAN_H_
#define DSRUN_LAUNCHER_COMMANDS_RESOLVE_PLAN_H_

#include <optional>
#include <string>
#include <vector>

#include "common/config/source_text.h"
#include "common/plan/memory_sweep.h"
#include "launcher/commands/command_line.h"
#include "launcher/commands/machine.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

struct PlanQuestion {
  SweepInput sweep;
  proto::TrainSpec train;     // what sweep.job was read from
  std::string memory_source;  // for people: "--memory", "this machine's, of 24.0 GiB, now"
  bool json = false;
};

// REQUIRES: line.command is kPlan. Nothing: there is a finding.
std::optional<PlanQuestion> ResolvePlan(const CommandLine& line, const Machine& machine,
                                        Findings& findings, std::vector<std::string>& notes);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_RESOLVE_PLAN_H_
