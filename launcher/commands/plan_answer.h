// dsrun plan: what it answers, as a table for people and as JSON for programs. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_PLAN_ANSWER_H_
#define DSRUN_LAUNCHER_COMMANDS_PLAN_ANSWER_H_

#include <optional>
#include <string>
#include <vector>

#include "common/plan/memory_sweep.h"
#include "launcher/commands/resolve_plan.h"

namespace dsrun::launcher {

struct PlanAnswer {
  // Of one ZeRO stage, for each parameter.
  struct Rates {
    int zero_stage = 0;
    std::vector<StateRate> several;  // atoms a rank and step
    std::vector<StateRate> one;
  };
  PlanQuestion question;
  std::vector<SweepCell> table;
  std::optional<SweepCell> smallest;  // that fits
  SweepCell shown;                    // `smallest`, else the roomiest
  std::vector<PlannedBuffer> lines;   // of the largest rank of `shown`, most bytes first
  std::vector<Rates> rates;
  SweepCell roomiest;
  std::optional<ModelSpec> preset;  // the largest that fits with the roomiest setting
  std::optional<ModelSpec> scaled;  // likewise, of the model's family
};

PlanAnswer AnswerPlan(const PlanQuestion& question);

// `terminal`: what fits is bold.
std::string PlanText(const PlanAnswer& answer, bool terminal);
std::string PlanJson(const PlanAnswer& answer);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_PLAN_ANSWER_H_
