#include "common/plan/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "common/plan/accumulation_plan.h"
#include "common/plan/activation_plan.h"
#include "common/plan/gradient_space.h"

namespace dsrun {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kDouble = 8;

// What the largest bucket's reduction keeps of its owner's slice: one copy for every partial sum.
int64_t ScratchElements(const BatchPlan& batch, const GradientSpace& space, int64_t rank) {
  int64_t most = 0;
  for (const Range& bucket : space.buckets()) {
    most = std::max(most, space.OwnedSize(rank, bucket));
  }
  return most * static_cast<int64_t>(batch.AllNodes().size());
}

}  // namespace

int64_t MemoryPlan::total_bytes() const {
  int64_t total = 0;
  for (const PlannedBuffer& buffer : buffers) total += buffer.bytes();
  return total;
}

const PlannedBuffer& MemoryPlan::Find(const std::string& name) const {
  for (const PlannedBuffer& buffer : buffers) {
    if (buffer.name == name) return buffer;
  }
  std::fprintf(stderr, "MemoryPlan::Find: no buffer \"%s\"\n", name.c_str());
  std::abort();
}

MemoryPlan PlanMemory(const MemoryInput& input) {
  const FlatLayout layout(LogicalTensors(input.model));
  const ShardPlan shards(layout, input.width, input.bucket_bytes);
  const GradientSpace space(layout, shards, input.bucket_bytes);
  const BatchPlan batch(input.micro_batches, input.blocks, input.width);
  const AccumulationPlan accumulation = PlanAccumulation(batch, input.rank);
  const int64_t owned = shards.OwnedSize(input.rank);
  const int64_t tokens = input.micro_batch_size * input.model.seq_length;

  MemoryPlan plan;
  const auto add = [&](const char* name, const char* group, int64_t elements, int64_t bytes,
                       const char* formula) {
    plan.buffers.push_back({name, group, elements, bytes, formula});
  };
  add("parameters", "parameters", layout.size(), kFloat, "P (leaf padding included)");
  add("gradients", "gradients", space.size() * accumulation.buffer_count, kFloat,
      "(P + tied head) x gradient buffers of this rank's blocks");
  add("adam_m", "optimizer", owned, kFloat, "owned share of P");
  add("adam_v", "optimizer", owned, kFloat, "owned share of P");
  add("save_snapshot", "checkpoint", 3 * owned, kFloat,
      "3 x owned share of P: parameters and moments, written behind the next steps");
  add("reduce_scratch", "communication",
      input.width > 1 ? ScratchElements(batch, space, input.rank) : 0, kFloat,
      "owned share of the largest bucket x partial sums of the batch");
  add("leaf_squares", "communication", 2 * layout.leaf_count(), kDouble, "2 x leaves");
  add("tokens", "activations", 2 * tokens, kFloat, "2 x B x T");
  for (PlannedBuffer& buffer :
       PlanActivations(input.model, input.micro_batch_size, input.threads)) {
    plan.buffers.push_back(std::move(buffer));
  }
  return plan;
}

}  // namespace dsrun
