// The gradient space: where gradients stand while they are summed, and who owns which part. Pure.
//
//   [0, P)        the gradient of parameter arena element i at i        (P = layout.size())
//   [P, P + W)    the tied head's gradient of wte.weight element i at P + i
//
// A tensor that is used twice has one accumulator per use, joined only when both sums are complete
// (docs/numerics.md, rule c); else a pipeline that holds the two uses on different stages could not
// equal no pipeline. Both uses of an element have the same owner, who joins them. Buckets are cut
// from the end to the start: the order in which backward finishes them.

#ifndef DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_
#define DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_

#include <cstdint>
#include <vector>

#include "common/base/range.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

// Gradient bytes that are reduced together, unless the user says otherwise: an eighth of the model,
// so that about 7/8 of the reduction can hide behind the backward pass, but messages that are
// neither dominated by latency (256 KiB) nor late in starting (25 MiB).
int64_t DefaultBucketBytes(int64_t parameter_count);

class GradientSpace {
 public:
  // `layout` and `shards` must outlive this. wte.weight is the layout's first tensor.
  GradientSpace(const FlatLayout& layout, const ShardPlan& shards, int64_t bucket_bytes);

  int64_t size() const { return layout_.size() + tied_.size(); }
  const FlatLayout& layout() const { return layout_; }
  const ShardPlan& shards() const { return shards_; }
  // Arena range of the tensor that is used twice; its second accumulator stands layout.size()
  // above.
  Range tied() const { return tied_; }

  // Descending, adjacent, covering [0, size()); none crosses layout.size().
  const std::vector<Range>& buckets() const { return buckets_; }
  // What every rank owns inside `within` (which does not cross layout.size()); index = rank.
  std::vector<std::vector<Range>> OwnedByRank(Range within) const;
  int64_t OwnedSize(int64_t rank, Range within) const;  // elements

 private:
  const FlatLayout& layout_;
  const ShardPlan& shards_;
  Range tied_;
  std::vector<Range> buckets_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_
