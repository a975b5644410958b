#include "worker/engine/saved_parts.h"

#include <cstddef>
#include <span>
#include <utility>

#include "common/format/model_tensors.h"

namespace dsrun::worker {

std::vector<SavedPart> SavedParts(const Trainer& trainer, const OptimizerPlan& optimizer) {
  const ShardedState& state = trainer.state();
  const std::vector<std::string> slots = SlotsOf(optimizer);
  std::vector<SavedPart> parts;
  const auto add = [&](const std::vector<Range>& ranges, const float* data, Arena arena) {
    int64_t elements = 0;
    for (const Range& range : ranges) elements += range.size();
    parts.push_back({slots[parts.size()], &ranges, data, arena, elements});
  };
  add(trainer.stored(), state.parameters, state.partitioned ? Arena::kCompact : Arena::kWhole);
  for (size_t slot = 0; slot < state.slots.size(); ++slot) {
    add(trainer.owned_with_slot(slot), state.slots[slot], Arena::kCompact);
  }
  return parts;
}

std::vector<SavedNumbers> NumbersOfFirstRank(const Trainer& trainer) {
  SavedNumbers exponents{std::string(kSumExponents),
                         std::vector<float>(trainer.exponents().size())};
  trainer.exponents().WriteTo(exponents.values);
  std::vector<SavedNumbers> all = {std::move(exponents)};
  if (std::vector<float> scale = trainer.LossScale(); !scale.empty()) {
    all.push_back({std::string(kLossScale), std::move(scale)});
  }
  return all;
}

}  // namespace dsrun::worker
