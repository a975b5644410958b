// Where the parameters of a pass come from and its gradients go: the two doors between a model,
// which plays layers, and whoever holds memory. Gathering, releasing, offloading, reducing and
// cancelling stand behind them and nowhere else.
//
// Threads: called by the one that plays the model.

#ifndef DSRUN_WORKER_MODEL_PASS_MEMORY_H_
#define DSRUN_WORKER_MODEL_PASS_MEMORY_H_

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/plan/gather_plan.h"
#include "worker/device/reals.h"

namespace dsrun::worker {

class ParameterStore {
 public:
  virtual ~ParameterStore() = default;

  // A pass begins: its layers are acquired in their order (gather_plan.h), each once more where
  // the kind says so. A pass that has failed needs no end.
  virtual void BeginPass(PassKind) {}
  // Before `layer` is played, forward or backward: the tensors that it uses, in the order of its
  // plan, whole, until Release. Errors end the pass.
  virtual absl::StatusOr<std::span<const ConstReals>> Acquire(size_t layer) = 0;
  // The layer was played.
  virtual void Release(size_t layer) = 0;
};

class GradientSink {
 public:
  virtual ~GradientSink() = default;

  // Below this layer nothing wants a gradient: backward ends with it.
  virtual size_t lowest_layer() const { return 0; }
  // Where backward of `layer` writes the gradients of its uses, each of the tensor's size; null:
  // not wanted (a frozen tensor).
  virtual std::span<float* const> Begin(size_t layer) = 0;
  // They are written. From the last layer to the lowest. Errors end the pass.
  virtual absl::Status End(size_t layer) = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_PASS_MEMORY_H_
