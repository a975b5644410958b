// What of a rank's state goes into its part of a checkpoint, and where it stands: the one list, for
// who copies it first (Saving) and who writes it as it stands (worker/api). Pure.

#ifndef DSRUN_WORKER_ENGINE_SAVED_PARTS_H_
#define DSRUN_WORKER_ENGINE_SAVED_PARTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/range.h"
#include "common/plan/optimizer_plan.h"
#include "worker/checkpoint/slices.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {

// A family of tensors ("model", "state/exp_avg").
struct SavedPart {
  std::string slot;
  const std::vector<Range>* ranges;  // of the flat layout: the trainer's
  const float* data;                 // the start of its arena
  Arena arena;
  int64_t elements;
};
// The parameters, then the optimizer's slots, in the order of files. Pointers are the trainer's.
std::vector<SavedPart> SavedParts(const Trainer& trainer, const OptimizerPlan& optimizer);

// Numbers that stand beside them, in the first rank's file alone.
struct SavedNumbers {
  std::string name;
  std::vector<float> values;
};
std::vector<SavedNumbers> NumbersOfFirstRank(const Trainer& trainer);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_SAVED_PARTS_H_
