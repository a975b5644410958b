#include "common/plan/memory_input.h"

#include <algorithm>
#include <cstdint>

#include "common/model/model_spec_proto.h"
#include "common/numerics/fingerprint.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/plan/zero_stage.h"

namespace dsrun {

MemoryInput MemoryInputFromProto(const proto::TrainSpec& train) {
  MemoryInput input;
  input.model = FromProto(train.model());
  input.micro_batch_size = train.micro_batch_size();
  input.micro_batches = train.global_batch_size() / input.micro_batch_size;
  input.micro_batches_per_atom = std::max<int64_t>(train.micro_batches_per_atom(), 1);
  input.fast_sums = train.sums() == kSumsFastFlag;
  input.bucket_bytes = train.bucket_bytes();
  input.threads = train.threads_per_rank();
  input.optimizer = OptimizerPlanOfSpec(train);
  input.frozen.assign(train.frozen().begin(), train.frozen().end());
  input.recompute = FromProto(train.recompute());
  input.zero_stage = train.has_zero_stage() ? train.zero_stage() : kDefaultZeroStage;
  return input;
}

Recompute FromProto(const proto::Recompute& recompute) {
  return {.every = recompute.every(), .budget_bytes = recompute.budget_bytes()};
}

}  // namespace dsrun
