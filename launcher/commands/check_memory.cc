// Does the model fit where this machine's own agents would start it? Asked before anything is
// started, so that it is a finding among the others; the coordinator asks again before every
// generation, with what every node's agent reports (launcher/coordinator/generation_memory.h).

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/plan/memory_fit.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "common/plan/memory_words.h"
#include "common/rpc/loopback.h"
#include "launcher/commands/resolve_parts.h"
#include "launcher/coordinator/generation_memory.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kHere = 0;
constexpr size_t kElsewhere = 1;

// Agents that run already may have another share of this machine than we have.
bool IsStartedHere(const proto::NodeSpec& node) {
  return node.agent_port() == 0 && IsLoopbackAddress(node.address());
}

}  // namespace

void CheckMemory(ResolveContext& context) {
  const proto::JobSpec& job = context.resolved.job;
  const std::optional<MemoryInput> input = MemoryInputOf(job.train());
  if (!input) {  // there is a finding about it, but for what is too large to count
    if (job.train().micro_batch_size() < 1) return;
    const MemoryInput of_job = MemoryInputFromProto(job.train());
    if (!Validate(of_job.model).ok() || !CheckFrozen(of_job.model, of_job.frozen).ok()) return;
    if (const absl::Status fits = CheckPlannable(of_job); !fits.ok()) {
      context.findings.AddFlag("--micro-batch-size", std::string(fits.message()));
    }
    return;
  }
  MemoryInput planned = *input;
  planned.width = static_cast<int64_t>(context.resolved.ranks.size());
  context.resolved.memory = PlanMemoryOfRanks(planned);

  const int64_t available = context.machine.memory_available;
  if (available <= 0 || !context.resolved.memory_check) return;
  FitInput question;
  question.job = *input;
  question.machines = {{"this machine", available, /*known=*/true}, {"elsewhere", 0, false}};
  for (const RankPlace& place : context.resolved.ranks) {
    question.places.push_back(IsStartedHere(job.nodes(place.node.value())) ? kHere : kElsewhere);
  }
  const std::vector<MachineNeed> shortages = MemoryShortages(question);
  if (shortages.empty()) return;
  const MachineNeed& need = shortages.front();
  const std::vector<std::string> changes =
      WhatWouldFit(question, /*goes_on=*/!job.train().load_dir().empty());
  const std::string why =
      job.train().model().preset() + " does not fit: " + Counted(need.ranks, "rank") +
      " of up to " + BytesText(need.largest_rank_bytes) + " need " + BytesText(need.needed_bytes) +
      " on this machine, " + BytesText(available) +
      " are available; most of a rank's: " + TopConsumers(context.resolved.memory.front().buffers) +
      "; fits: " +
      (changes.empty() ? "no single change does; use a machine with more memory"
                       : absl::StrJoin(changes, ", or "));
  if (context.resolved.dry_run) {  // asked for its table, perhaps on another machine
    context.Note("--model: a real start would be refused: " + why);
  } else {
    context.findings.AddFlag("--model", why);
  }
}

}  // namespace dsrun::launcher
