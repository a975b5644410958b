// OptimizerPlan: what an optimizer keeps from step to step for every trainable element, as named
// slots. The memory plan, the engine's state, snapshots and checkpoints all walk it, so that
// nothing else counts or names moments. Which optimizers there are: optimizer_settings.h. Pure.

#ifndef DSRUN_COMMON_PLAN_OPTIMIZER_PLAN_H_
#define DSRUN_COMMON_PLAN_OPTIMIZER_PLAN_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/base/dtype.h"

namespace dsrun {

struct OptimizerSlot {
  // As PyTorch calls it: "exp_avg". On disk "state/exp_avg/<tensor>" (common/format/
  // tensor_names.h), in the memory plan "optimizer.exp_avg". Never renamed.
  std::string_view name;
  DType dtype = DType::kF32;
  enum class Start { kZeros } start = Start::kZeros;
  // Which tensors keep it (slot_places.h): all, or all but hidden matrices.
  enum class Of { kAll, kOthers } of = Of::kAll;
};

// Name and slots have static storage.
struct OptimizerPlan {
  std::string_view name;                 // "adamw"
  std::span<const OptimizerSlot> slots;  // in the order of the files and of the hash; may be none
};

// Of AdamW, Adam and LAMB.
namespace adamw_optimizer {
enum Slot { kExpAvg, kExpAvgSq };
inline constexpr std::array<OptimizerSlot, 2> kSlots = {{{"exp_avg"}, {"exp_avg_sq"}}};
}  // namespace adamw_optimizer

inline constexpr OptimizerPlan kAdamW = {"adamw",
                                         std::span<const OptimizerSlot>(adamw_optimizer::kSlots)};

// Of Muon: the momentum of hidden matrices is a mean of gradients, as the first moment of the
// others, and stands with it.
namespace muon_optimizer {
inline constexpr std::array<OptimizerSlot, 2> kSlots = {
    {{"exp_avg"}, {.name = "exp_avg_sq", .of = OptimizerSlot::Of::kOthers}}};
}  // namespace muon_optimizer

// Whose update of a hidden matrix needs the matrix whole (matrix_plan.h).
inline constexpr std::string_view kMuonName = "muon";
inline bool OrthogonalisesMatrices(const OptimizerPlan& plan) { return plan.name == kMuonName; }

// How a matrix is orthogonalised: two ways to compute one polynomial of it, in exact arithmetic the
// same (worker/optim/newton_schulz.h).
enum class NsMethod {
  kGram,      // iterates on the small square matrix of its products with itself; the default
  kStandard,  // iterates on the matrix
};

// No optimizer has more.
inline constexpr size_t kMostOptimizerSlots = 2;

// The slot's line of the memory plan.
inline std::string PlannedName(const OptimizerSlot& slot) {
  return "optimizer." + std::string(slot.name);
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_OPTIMIZER_PLAN_H_
