#include "common/plan/memory_sweep.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "common/plan/library_plan.h"
#include "common/plan/memory_fit.h"
#include "common/plan/recompute_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/zero_stage.h"

namespace dsrun {
namespace {

// Of bytes for each parameter; less is no state, but a few numbers of each tensor.
constexpr double kLeastRate = 0.02;
// Between the two models of which a rate is the difference: what a bucket more or less makes is
// small in so many.
constexpr int64_t kBlocksMore = 16;

MemoryInput JobAt(const SweepInput& input, int zero_stage, int64_t width, Recompute recompute) {
  MemoryInput job = input.job;
  job.zero_stage = zero_stage;
  job.width = width;
  job.recompute = recompute;
  return job;
}

// A budget that has the `blocks` lowest blocks of the model computed again.
Recompute BudgetOf(const MemoryInput& job, const ModelPlan& model, int64_t blocks) {
  if (blocks == job.model.num_layers) return {.every = 1};
  const int64_t rows = job.micro_batch_size * job.model.seq_length;
  return BudgetForBlocks(model, rows, /*slots=*/1, blocks);
}

bool MayRecompute(const SweepInput& input) {
  return input.may_recompute && !input.job.recompute.any();
}

struct Recomputing {
  SweepCell setting;
  int64_t blocks = 0;
};

// With the fewest blocks computed again that make this setting fit.
std::optional<Recomputing> FitByRecomputing(const SweepInput& input, int stage, int64_t width) {
  if (!MayRecompute(input)) return std::nullopt;
  const ModelPlan model = ModelOf(input.job);
  SweepCell best;
  const auto fits = [&](int64_t blocks) {
    const SweepCell setting = PlanSetting(input, stage, width, BudgetOf(input.job, model, blocks));
    if (setting.fits) best = setting;
    return setting.fits;
  };
  const std::optional<int64_t> blocks = FewestBlocks(input.job.model.num_layers, fits);
  if (!blocks) return std::nullopt;
  return Recomputing{best, *blocks};
}

// Whether another model fits with a setting of this one's.
bool FitsInstead(const SweepInput& input, const ModelSpec& model, const SweepCell& setting) {
  if (!Validate(model).ok()) return false;
  SweepInput other = input;
  other.job.model = model;
  other.job.frozen.clear();
  if (input.default_buckets) other.job.bucket_bytes = DefaultBucketBytes(ParameterCount(model));
  if (!CheckPlannable(JobAt(other, setting.zero_stage, setting.width, setting.recompute)).ok()) {
    return false;
  }
  return PlanSetting(other, setting.zero_stage, setting.width, setting.recompute).fits;
}

}  // namespace

SweepCell PlanSetting(const SweepInput& input, int zero_stage, int64_t width, Recompute recompute) {
  FitInput question;
  question.job = JobAt(input, zero_stage, width, recompute);
  for (int64_t rank = 0; rank < width; ++rank) {
    const auto node = static_cast<size_t>(rank / input.ranks_of_node);
    if (node == question.machines.size()) question.machines.push_back({"", input.node_bytes, true});
    question.places.push_back(node);
  }
  SweepCell cell{.zero_stage = zero_stage, .width = width, .recompute = recompute};
  for (const MachineNeed& need : MemoryNeeds(question)) {
    cell.rank_bytes = std::max(cell.rank_bytes, need.largest_rank_bytes);
    cell.node_bytes = std::max(cell.node_bytes, need.needed_bytes);
  }
  cell.fits = cell.node_bytes <= input.node_bytes;
  return cell;
}

std::vector<SweepCell> PlanTable(const SweepInput& input) {
  std::vector<SweepCell> table;
  for (const int64_t width : input.widths) {
    for (const int stage : input.stages) {
      table.push_back(PlanSetting(input, stage, width, input.job.recompute));
    }
  }
  return table;
}

std::optional<SweepCell> SmallestThatFits(const SweepInput& input,
                                          const std::vector<SweepCell>& table) {
  for (const int64_t width : input.widths) {
    for (const SweepCell& cell : table) {
      if (cell.width == width && cell.fits) return cell;
    }
    std::optional<Recomputing> fewest;
    for (const int stage : input.stages) {
      std::optional<Recomputing> found = FitByRecomputing(input, stage, width);
      if (found && (!fewest || found->blocks < fewest->blocks)) fewest = std::move(found);
    }
    if (fewest) return fewest->setting;
  }
  return std::nullopt;
}

SweepCell Roomiest(const SweepInput& input, const std::vector<SweepCell>& table) {
  SweepCell least = table.front();
  const auto look = [&](const SweepCell& cell) {
    if (cell.node_bytes < least.node_bytes) least = cell;
  };
  for (const SweepCell& cell : table) {
    look(cell);
    if (MayRecompute(input)) {
      look(PlanSetting(input, cell.zero_stage, cell.width, {.every = 1}));
    }
  }
  return least;
}

std::vector<PlannedBuffer> LargestRank(const SweepInput& input, const SweepCell& setting) {
  const MemoryInput job = JobAt(input, setting.zero_stage, setting.width, setting.recompute);
  const std::vector<MemoryPlan> plans = PlanMemoryOfRanks(job);
  const auto largest = std::max_element(
      plans.begin(), plans.end(),
      [](const MemoryPlan& a, const MemoryPlan& b) { return a.total_bytes() < b.total_bytes(); });
  std::vector<PlannedBuffer> lines = largest->buffers;
  for (PlannedBuffer& line : PlanLibraries({.threads = job.threads,
                             .width = job.width,
                             .ranks_of_machine = std::min(input.ranks_of_node, job.width),
                             .precision = job.precision})) {
    lines.push_back(std::move(line));
  }
  std::stable_sort(lines.begin(), lines.end(), [](const PlannedBuffer& a, const PlannedBuffer& b) {
    return a.bytes() > b.bytes();
  });
  return lines;
}

std::optional<ModelSpec> LargestPreset(const SweepInput& input, const SweepCell& setting) {
  std::vector<std::pair<int64_t, ModelSpec>> presets;
  for (const std::string& name : PresetNames()) {
    const auto spec = FindPreset(name);
    if (spec.ok()) presets.emplace_back(ParameterCount(*spec), *spec);
  }
  std::stable_sort(presets.begin(), presets.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [parameters, spec] : presets) {
    if (FitsInstead(input, spec, setting)) return spec;
  }
  return std::nullopt;
}

int64_t HeadUnits(const ModelSpec& like) { return like.heads_of_keys(); }

ModelSpec Scaled(const ModelSpec& like, int64_t units) {
  const int64_t of_like = HeadUnits(like);
  const auto in_proportion = [&](int64_t size) {
    return std::max<int64_t>(1, size * units / of_like);
  };
  ModelSpec spec = like;
  spec.preset = "custom";
  spec.num_attention_heads = like.num_attention_heads / of_like * units;
  if (like.query_groups > 0) spec.query_groups = units;
  spec.hidden_size = in_proportion(like.hidden_size);
  spec.num_layers = std::max<int64_t>(1, (2 * like.num_layers * units + of_like) / (2 * of_like));
  if (like.ffn_hidden_size > 0) {
    spec.ffn_hidden_size = (in_proportion(like.ffn_hidden_size) + 63) / 64 * 64;
  }
  return Canonical(spec);
}

std::optional<ModelSpec> LargestOfFamily(const SweepInput& input, const SweepCell& setting) {
  const auto fits = [&](int64_t units) {
    return FitsInstead(input, Scaled(input.job.model, units), setting);
  };
  int64_t enough = 0;
  int64_t too_many = HeadUnits(input.job.model);
  while (fits(too_many)) {
    enough = too_many;
    too_many *= 2;
  }
  while (too_many - enough > 1) {
    const int64_t middle = enough + (too_many - enough) / 2;
    (fits(middle) ? enough : too_many) = middle;
  }
  if (enough == 0) return std::nullopt;
  return Scaled(input.job.model, enough);
}

std::vector<StateRate> StateRates(const MemoryInput& job, int zero_stage, int64_t atoms) {
  MemoryInput small = job;
  small.frozen.clear();
  small.recompute = {};
  small.zero_stage = zero_stage;
  const auto elements_of = [&](int64_t blocks) {
    small.model.num_layers = blocks;
    return FlatLayout(LogicalTensors(small.model)).size();
  };
  const int64_t of_block = elements_of(2) - elements_of(1);
  // So deep that nothing is kept gathered from its use in the embedding to that in the head.
  const int64_t blocks = 3 + 2 * (elements_of(1) / of_block);
  const double grown_elements = static_cast<double>(kBlocksMore * of_block);
  // Many in a block, each of an even number of leaves: buffers of a bucket or three do not grow
  // with the model then, and halves are halves.
  constexpr int64_t kTwoLeaves = 2 * kLeafElements * 4;
  small.bucket_bytes = std::max(kTwoLeaves, of_block * 4 / 64 / kTwoLeaves * kTwoLeaves);
  const auto plan_of = [&](int64_t of_blocks, int64_t ranks) {
    small.model.num_layers = of_blocks;
    small.width = ranks;
    small.atoms_of_ranks.assign(static_cast<size_t>(ranks), atoms);
    return PlanMemory(small);
  };
  const MemoryPlan few = plan_of(blocks, 1), more = plan_of(blocks + kBlocksMore, 1);
  const MemoryPlan few_of_pair = plan_of(blocks, 2),
                   more_of_pair = plan_of(blocks + kBlocksMore, 2);
  std::vector<StateRate> rates;
  for (const PlannedBuffer& line : more.buffers) {
    if (line.group == "activations" || line.group == "workspace") continue;
    const auto grown = [&](const MemoryPlan& from, const MemoryPlan& to) {
      return static_cast<double>(to.Find(line.name).bytes() - from.Find(line.name).bytes()) /
             grown_elements;
    };
    const double alone = grown(few, more);
    const double of_pair = grown(few_of_pair, more_of_pair);
    const StateRate rate{line.name, line.formula, 2 * of_pair - alone, 2 * (alone - of_pair)};
    if (std::abs(alone) >= kLeastRate) rates.push_back(rate);
  }
  return rates;
}

}  // namespace dsrun
