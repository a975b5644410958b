// Bytes per rank, by formula, before anything is allocated. Pure. The engine lays its arenas out
// *from this plan* and allocates nothing else of size, so plan and allocator agree by construction;
// `dsrun --dry-run` prints it.

#ifndef DSRUN_COMMON_PLAN_MEMORY_PLAN_H_
#define DSRUN_COMMON_PLAN_MEMORY_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/dtype.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/plan/gather_plan.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/planned_buffer.h"
#include "common/plan/recompute_plan.h"
#include "common/plan/zero_stage.h"

namespace dsrun {

struct MemoryInput {
  ModelSpec model;
  DType precision = DType::kF32;  // what it computes in: kF32, kBF16 or kF16
  int64_t micro_batch_size = 0;   // sequences
  int64_t micro_batches = 0;      // of the global batch
  int64_t micro_batches_per_atom = 1;
  bool fast_sums = false;  // fp32 instead of exact
  int64_t width = 0;
  int64_t rank = 0;
  int64_t bucket_bytes = 0;
  int64_t threads = 1;
  // Atoms of each rank, where they are not BatchPlan's shares (trainer.h); empty: they are.
  std::vector<int64_t> atoms_of_ranks = {};
  std::vector<std::string> frozen = {};  // tensors, CheckFrozen
  Recompute recompute = {};
  OptimizerPlan optimizer = kAdamW;
  int zero_stage = kDefaultZeroStage;
  ZeroSettings zero = {};  // of stage 3
  // Of a model that `model` alone does not say (own_model.h); null: PlanModel(model, frozen).
  std::shared_ptr<const ModelPlan> own = nullptr;
};

// The model that is planned for. REQUIRES: as PlanMemory.
ModelPlan ModelOf(const MemoryInput& input);

struct MemoryPlan {
  std::vector<PlannedBuffer> buffers;
  int64_t total_bytes() const;
  int64_t bytes_in(Space space) const;
  // CHECK-fails on an unknown name.
  const PlannedBuffer& Find(const std::string& name) const;
};

// Whether the plan's numbers mean something: a micro-batch times a sequence times a layer may be
// more than 64 bits can count. REQUIRES: the model is valid, and every size at least 1. Errors:
// INVALID_ARGUMENT: more than an exabyte; with the number, and what to make smaller.
absl::Status CheckPlannable(const MemoryInput& input);

// REQUIRES: the input is valid (Validate, ValidateBatchPlan, CheckFrozen, CheckPlannable).
MemoryPlan PlanMemory(const MemoryInput& input);
// Of every rank of `input.width`, without laying the model out anew for each; input.rank is not
// read. REQUIRES: the same.
std::vector<MemoryPlan> PlanMemoryOfRanks(const MemoryInput& input);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_MEMORY_PLAN_H_
