#include "common/plan/slot_places.h"

#include <algorithm>

namespace dsrun {

bool KeepsAll(const OptimizerPlan& optimizer) {
  return std::all_of(optimizer.slots.begin(), optimizer.slots.end(),
                     [](const OptimizerSlot& slot) { return slot.of == OptimizerSlot::Of::kAll; });
}

std::vector<Range> PartsWithSlot(const FlatLayout& layout, const OptimizerSlot& slot,
                                 const std::vector<Range>& ranges) {
  std::vector<Range> parts;
  for (const Range& range : ranges) {
    layout.ForTensors(range, [&](size_t tensor, Range part) {
      if (!Keeps(layout.entries()[tensor].tensor, slot)) return;
      if (!parts.empty() && parts.back().end == part.begin) {
        parts.back().end = part.end;
      } else {
        parts.push_back(part);
      }
    });
  }
  return parts;
}

int64_t ElementsWithSlot(const FlatLayout& layout, const OptimizerSlot& slot,
                         const std::vector<Range>& ranges) {
  int64_t elements = 0;
  for (const Range& part : PartsWithSlot(layout, slot, ranges)) elements += part.size();
  return elements;
}

}  // namespace dsrun
