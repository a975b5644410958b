// ModelSpec: the shape of a model, as data. Pure. What it is made of: model_plan.h; shapes with a
// name: presets.h.

#ifndef DSRUN_COMMON_MODEL_MODEL_SPEC_H_
#define DSRUN_COMMON_MODEL_MODEL_SPEC_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace dsrun {

struct ModelSpec {
  std::string preset;
  int64_t num_layers = 0;  // transformer blocks
  int64_t hidden_size = 0;
  int64_t num_attention_heads = 0;
  int64_t seq_length = 0;
  int64_t vocab_size = 0;

  // Which file plans it (model_plan.h). What follows is what families differ in (spec_fields.h):
  // left as it is where a family has no such thing.
  std::string family = "gpt2";
  int64_t query_groups = 0;     // heads of keys and values; 0: as many as of queries
  int64_t head_channels = 0;    // width of a head; 0: hidden_size / num_attention_heads
  int64_t ffn_hidden_size = 0;  // width inside the MLP
  int64_t window = 0;           // keys that a query sees, itself the last one; 0: all before it
  double norm_epsilon = 0;
  bool untied_output = false;  // the output head has a table of its own
  bool qkv_bias = false;
  bool attention_out_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // queries and keys are normalised, head by head, before they are rotated

  // Rotary positions (rotary.h).
  double rope_base = 0;
  std::string rope_scaling = {};  // "", "linear", "llama3" or "yarn"
  double rope_factor = 0;         // how many times longer than it was the context is
  // How often a frequency must turn over the original context: below the first it is divided by the
  // factor, above the second it stays, in between it is both in part.
  double rope_low_turns = 0;
  double rope_high_turns = 0;
  int64_t rope_original_length = 0;
  double rope_magnitude = 0;  // of "yarn": what sines and cosines are multiplied by; 0: its formula

  int64_t heads_of_keys() const { return query_groups > 0 ? query_groups : num_attention_heads; }
  int64_t head_size() const {
    return head_channels > 0 ? head_channels : hidden_size / num_attention_heads;
  }

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

// The family of all models that programs declare themselves (own_model.h).
inline constexpr char kOwnFamily[] = "own";

// Whether there is a file that plans models of this family. Others are models of programs of their
// own (own_model.h), and of newer versions: a spec alone does not say what they are made of.
bool IsPlannedFamily(const std::string& family);

// One shape has one spec: what equals the value that 0 stands for becomes 0.
ModelSpec Canonical(ModelSpec spec);

// Errors: INVALID_ARGUMENT: no such family, a size below 1 or beyond all reason, a vocabulary below
// 2, heads that do not divide the width, something that the family does not have, ... (all findings
// in one message).
absl::Status Validate(const ModelSpec& spec);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_MODEL_SPEC_H_
