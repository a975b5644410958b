#include "common/plan/memory_input.h"

#include <algorithm>
#include <cstdint>

#include "common/model/model_spec_proto.h"
#include "common/numerics/fingerprint.h"
#include "common/numerics/precision.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/plan/zero_stage.h"

namespace dsrun {
ZeroSettings FromProto(const proto::ZeroSettings& said) {
  ZeroSettings zero;
  if (said.has_prefetch()) zero.prefetch = said.prefetch();
  if (said.has_persistence_threshold()) zero.persistence_threshold = said.persistence_threshold();
  if (said.has_max_live_parameters()) zero.max_live_parameters = said.max_live_parameters();
  if (said.has_max_reuse_distance()) zero.max_reuse_distance = said.max_reuse_distance();
  if (said.has_sub_group_size()) zero.sub_group_size = said.sub_group_size();
  return zero;
}

void ToProto(const ZeroSettings& settings, proto::ZeroSettings* out) {
  if (settings.prefetch >= 0) out->set_prefetch(settings.prefetch);
  if (settings.persistence_threshold >= 0) {
    out->set_persistence_threshold(settings.persistence_threshold);
  }
  if (settings.max_live_parameters >= 0) {
    out->set_max_live_parameters(settings.max_live_parameters);
  }
  if (settings.max_reuse_distance >= 0) out->set_max_reuse_distance(settings.max_reuse_distance);
  if (settings.sub_group_size >= 0) out->set_sub_group_size(settings.sub_group_size);
}

MemoryInput MemoryInputFromProto(const proto::TrainSpec& train) {
  MemoryInput input;
  input.model = FromProto(train.model());
  input.precision = PrecisionNamed(train.precision()).value_or(DType::kF32);
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
  input.zero = FromProto(train.zero());
  return input;
}

Recompute FromProto(const proto::Recompute& recompute) {
  return {.every = recompute.every(), .budget_bytes = recompute.budget_bytes()};
}

}  // namespace dsrun
