// The gradient space: where backward writes the gradient of one micro-batch. Pure.
//
//   [0, P)        the gradient of parameter arena element i at i        (P = layout.size())
//   [P, P + W)    the tied head's gradient of wte.weight element i at P + i
//
// A tensor that is used twice has one place a use: backward overwrites (Kernels' rule), and each
// use is a contribution of its own to the tensor's exact sum (docs/numerics.md).

#ifndef DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_
#define DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_

#include <cstdint>
#include <vector>

#include "common/base/range.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

class GradientSpace {
 public:
  // `layout` must outlive this. wte.weight is the layout's first tensor.
  explicit GradientSpace(const FlatLayout& layout);

  int64_t size() const { return layout_.size() + tied_.size(); }
  const FlatLayout& layout() const { return layout_; }
  // Arena range of the tensor that is used twice.
  Range tied() const { return tied_; }
  // Where in the arena `range` belongs, which does not cross layout.size().
  Range ArenaRange(Range range) const;
  // What the tensors get from `atoms` of a batch, in layout order: one for each use of each atom.
  std::vector<int64_t> Contributions(int64_t atoms) const;

 private:
  const FlatLayout& layout_;
  Range tied_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_
