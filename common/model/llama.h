// Llama (Touvron et al., 2023) and those made like it: rotary positions, RMSNorm before every
// branch, a gated MLP (SwiGLU), keys and values shared by groups of heads. By what a spec has, the
// plan is that of Llama 2 and 3 (also with all biases), Mistral (a sliding window), Qwen 2 and 2.5
// (biases of queries, keys and values), Qwen 3 (normalised queries and keys). Tensors have Hugging
// Face's names, and its orientation: (outputs, inputs). Pure.

#ifndef DSRUN_COMMON_MODEL_LLAMA_H_
#define DSRUN_COMMON_MODEL_LLAMA_H_

#include <vector>

#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/model/presets.h"

namespace dsrun {

// REQUIRES: Validate(spec).
ModelPlan PlanLlama(const ModelSpec& spec);

// Smallest first. llama-nano is ours, a byte-level model beside gpt2-nano. llama-135m has the shape
// of SmolLM2-135M, llama-1b that of Llama 3.2 1B, llama-7b and llama-70b those of Llama 2.
std::vector<Preset> LlamaPresets();

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_LLAMA_H_
