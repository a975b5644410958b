// Model families and presets as data: shapes, logical tensors, FLOPs. Pure. The launcher plans with
// it, the worker builds from it, a checkpoint is described by it.
//
// GPT-2 (Radford et al., 2019): learned positions, pre-layernorm blocks, tanh-GELU, tied output
// head.

#ifndef DSRUN_COMMON_MODEL_MODEL_SPEC_H_
#define DSRUN_COMMON_MODEL_MODEL_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun {

struct ModelSpec {
  std::string preset;
  int64_t num_layers = 0;
  int64_t hidden_size = 0;
  int64_t num_attention_heads = 0;
  int64_t seq_length = 0;
  int64_t vocab_size = 0;

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

// How a tensor starts.
enum class Init {
  kNormal,          // mean 0, standard deviation 0.02
  kNormalResidual,  // the same divided by sqrt(2 * num_layers): projections that end in the
                    // residual stream
  kZeros,
  kOnes,
};

// One named tensor of the model, whole, whatever the layout: what checkpoints and shard plans speak
// of. Names are those of Hugging Face's GPT-2 ("h.0.attn.c_attn.weight"); weights of linear layers
// are (inputs, outputs).
struct LogicalTensor {
  std::string name;
  std::vector<int64_t> shape;
  Init init = Init::kZeros;
  bool weight_decay = false;  // matrices: yes; biases and layernorm: no

  int64_t size() const;  // elements
};

// What a preset stands for, besides its shape.
struct PresetDefaults {
  int64_t global_batch_size;
  int64_t micro_batch_size;
  double lr;
};

// All known presets, smallest first.
std::vector<std::string> PresetNames();

// Errors: NOT_FOUND: no such preset; the message names all of them.
absl::StatusOr<ModelSpec> FindPreset(const std::string& name);
absl::StatusOr<PresetDefaults> FindPresetDefaults(const std::string& name);

// Errors: INVALID_ARGUMENT: a size below 1, heads that do not divide the width, ... (all findings
// in one message).
absl::Status Validate(const ModelSpec& spec);

// In model order: wte, wpe, h.0.*, ..., ln_f. This is also the order of the parameter arena. The
// output head is tied to wte.weight and is no tensor of its own.
std::vector<LogicalTensor> LogicalTensors(const ModelSpec& spec);

int64_t ParameterCount(const ModelSpec& spec);

// Multiply-adds counted as two, forward and backward, for `tokens` tokens in sequences of
// spec.seq_length.
double TrainFlops(const ModelSpec& spec, int64_t tokens);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_MODEL_SPEC_H_
