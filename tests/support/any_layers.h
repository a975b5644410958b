// A model that is nothing but tensors and who uses them, for tests of what is planned over both.

#ifndef DSRUN_TESTS_SUPPORT_ANY_LAYERS_H_
#define DSRUN_TESTS_SUPPORT_ANY_LAYERS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_plan.h"

namespace dsrun {

// Vectors of these sizes. Any layer may use any of them, in any order; uses[layer] says which.
inline ModelPlan AnyLayers(const std::vector<int64_t>& sizes,
                           const std::vector<std::vector<size_t>>& uses) {
  ModelPlan plan;
  for (const int64_t size : sizes) {
    plan.tensors.push_back({.name = "t" + std::to_string(plan.tensors.size()), .shape = {size}});
  }
  for (const std::vector<size_t>& of_layer : uses) {
    plan.layers.push_back({.kind = LayerKind::kMlp,
                           .name = "layer",
                           .uses = of_layer,
                           .kept = {},
                           .workspace = {},
                           .flops_of_token = 0});
  }
  return plan;
}

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_ANY_LAYERS_H_
