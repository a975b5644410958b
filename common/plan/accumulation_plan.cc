#include "common/plan/accumulation_plan.h"

#include <algorithm>

namespace dsrun {
namespace {

// Hands out the lowest free buffer number, so that few are needed.
class BufferPool {
 public:
  int Take() {
    const auto free = std::find(used_.begin(), used_.end(), false);
    const int buffer = static_cast<int>(free - used_.begin());
    if (free == used_.end()) {
      used_.push_back(true);
    } else {
      *free = true;
    }
    return buffer;
  }
  void GiveBack(int buffer) { used_[static_cast<size_t>(buffer)] = false; }
  int count() const { return static_cast<int>(used_.size()); }

 private:
  std::vector<bool> used_;
};

// True when left and right are the two children of one node of the tree over [0, blocks).
bool AreSiblings(Range left, Range right, int64_t blocks) {
  Range node{0, blocks};
  while (node.size() > 1) {
    if (LeftChild(node) == left) return RightChild(node) == right;
    node = left.begin < LeftChild(node).end ? LeftChild(node) : RightChild(node);
  }
  return false;
}

struct Partial {
  Range node;
  int buffer;
};

}  // namespace

AccumulationPlan PlanAccumulation(const BatchPlan& batch, int64_t rank) {
  AccumulationPlan plan;
  BufferPool pool;
  std::vector<Partial> partials;  // finished nodes, ascending
  const auto add = [&](int into, int from) {
    plan.steps.back().adds.push_back({into, from});
    pool.GiveBack(from);
  };
  const Range blocks = batch.RankBlocks(rank);
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    const Range micro_batches = batch.BlockMicroBatches(block);
    const int sum = pool.Take();
    plan.steps.push_back({micro_batches.begin, sum, {}});
    for (int64_t micro_batch = micro_batches.begin + 1; micro_batch < micro_batches.end;
         ++micro_batch) {
      const int fresh = pool.Take();
      plan.steps.push_back({micro_batch, fresh, {}});
      add(sum, fresh);
    }
    partials.push_back({{block, block + 1}, sum});
    while (partials.size() > 1) {
      const Partial right = partials.back();
      Partial& left = partials[partials.size() - 2];
      if (!AreSiblings(left.node, right.node, batch.blocks())) break;
      add(left.buffer, right.buffer);
      left.node.end = right.node.end;
      partials.pop_back();
    }
  }
  for (const Partial& partial : partials) plan.node_buffers.push_back(partial.buffer);
  plan.buffer_count = pool.count();
  return plan;
}

}  // namespace dsrun
