// Generate: a sampled continuation of a prompt, byte by byte, with the trainer's own forward pass.

#ifndef DSRUN_WORKER_ENGINE_GENERATE_H_
#define DSRUN_WORKER_ENGINE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "common/model/model_spec.h"
#include "worker/model/model.h"

namespace dsrun::worker {

struct GenerateOptions {
  int64_t length = 200;      // bytes to add
  double temperature = 0.8;  // of the softmax; 0 takes the most likely byte
  uint64_t seed = 0;
  std::function<void()> on_byte = [] {};  // called after each byte that was added
};

// The continuation, without the prompt. Byte i depends on (parameters, prompt, seed, i) only
// (docs/numerics.md, rule g). The model sees the last seq_length bytes. An empty prompt begins with
// a line break. Destroys what the model's last Forward kept. REQUIRES: the vocabulary has all bytes
// (Validate of model_spec.h sees to it).
std::string Generate(Model& model, const ModelSpec& spec, const float* parameters,
                     const std::string& prompt, const GenerateOptions& options);

// The byte that `uniform` in [0, 1) draws from softmax(logits / temperature).
int32_t SampleByte(std::span<const float> logits, double temperature, double uniform);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_GENERATE_H_
