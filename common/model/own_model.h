// A model that a program declares itself, layer by layer, instead of naming a family: what its
// layers have, keep and need, as data, from which PlanOwnModel makes the ModelPlan that plans,
// engine and checkpoints work from. What the layers compute is the program's (worker/api). Pure.
//
// Layers stand along one stream, as those of all models: (rows, width) floats, where `width` is
// that of the widest layer. A layer that gives fewer floats a row uses the first rows x out of it,
// densely.

#ifndef DSRUN_COMMON_MODEL_OWN_MODEL_H_
#define DSRUN_COMMON_MODEL_OWN_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_plan.h"

namespace dsrun {

struct LayerDescription {
  std::string name;  // "hidden.0": letters, digits, '.', '-' and '_'; each once in a model
  // Floats of a row that it takes from the layer before, and gives on. The first layer takes the
  // inputs of the sample: inputs_of_row, or 0 where they are ids. Of the last `out` means nothing.
  int64_t in = 0;
  int64_t out = 0;
  // Its own parameters, whole and trainable, in the order in which Pass::parameters and
  // Pass::gradients have them. Names as those of layers, each once in a model: they are those of
  // checkpoints.
  std::vector<LogicalTensor> tensors = {};
  // Parameters of layers before it, by name, behind its own: every use is a contribution of its own
  // to the gradient.
  std::vector<std::string> shared = {};
  std::vector<PlannedActivation> kept = {};       // from forward to backward
  std::vector<PlannedActivation> workspace = {};  // inside one pass through the layer
  // Forward, multiply-adds counted as two; for reports alone. 0: not said.
  double flops_of_row = 0;
  // kOwn, or kAttention or kMlp of layer_plan.h, which take and give the model's width and keep
  // what they need.
  LayerKind kind = LayerKind::kOwn;
};

struct ModelDescription {
  std::string name;  // as those of layers; a checkpoint says it
  int64_t rows = 1;  // of a sample
  SampleShape sample = {};
  int64_t outputs = 1;                   // floats that the last layer gives for a row
  int64_t heads = 1;                     // of attention layers
  std::vector<LayerDescription> layers;  // the last one gives the loss
};

// Errors: INVALID_ARGUMENT: a size below 1 or beyond all reason, a name twice or of other
// characters, a shared tensor that no layer before has, a layer that takes another width than the
// one before gives, nothing to train; the message names the layer.
absl::StatusOr<ModelPlan> PlanOwnModel(const ModelDescription& model);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_OWN_MODEL_H_
