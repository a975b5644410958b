// The model of this example: radial units, two dense layers, a softmax over the spirals.

#ifndef DSRUN_EXAMPLES_SPIRALS_SPIRALS_MODEL_H_
#define DSRUN_EXAMPLES_SPIRALS_SPIRALS_MODEL_H_

#include <cstdint>

#include "examples/spirals/radial_layer.h"
#include "examples/spirals/spirals.h"
#include "worker/api/layers.h"

namespace dsrun::examples {

inline OwnModel SpiralsModel(int64_t hidden) {
  OwnModel model;
  model.name = "spirals";
  model.sample = {.inputs = SampleShape::Elements::kFloats,
                  .inputs_of_row = 2,
                  .targets = SampleShape::Elements::kIds,
                  .target_ids = kSpirals};
  model.outputs = kSpirals;
  model.layers = {Radial("radial", 2, hidden, 1.5),
                  Dense("hidden", hidden, hidden, Activation::kGelu),
                  Dense("scores", hidden, kSpirals, Activation::kNone)};
  model.head = SoftmaxCrossEntropy("loss", kSpirals);
  return model;
}

}  // namespace dsrun::examples

#endif  // DSRUN_EXAMPLES_SPIRALS_SPIRALS_MODEL_H_
