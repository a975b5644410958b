// Does the model fit? Memory of all ranks of this machine by the plan that the engine allocates
// from, against what is available, and the smallest changes that would fit.

#include <algorithm>
#include <string>

#include "common/base/counted.h"
#include "common/base/units.h"
#include "common/plan/canonical_blocks.h"
#include "common/rpc/loopback.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

MemoryInput InputOf(const proto::TrainSpec& train, int64_t width) {
  MemoryInput input;
  const proto::ModelSpec& model = train.model();
  input.model = {model.preset(),      model.num_layers(),
                 model.hidden_size(), model.num_attention_heads(),
                 model.seq_length(),  model.vocab_size()};
  input.micro_batch_size = train.micro_batch_size();
  input.micro_batches = train.global_batch_size() / train.micro_batch_size();
  input.blocks = train.canonical_blocks();
  input.width = width;
  input.bucket_bytes = train.bucket_bytes();
  input.threads = train.threads_per_rank();
  return input;
}

// Bytes of all ranks together.
int64_t TotalBytes(MemoryInput input) {
  int64_t total = 0;
  for (input.rank = 0; input.rank < input.width; ++input.rank) {
    total += PlanMemory(input).total_bytes();
  }
  return total;
}

// Each kind of change alone, the smallest of its kind that fits.
std::string WhatWouldFit(const MemoryInput& asked, int64_t available) {
  std::string out;
  const auto offer = [&](const std::string& text) { out += (out.empty() ? "" : ", or ") + text; };
  const int64_t global = asked.micro_batch_size * asked.micro_batches;
  for (int64_t micro = asked.micro_batch_size - 1; micro >= 1; --micro) {
    if (global % micro != 0) continue;
    MemoryInput changed = asked;
    changed.micro_batch_size = micro;
    changed.micro_batches = global / micro;
    if (TotalBytes(changed) > available) continue;
    offer("--micro-batch-size " + std::to_string(micro));
    break;
  }
  for (int64_t width = asked.width - 1; width >= 1; --width) {
    MemoryInput changed = asked;
    changed.width = width;
    if (TotalBytes(changed) > available) continue;
    offer(Counted(width, "rank"));
    break;
  }
  const std::vector<std::string> presets = PresetNames();  // smallest first
  for (auto name = presets.rbegin(); name != presets.rend(); ++name) {
    MemoryInput changed = asked;
    const auto spec = FindPreset(*name);
    if (!spec.ok() || ParameterCount(*spec) >= ParameterCount(asked.model)) continue;
    changed.model = *spec;
    if (TotalBytes(changed) > available) continue;
    offer("--model " + *name);
    break;
  }
  return out.empty() ? "no single change does; use a machine with more memory" : out;
}

}  // namespace

void CheckMemory(ResolveContext& context) {
  const proto::JobSpec& job = context.resolved.job;
  MemoryInput input = InputOf(job.train(), static_cast<int64_t>(context.resolved.ranks.size()));
  int64_t here = 0;
  int64_t ranks_here = 0;
  int64_t largest = 0;
  for (const RankPlace& place : context.resolved.ranks) {
    input.rank = place.rank.value();
    MemoryPlan plan = PlanMemory(input);
    if (IsLoopbackAddress(job.nodes(place.node.value()).address())) {
      here += plan.total_bytes();
      largest = std::max(largest, plan.total_bytes());
      ++ranks_here;
    }
    context.resolved.memory.push_back(std::move(plan));
  }
  const int64_t available = context.machine.memory_available;
  if (available <= 0 || here <= available) return;
  const std::string why =
      job.train().model().preset() + " does not fit: " + Counted(ranks_here, "rank") +
      " of up to " + BytesText(largest) + " need " + BytesText(here) + " on this machine, " +
      BytesText(available) + " are available; fits: " + WhatWouldFit(input, available);
  if (context.resolved.dry_run) {  // asked for its table, perhaps on another machine
    context.Note("--model: a real start would be refused: " + why);
  } else {
    context.findings.AddFlag("--model", why);
  }
}

}  // namespace dsrun::launcher
