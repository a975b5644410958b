#include "common/plan/memory_fit.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/counted.h"
#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "common/plan/batch_plan.h"
#include "common/plan/library_plan.h"
#include "common/plan/recompute_plan.h"
#include "common/plan/zero_stage.h"

namespace dsrun {
namespace {

// More nodes than this are no advice.
constexpr size_t kMostMoreNodes = 16;

// The most ranks there can be.
size_t MaxWidth(const FitInput& input) {
  return static_cast<size_t>(AtomCount(input.job.micro_batches, input.job.micro_batches_per_atom));
}

// How many of the places get a rank.
size_t Width(const FitInput& input) { return std::min(input.places.size(), MaxWidth(input)); }

bool Fits(const FitInput& input) { return !input.places.empty() && MemoryShortages(input).empty(); }

std::optional<std::string> SmallerMicroBatch(FitInput input, bool goes_on) {
  MemoryInput& job = input.job;
  const int64_t global = job.micro_batch_size * job.micro_batches;
  for (int64_t micro = job.micro_batch_size - 1; micro >= 1; --micro) {
    if (global % micro != 0) continue;
    job.micro_batch_size = micro;
    job.micro_batches = global / micro;
    if (!Fits(input)) continue;
    return "--micro-batch-size " + std::to_string(micro) +
           (goes_on ? " (another curve: --accept-fingerprint)" : "");
  }
  return std::nullopt;
}

// The fewest blocks whose second forward makes room, as a budget; the lowest, as by budget.
std::optional<std::string> Recomputed(FitInput input) {
  if (input.job.recompute.every == 1) return std::nullopt;
  const ModelPlan model = ModelOf(input.job);
  const int64_t rows = input.job.micro_batch_size * input.job.model.seq_length;
  const int64_t blocks = input.job.model.num_layers;
  const std::optional<int64_t> enough = FewestBlocks(blocks, [&](int64_t lowest) {
    input.job.recompute = BudgetForBlocks(model, rows, /*slots=*/1, lowest);
    return Fits(input);
  });
  if (!enough) return std::nullopt;
  const Recompute budget = BudgetForBlocks(model, rows, /*slots=*/1, *enough);
  const double more =
      RecomputedFlopsOfToken(model, RecomputedSegments(model, rows, /*slots=*/1, budget)) /
      (TrainFlops(input.job.model, rows) / static_cast<double>(rows));
  return absl::StrCat("--recompute budget=", budget.budget_bytes, " (", *enough, " of ",
                      Counted(blocks, "layer"), " twice forward, ",
                      absl::StrFormat("%.1f", 100 * more), " % more arithmetic)");
}

// The stages above this one, each of which keeps less on a rank; no curve changes.
std::vector<int> HigherStages(const MemoryInput& job) {
  std::vector<int> stages;
  for (int stage = job.zero_stage + 1; IsZeroStage(stage); ++stage) {
    stages.push_back(stage);
  }
  return stages;
}

std::optional<std::string> HigherStage(FitInput input) {
  for (const int stage : HigherStages(input.job)) {
    input.job.zero_stage = stage;
    if (Fits(input)) return absl::StrCat("--zero-stage ", stage);
  }
  return std::nullopt;
}

// The smallest change of another kind that a higher stage makes enough; of several stages the
// lowest.
std::optional<std::string> HigherStageWithMore(FitInput input, bool goes_on) {
  for (const int stage : HigherStages(input.job)) {
    input.job.zero_stage = stage;
    std::optional<std::string> more = Recomputed(input);
    if (!more) more = SmallerMicroBatch(input, goes_on);
    if (more) return absl::StrCat("--zero-stage ", stage, " with ", *more);
  }
  return std::nullopt;
}

std::optional<std::string> FewerRanks(const FitInput& input) {
  const std::vector<bool> kept = PlacesThatFit(input);
  const auto ranks = std::count(kept.begin(), kept.end(), true);
  if (ranks == 0 || static_cast<size_t>(ranks) >= Width(input)) return std::nullopt;
  return Counted(ranks, "rank");
}

// Nodes as wide and as roomy as the roomiest of these.
std::optional<std::string> MoreNodes(FitInput input) {
  std::optional<size_t> like;
  for (size_t i = 0; i < input.machines.size(); ++i) {
    const FitMachine& machine = input.machines[i];
    if (!machine.known) continue;
    if (!like || machine.there_bytes > input.machines[*like].there_bytes) like = i;
  }
  if (!like) return std::nullopt;
  const FitMachine model = input.machines[*like];
  const auto slots = std::count(input.places.begin(), input.places.end(), *like);
  for (size_t more = 1; slots > 0 && more <= kMostMoreNodes; ++more) {
    if (Width(input) == MaxWidth(input)) return std::nullopt;
    input.machines.push_back(model);
    input.places.insert(input.places.end(), static_cast<size_t>(slots), input.machines.size() - 1);
    if (!Fits(input)) continue;
    return std::to_string(more) + (more == 1 ? " more node like " : " more nodes like ") +
           model.name + " (" + Counted(slots, "rank") + ", " + BytesText(model.there_bytes) + ")";
  }
  return std::nullopt;
}

std::optional<std::string> SmallerModel(FitInput input) {
  const int64_t parameters = ParameterCount(input.job.model);
  const std::string family = input.job.model.family;
  const std::vector<std::string> presets = PresetNames();  // of a family smallest first
  for (auto name = presets.rbegin(); name != presets.rend(); ++name) {
    const auto spec = FindPreset(*name);
    if (!spec.ok() || spec->family != family || ParameterCount(*spec) >= parameters) continue;
    input.job.model = *spec;
    if (Fits(input)) return "--model " + *name;
  }
  return std::nullopt;
}

}  // namespace

std::vector<MachineNeed> MemoryNeeds(const FitInput& input) {
  MemoryInput job = input.job;
  job.width = static_cast<int64_t>(Width(input));
  std::vector<MachineNeed> needs(input.machines.size());
  for (size_t i = 0; i < needs.size(); ++i) {
    needs[i].machine = i;
    needs[i].there_bytes = input.machines[i].there_bytes;
  }
  if (job.width == 0) return needs;
  const std::vector<MemoryPlan> plans = PlanMemoryOfRanks(job);
  for (size_t rank = 0; rank < plans.size(); ++rank) ++needs[input.places[rank]].ranks;
  std::vector<int64_t> libraries;  // of a rank, by machine
  for (const MachineNeed& need : needs) {
    libraries.push_back(LibraryBytes({.threads = job.threads,
                                      .width = job.width,
                                      .ranks_of_machine = std::max<int64_t>(need.ranks, 1),
                                      .precision = job.precision}));
  }
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    MachineNeed& need = needs[input.places[rank]];
    const int64_t bytes = plans[rank].total_bytes() + libraries[input.places[rank]];
    need.needed_bytes += bytes;
    need.largest_rank_bytes = std::max(need.largest_rank_bytes, bytes);
  }
  return needs;
}

