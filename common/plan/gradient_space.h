// The gradient space: where backward writes gradients. Pure.
//
// Every use of a tensor by a layer has a place of its own, of its own size up to whole leaves; the
// uses of a layer lie next to each other, in its order: its window. Backward overwrites (Kernels'
// rule) and works on one layer at a time, so the fresh gradient is one window, as large as the
// largest of all layers. Where an atom is several micro-batches their sum has the whole space, one
// window a layer.
//
// A tensor that is used twice gets a contribution from each use (docs/numerics.md), a frozen one
// has no place.

#ifndef DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_
#define DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/model/model_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

class GradientSpace {
 public:
  struct Place {
    size_t tensor;   // entry of the layout
    int64_t offset;  // elements, in the layer's window
    size_t use = 0;  // of the layer's plan
  };

  // REQUIRES: layout is that of model.tensors.
  GradientSpace(const ModelPlan& model, const FlatLayout& layout);

  size_t layers() const { return windows_.size(); }
  // Of trainable tensors, in the order of the layer's uses.
  const std::vector<Place>& uses(size_t layer) const { return windows_[layer].uses; }
  // Uses of the layer's plan, those of frozen tensors included.
  size_t planned_uses(size_t layer) const { return windows_[layer].planned_uses; }
  // Below it nothing wants a gradient: backward ends with it.
  size_t lowest_layer() const { return lowest_layer_; }
  // Of the layer's window in the whole space.
  int64_t window_begin(size_t layer) const { return windows_[layer].begin; }
  int64_t largest_window() const { return largest_window_; }  // elements
  int64_t size() const { return size_; }                      // of the whole space
  // From this position of the arena up no layer below `layer` uses anything: once backward has done
  // `layer`, all of it is final.
  int64_t FinalFrom(size_t layer) const { return windows_[layer].final_from; }
  // What the trainable tensors get from `atoms` of a batch, in layout order: one for each use of
  // each atom.
  std::vector<int64_t> Contributions(int64_t atoms) const;

 private:
  struct Window {
    std::vector<Place> uses;
    size_t planned_uses = 0;
    int64_t begin = 0;
    int64_t final_from = 0;
  };
  std::vector<Window> windows_;
  std::vector<int64_t> uses_of_tensor_;  // in layout order
  size_t lowest_layer_ = 0;
  int64_t largest_window_ = 0;
  int64_t size_ = 0;
};

// Of the memory that windows lie in: enough for the warm-up (worker/engine/warm_up.h), too, which
// works in it before the first step and needs a row of five times the stream's width.
inline int64_t WindowElements(const GradientSpace& space, int64_t width) {
  return std::max(space.largest_window(), 5 * width);
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_GRADIENT_SPACE_H_
