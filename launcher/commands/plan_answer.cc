#include "launcher/commands/plan_answer.h"

#include "launcher/commands/resolve_plan.h"

namespace dsrun::launcher {

PlanAnswer AnswerPlan(const PlanQuestion& question) {
  const SweepInput& sweep = question.sweep;
  PlanAnswer answer;
  answer.question = question;
  answer.table = PlanTable(sweep);
  answer.smallest = SmallestThatFits(sweep, answer.table);
  answer.roomiest = Roomiest(sweep, answer.table);
  answer.shown = answer.smallest.value_or(answer.roomiest);
  answer.lines = LargestRank(sweep, answer.shown);
  for (const int stage : sweep.stages) {
    answer.rates.push_back({.zero_stage = stage,
                            .several = StateRates(sweep.job, stage, /*atoms=*/2),
                            .one = StateRates(sweep.job, stage, /*atoms=*/1)});
  }
  if (sweep.job.frozen.empty()) {
    answer.preset = LargestPreset(sweep, answer.roomiest);
    answer.scaled = LargestOfFamily(sweep, answer.roomiest);
  }
  return answer;
}

}  // namespace dsrun::launcher
