#include "common/plan/memory_input.h"

#include <algorithm>
#include <cstdint>

#include "common/model/model_spec_proto.h"
#include "common/numerics/fingerprint.h"

namespace dsrun {
namespace {

// What is not said stays negative: the model's default.
ZeroSettings ZeroFromProto(const proto::ZeroSettings& said) {
  ZeroSettings zero;
  if (said.has_prefetch()) zero.prefetch = said.prefetch();
  if (said.has_persistence_threshold()) zero.persistence_threshold = said.persistence_threshold();
  if (said.has_max_live_parameters()) zero.max_live_parameters = said.max_live_parameters();
  if (said.has_max_reuse_distance()) zero.max_reuse_distance = said.max_reuse_distance();
  if (said.has_sub_group_size()) zero.sub_group_size = said.sub_group_size();
  return zero;
}

}  // namespace

MemoryInput MemoryInputFromProto(const proto::TrainSpec& train) {
  MemoryInput input;
  input.model = FromProto(train.model());
  input.micro_batch_size = train.micro_batch_size();
  input.micro_batches = train.global_batch_size() / input.micro_batch_size;
  input.micro_batches_per_atom = std::max<int64_t>(train.micro_batches_per_atom(), 1);
  input.fast_sums = train.sums() == kSumsFastFlag;
  input.bucket_bytes = train.bucket_bytes();
  input.threads = train.threads_per_rank();
  input.frozen.assign(train.frozen().begin(), train.frozen().end());
  if (train.has_zero_stage()) input.zero_stage = train.zero_stage();
  input.zero = ZeroFromProto(train.zero());
  return input;
}

}  // namespace dsrun