std::vector<MachineNeed> MemoryShortages(const FitInput& input) {
  std::vector<MachineNeed> short_of;
  for (const MachineNeed& need : MemoryNeeds(input)) {
    if (input.machines[need.machine].known && need.needed_bytes > need.there_bytes) {
      short_of.push_back(need);
    }
  }
  return short_of;
}

std::vector<bool> PlacesThatFit(const FitInput& input) {
  std::vector<bool> kept(input.places.size(), true);
  FitInput now = input;
  std::vector<size_t> place_of_rank(input.places.size());
  for (size_t i = 0; i < place_of_rank.size(); ++i) place_of_rank[i] = i;
  while (true) {
    const std::vector<MachineNeed> short_of = MemoryShortages(now);
    if (short_of.empty()) return kept;
    // Every machine that is short gives up a rank at a time: the others' ranks grow by that.
    for (const MachineNeed& need : short_of) {
      for (size_t rank = Width(now); rank-- > 0;) {
        if (now.places[rank] != need.machine) continue;
        kept[place_of_rank[rank]] = false;
        now.places.erase(now.places.begin() + static_cast<std::ptrdiff_t>(rank));
        place_of_rank.erase(place_of_rank.begin() + static_cast<std::ptrdiff_t>(rank));
        break;
      }
    }
  }
}

std::vector<std::string> WhatWouldFit(const FitInput& input, bool goes_on) {
  std::vector<std::string> changes;
  const auto add = [&](std::optional<std::string> change) {
    if (change) changes.push_back(*std::move(change));
  };
  add(SmallerMicroBatch(input, goes_on));
  add(Recomputed(input));
  add(HigherStage(input));
  add(FewerRanks(input));
  add(MoreNodes(input));
  if (changes.empty()) add(HigherStageWithMore(input, goes_on));
  if (!goes_on) add(SmallerModel(input));
  return changes;
}

}  // namespace dsrun
