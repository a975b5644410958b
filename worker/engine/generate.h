// Generate: a sampled continuation of a prompt, byte by byte, with the trainer's own forward pass.

#ifndef DSRUN_WORKER_ENGINE_GENERATE_H_
#define DSRUN_WORKER_ENGINE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/model.h"

namespace dsrun::worker {

struct GenerateOptions {
  int64_t length = 200;      // bytes to add
  double temperature = 0.8;  // of the softmax; 0 takes the most likely byte
  uint64_t seed = 0;
  std::function<void()> on_byte = [] {};  // called after each byte that was added
  // Asked before each byte; true: there are no more. Its errors end it.
  std::function<absl::StatusOr<bool>()> stopped = [] { return false; };
};

// The continuation, without the prompt. Byte i depends on (parameters, prompt, seed, i) only
// (docs/numerics.md, rule g). The model sees the last seq_length bytes. An empty prompt begins with
// a line break, or what the vocabulary has last before it. Where the vocabulary has fewer ids than
// there are bytes, those bytes are never drawn. Destroys what the model's last Forward kept.
// Errors: INVALID_ARGUMENT: the prompt has a byte that the vocabulary lacks; those of the store and
// of `stopped`.
absl::StatusOr<std::string> Generate(Model& model, ParameterStore& parameters,
                                     const std::string& prompt, const GenerateOptions& options);

// The byte that `uniform` in [0, 1) draws from softmax(logits / temperature).
int32_t SampleByte(std::span<const float> logits, double temperature, double uniform);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_GENERATE_H_
