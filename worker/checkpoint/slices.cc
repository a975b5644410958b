#include "worker/checkpoint/slices.h"

#include <algorithm>

#include "common/format/tensor_names.h"
#include "common/numerics/loss_scaler.h"

namespace dsrun::worker {

std::vector<std::string> SlotsOf(const OptimizerPlan& optimizer) {
  // Of a prefix without its stroke.
  std::vector<std::string> slots = {std::string(kModelPrefix.substr(0, kModelPrefix.size() - 1))};
  for (const OptimizerSlot& slot : optimizer.slots) {
    slots.push_back(std::string(kStatePrefix) + std::string(slot.name));
  }
  return slots;
}

std::vector<std::string> SlotNames(const OptimizerPlan& optimizer) {
  std::vector<std::string> names;
  for (const OptimizerSlot& slot : optimizer.slots) names.emplace_back(slot.name);
  return names;
}

std::vector<TensorRange> CutAtTensors(const FlatLayout& layout, std::span<const Range> owned,
                                      Arena arena) {
  std::vector<TensorRange> parts;
  int64_t compact = 0;
  for (const Range& range : owned) {
    for (const FlatLayout::Entry& entry : layout.entries()) {
      const Range part{std::max(range.begin, entry.flat().begin),
                       std::min(range.end, entry.flat().end)};
      if (part.empty()) continue;
      const int64_t offset =
          arena == Arena::kWhole ? part.begin : compact + (part.begin - range.begin);
      parts.push_back({&entry.tensor, part.begin - entry.offset, part.end - entry.offset, offset});
    }
    compact += range.size();
  }
  return parts;
}

std::vector<Slice> SlicesOf(const FlatLayout& layout, std::span<const Range> owned,
                            std::string_view prefix, Arena arena, const float* base) {
  std::vector<Slice> slices;
  for (const TensorRange& part : CutAtTensors(layout, owned, arena)) {
    slices.push_back({std::string(prefix) + part.tensor->name, part.tensor->shape, part.begin,
                      part.end, base + part.arena_offset});
  }
  return slices;
}

LayoutRecipe RecipeOf(const FlatLayout& layout, const OptimizerPlan& optimizer, int64_t width,
                      int64_t bucket_bytes, bool loss_scale) {
  LayoutRecipe recipe;
  recipe.mesh = {{"dp", width}};
  recipe.leaf = kLeafElements;
  const int64_t elements = std::max<int64_t>(bucket_bytes / static_cast<int64_t>(sizeof(float)), 1);
  recipe.bucket = (elements + recipe.leaf - 1) / recipe.leaf * recipe.leaf;
  recipe.slots = SlotsOf(optimizer);
  for (const FlatLayout::Entry& entry : layout.entries()) {
    recipe.parameters.push_back({entry.tensor.name, entry.tensor.shape});
  }
  recipe.singles = {{std::string(kSumExponents), {static_cast<int64_t>(layout.entries().size())}}};
  if (loss_scale) recipe.singles.push_back({std::string(kLossScale), {kLossScaleValues}});
  return recipe;
}

}  // namespace dsrun::worker
