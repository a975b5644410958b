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

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

// Errors: INVALID_ARGUMENT: a size below 1 or beyond all reason, a vocabulary below 2, heads that
// do not divide the width, ... (all findings in one message).
absl::Status Validate(const ModelSpec& spec);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_MODEL_SPEC_H_
