#include "common/plan/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "common/model/model_plan.h"
#include "common/plan/activation_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"

namespace dsrun {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kDouble = 8;

// What a rank owns of the largest bucket.
int64_t LargestOwned(const ShardPlan& shards, int64_t rank) {
  int64_t most = 0;
  for (const Range& bucket : shards.buckets()) {
    int64_t elements = 0;
    for (const Range& range : shards.Owned(rank, bucket)) elements += range.size();
    most = std::max(most, elements);
  }
  return most;
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

namespace {

// What the ranks of one width share. Its parts refer to one another, so it stays where it is.
class Planner {
 public:
  explicit Planner(const MemoryInput& input)
      : input_(input),
        model_(PlanModel(input.model)),
        layout_(model_.tensors),
        shards_(layout_, input.width, input.bucket_bytes),
        space_(model_, layout_),
        activations_(model_,
                     {.micro_batch_size = input.micro_batch_size, .threads = input.threads}) {}
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  MemoryPlan Plan(int64_t rank) const {
    const int64_t sum_bytes = input_.fast_sums ? 4 : 8;
    const int64_t largest = LargestOwned(shards_, rank);
    const int64_t owned = shards_.OwnedSize(rank);
    const int64_t tokens = input_.micro_batch_size * input_.model.seq_length;
    MemoryPlan plan;
    const auto add = [&](const char* name, const char* group, int64_t elements, int64_t bytes,
                         const char* formula) {
      plan.buffers.push_back({name, group, elements, bytes, formula});
    };
    add("parameters", "parameters", layout_.size(), kFloat, "P (leaf padding included)");
    add("gradients", "gradients", space_.largest_window(), kFloat,
        "of one micro-batch and the layer that has most");
    if (input_.micro_batches_per_atom > 1) {
      add("atom_gradients", "gradients", space_.size(), kFloat,
          "P + second uses of tensors, of one atom");
    }
    add("gradient_sums", "gradients", layout_.size(), sum_bytes,
        input_.fast_sums ? "P, sums over the batch" : "P, exact sums over the batch");
    add("magnitudes", "gradients", static_cast<int64_t>(layout_.entries().size()), kFloat,
        "tensors, the greatest contribution to each");
    add("reduced_gradients", "gradients", owned, kFloat, "owned share of P, rounded once");
    add("adam_m", "optimizer", owned, kFloat, "owned share of P");
    add("adam_v", "optimizer", owned, kFloat, "owned share of P");
    add("save_snapshot", "checkpoint", 3 * owned + static_cast<int64_t>(layout_.entries().size()),
        kFloat,
        "3 x owned share of P + tensors: parameters and moments, written behind the next steps");
    add("reduce_scratch", "communication", largest * (input_.width - 1), sum_bytes,
        "owned share of the largest bucket x other ranks");
    add("leaf_squares", "communication", largest / kLeafElements, kDouble,
        "leaves of the owned share of the largest bucket");
    add("tokens", "activations", 2 * tokens, kFloat, "2 x B x T");
    const std::vector<PlannedBuffer>& lines = activations_.lines();
    plan.buffers.insert(plan.buffers.end(), lines.begin(), lines.end());
    return plan;
  }

 private:
  const MemoryInput input_;
  const ModelPlan model_;
  const FlatLayout layout_;
  const ShardPlan shards_;
  const GradientSpace space_;
  const ActivationPlan activations_;
};

}  // namespace

MemoryPlan PlanMemory(const MemoryInput& input) { return Planner(input).Plan(input.rank); }

std::vector<MemoryPlan> PlanMemoryOfRanks(const MemoryInput& input) {
  const Planner planner(input);
  std::vector<MemoryPlan> plans;
  for (int64_t rank = 0; rank < input.width; ++rank) plans.push_back(planner.Plan(rank));
  return plans;
}

}  // namespace dsrun
