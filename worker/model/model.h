// Model: explicit forward and backward of one micro-batch. Owns no parameter and no gradient:
// arenas are laid out by common/plan and passed in, all of them 64-byte aligned.
//
// Gradient space: flat positions [0, P) are those of the parameters (FlatLayout, P =
// layout.size()). A tensor that is used twice has a second accumulator (docs/numerics.md, rule c):
// the tied head's gradient of wte.weight stands at [P, P + W), W = wte's padded size, element i
// belonging to wte's element i. So gradient_size() = P + W, and backward finishes the space in
// descending order: head use, ln_f, last block ... first block, wpe, wte.
//
// Numerics: every output has the same bits for any thread count and any ISA our loops are compiled
// for. Losses and gradients are plain sums over the micro-batch's unmasked tokens, never divided
// here (rule f).
//
// Threads: one thread at a time; kernels use the thread pool given at construction.

#ifndef DSRUN_WORKER_MODEL_MODEL_H_
#define DSRUN_WORKER_MODEL_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/range.h"
#include "common/model/model_spec.h"

namespace dsrun::worker {

// Called on the way through the model with the next range of parameters or gradients. An error ends
// the pass: it is returned after the transformer block under way at the latest, nothing more is
// called, and what the pass would have written is undefined.
using RangeFn = std::function<absl::Status(Range range)>;

struct LossSum {
  double loss = 0;     // nats, summed over unmasked tokens in a fixed order
  int64_t tokens = 0;  // unmasked tokens
};

class Model {
 public:
  virtual ~Model() = default;

  virtual int64_t gradient_size() const = 0;

  // tokens, targets: (batch, seq_length), row-major; a target below 0 is masked. REQUIRES: all
  // others, and all tokens, are ids of the vocabulary (worker/data/token_ids.h): they are used as
  // offsets. Keeps what Backward needs. Calls `needed(range)` before it reads parameters of a
  // range: ascending, adjacent, covering [0, P). Errors: those of `needed`.
  virtual absl::StatusOr<LossSum> Forward(const float* parameters,  // (P)
                                          const int32_t* tokens,    // (batch, seq_length)
                                          const int32_t* targets,   // (batch, seq_length)
                                          const RangeFn& needed) = 0;

  // Gradients of the last Forward. Overwrites every element of `gradients` exactly once, padding
  // with zeros. Calls `ready(range)` when a range of the gradient space is final: descending,
  // adjacent, covering [0, gradient_size()). Errors: those of `ready`. REQUIRES: Forward was called
  // with the same parameters.
  virtual absl::Status Backward(const float* parameters,  // (P)
                                float* gradients,         // (gradient_size())
                                const RangeFn& ready) = 0;

  // Logits of one position, for sampling: runs tokens (1, length) with length <= seq_length and
  // gives those of the last one. Destroys what Forward kept.
  virtual void NextTokenLogits(const float* parameters, const int32_t* tokens, int64_t length,
                               float* logits) = 0;  // (vocab_size)
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_MODEL_H_
