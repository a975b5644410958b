// GPT-2 (Radford et al., 2019): learned positions, layernorm before every branch, tanh-GELU, output
// head tied to the token table. Tensors have Hugging Face's names; weights of linear layers are
// (inputs, outputs). Pure.

#ifndef DSRUN_COMMON_MODEL_GPT2_H_
#define DSRUN_COMMON_MODEL_GPT2_H_

#include <vector>

#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/model/presets.h"

namespace dsrun {

// REQUIRES: Validate(spec).
ModelPlan PlanGpt2(const ModelSpec& spec);

// Smallest first. gpt2-nano is ours: a byte-level model that learns on two cores in a minute. The
// others have the shapes published with GPT-2 (124M, 350M, 774M and 1558M parameters) and GPT-3
// (175B), whose sparse attention in every other layer is dense here.
std::vector<Preset> Gpt2Presets();

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_GPT2_H_
