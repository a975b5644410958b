#include "common/plan/gradient_space.h"

#include <algorithm>

namespace dsrun {

GradientSpace::GradientSpace(const ModelPlan& model, const FlatLayout& layout)
    : uses_of_tensor_(layout.trainable_count()) {
  for (const LayerPlan& layer : model.layers) {
    Window window;
    window.begin = size_;
    int64_t elements = 0;
    window.planned_uses = layer.uses.size();
    for (size_t use = 0; use < layer.uses.size(); ++use) {
      const size_t tensor = layer.uses[use];
      if (tensor >= layout.trainable_count()) continue;
      window.uses.push_back({.tensor = tensor, .offset = elements, .use = use});
      elements += layout.entries()[tensor].padded().size();
      ++uses_of_tensor_[tensor];
    }
    size_ += elements;
    largest_window_ = std::max(largest_window_, elements);
    windows_.push_back(std::move(window));
  }
  while (lowest_layer_ + 1 < windows_.size() && windows_[lowest_layer_].uses.empty()) {
    ++lowest_layer_;
  }
  // After the first layer everything is; before it, all that it and those below it do not use.
  int64_t used_below = 0;  // the end of what layers below use
  for (Window& window : windows_) {
    window.final_from = used_below;
    for (const Place& place : window.uses) {
      used_below = std::max(used_below, layout.entries()[place.tensor].padded().end);
    }
  }
}

std::vector<int64_t> GradientSpace::Contributions(int64_t atoms) const {
  std::vector<int64_t> contributions;
  for (const int64_t uses : uses_of_tensor_) contributions.push_back(uses * atoms);
  return contributions;
}

}  // namespace dsrun
