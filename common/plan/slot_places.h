// Which elements have an optimizer's slot: not all tensors keep all of them (OptimizerSlot::of). A
// slot's arena holds those that do, one after the other. Pure.

#ifndef DSRUN_COMMON_PLAN_SLOT_PLACES_H_
#define DSRUN_COMMON_PLAN_SLOT_PLACES_H_

#include <cstdint>
#include <vector>

#include "common/base/range.h"
#include "common/model/logical_tensor.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

inline bool Keeps(const LogicalTensor& tensor, const OptimizerSlot& slot) {
  return slot.of == OptimizerSlot::Of::kAll || !tensor.hidden_matrix;
}
// Every tensor keeps every slot.
bool KeepsAll(const OptimizerPlan& optimizer);

// What of `ranges` has the slot: ascending, maximal, padding included. REQUIRES: `ranges` ascend,
// are leaf-aligned, and lie in the layout.
std::vector<Range> PartsWithSlot(const FlatLayout& layout, const OptimizerSlot& slot,
                                 const std::vector<Range>& ranges);
int64_t ElementsWithSlot(const FlatLayout& layout, const OptimizerSlot& slot,
                         const std::vector<Range>& ranges);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_SLOT_PLACES_H_
