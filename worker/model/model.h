// Model: plays the layers of a ModelPlan, forward and backward. Owns no parameter and no gradient
// (pass_memory.h); activations and workspace are one arena, laid out by common/plan, taken at
// construction; nothing is allocated afterwards.
//
// A slot names a micro-batch in flight, from its Forward to its Backward.
//
// Layers that ActivationInput::recompute names keep their segment's input alone; Backward plays the
// segment forward again before it, each layer between an Acquire and a Release of its own. No bit
// depends on it.
//
// Threads: one thread at a time.

#ifndef DSRUN_WORKER_MODEL_MODEL_H_
#define DSRUN_WORKER_MODEL_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_plan.h"
#include "common/numerics/dropout.h"
#include "common/plan/activation_plan.h"
#include "worker/device/device.h"
#include "worker/device/kernels.h"
#include "worker/model/layer.h"
#include "worker/model/pass_memory.h"

namespace dsrun::worker {

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelPlan& plan() const = 0;

  // From the next Backward on gradients come multiplied by this power of two (a loss scale). 1 at
  // first.
  virtual void SetGradientScale(float scale) = 0;

  // tokens, targets: of the host, (micro_batch_size, seq_length), row-major, copied; a target below
  // 0 is masked. Of other samples, what plan().sample says. The caller has begun the store's pass.
  // REQUIRES: all others, and all tokens, are ids of the vocabulary (worker/data/token_ids.h): they
  // are used as offsets. `draws`: where its random bits come from; the pass of a slot keeps them
  // for its Backward. Errors: those of the store.
  virtual absl::Status Forward(size_t slot, const int32_t* tokens, const int32_t* targets,
                               const std::optional<PassDraws>& draws,
                               ParameterStore& parameters) = 0;
  // Outside of training: nothing is dropped.
  absl::Status Forward(size_t slot, const int32_t* tokens, const int32_t* targets,
                       ParameterStore& parameters) {
    return Forward(slot, tokens, targets, std::nullopt, parameters);
  }

  // Of the last Forward in `slot`, with the same parameters: its loss, and every gradient exactly
  // once. Errors: those of the store and of the sink; what the pass would have written is undefined
  // then.
  virtual absl::StatusOr<LossSum> Backward(size_t slot, ParameterStore& parameters,
                                           GradientSink& gradients) = 0;

  // The loss alone: after Forward in `slot`, in place of Backward. Errors: those of the store.
  virtual absl::StatusOr<LossSum> Loss(size_t slot, ParameterStore& parameters) = 0;

  // After Forward in `slot`, in place of Backward: the first layer whose output has something that
  // is not finite; the last one, where no other's has. Of layers that are computed again, the
  // output of each segment alone is still there. For people, when a loss is not finite.
  virtual absl::StatusOr<size_t> FirstBadLayer(size_t slot) = 0;

  // What the head gives for every row, (rows, vocab_size), to the host: after Forward in `slot`, in
  // place of Backward. Errors: those of the store and the device.
  virtual absl::Status Outputs(size_t slot, ParameterStore& parameters, float* out) = 0;

  // Logits (vocab_size) of one position, for sampling: runs tokens (1, length) with length <=
  // seq_length and gives those of the last one. Uses slot 0. Nothing is dropped.
  virtual absl::Status NextTokenLogits(const int32_t* tokens, int64_t length,
                                       ParameterStore& parameters, float* logits) = 0;
};

// Makes the layers of kind kOwn; the engine makes those of all other kinds (CreateLayer).
struct LayerFactory {
  std::function<std::unique_ptr<Layer>(size_t layer)> layer;
  std::function<std::unique_ptr<Head>()> head;  // the last one
};

// Of a plan that no spec says (common/model/own_model.h). What `own` makes must live by itself.
// Errors: as below; INVALID_ARGUMENT: a layer that `own` does not make.
absl::StatusOr<std::unique_ptr<Model>> CreateModel(ModelPlan plan, const LayerFactory& own,
                                                   const ActivationInput& input, Kernels& kernels,
                                                   Device& device);

// `dtype`: what it computes in. `kernels` and `device` must outlive the model. `input.threads`:
// those of the pool behind the kernels; the plan holds scratch for each. Errors: INVALID_ARGUMENT:
// the spec is not valid, a size below 1, or CheckRecompute; RESOURCE_EXHAUSTED: the activations do
// not fit.
absl::StatusOr<std::unique_ptr<Model>> CreateModel(const ModelSpec& spec,
                                                   const ActivationInput& input, Kernels& kernels,
                                                   Device& device, DType dtype = DType::kF32);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_MODEL_H_
