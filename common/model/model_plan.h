// ModelPlan: a model as a list of layers and tensors, made from its shape by its family's file
// (gpt2.cc, llama.cc), or from what a program declares (own_model.h). Pure. Nothing else knows a
// family: the launcher plans with this, the worker builds from it, a checkpoint is described by it.

#ifndef DSRUN_COMMON_MODEL_MODEL_PLAN_H_
#define DSRUN_COMMON_MODEL_MODEL_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/dtype.h"
#include "common/model/layer_plan.h"
#include "common/model/logical_tensor.h"
#include "common/model/model_spec.h"

namespace dsrun {

// What a sample is made of. It has spec.seq_length rows, of a language model its tokens. All its
// elements have four bytes: ids, as int32, or floats.
struct SampleShape {
  enum class Elements { kIds, kFloats };

  Elements inputs = Elements::kIds;
  int64_t inputs_of_row = 1;
  int64_t input_ids = 0;  // of kIds: from 0 to one less; 0: spec.vocab_size of them
  Elements targets = Elements::kIds;
  int64_t targets_of_row = 1;
  // Likewise. A row whose first target is an id below 0 is masked: it has no loss. 0: as above.
  int64_t target_ids = 0;

  friend bool operator==(const SampleShape&, const SampleShape&) = default;
};

struct ModelPlan {
  ModelSpec spec;
  // Each once, in the order in which the layers first use them: the order of the parameter arena.
  // Where some are frozen, all trainable ones come first, so that gradients, their sums and the
  // optimizer's state cover a prefix of it.
  std::vector<LogicalTensor> tensors;
  // From the tokens to the loss. A tensor may be used by several: every use is a contribution of
  // its own to its gradient.
  std::vector<LayerPlan> layers;
  // Computed from the spec alone, for all layers and passes (rotary.h), by rotary_tables::Table;
  // none where nothing is rotated.
  std::vector<PlannedActivation> tables = {};
  // What it computes in: of the stream between layers, of what they keep and need, and of the
  // parameters that they read. kF32, kBF16 or kF16.
  DType dtype = DType::kF32;
  SampleShape sample = {};

  // Elements of one sample.
  int64_t InputsOfSample() const { return spec.seq_length * sample.inputs_of_row; }
  int64_t TargetsOfSample() const { return spec.seq_length * sample.targets_of_row; }
};

// REQUIRES: Validate(spec).
ModelPlan PlanModel(const ModelSpec& spec);

// The same with these tensors frozen, by name. REQUIRES: CheckFrozen.
ModelPlan PlanModel(const ModelSpec& spec, const std::vector<std::string>& frozen,
                    DType dtype = DType::kF32);
// Errors: INVALID_ARGUMENT: a name that the model does not have, or twice; nothing is left to
// train.
absl::Status CheckFrozen(const ModelSpec& spec, const std::vector<std::string>& frozen);

// PlanModel(spec).tensors.
std::vector<LogicalTensor> LogicalTensors(const ModelSpec& spec);
int64_t ParameterCount(const ModelSpec& spec);

// Multiply-adds counted as two, forward and backward, for `tokens` tokens in sequences of
// spec.seq_length.
double TrainFlops(const ModelSpec& spec, int64_t tokens);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_MODEL_PLAN_H_
