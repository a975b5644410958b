// A model of one's own: a list of layers. A layer is what it has, keeps and needs, as data
// (LayerDescription), and a class with Forward and Backward (Layer), which computes on what a Pass
// brings: parameters and gradients in the order of its tensors, what it keeps and its workspace in
// the order in which they are described. Memory of size comes from there alone; the memory plan has
// counted it.
//
// What a layer promises, so that the curve is the same at every number of ranks (docs/numerics.md):
//   - Forward and Backward are functions of what the Pass and the stream bring: no clock, no state
//     of their own from call to call, nothing that knows the rank or the number of threads. Random
//     bits come from Pass::Mask, or from its key by index (common/numerics/dropout.h).
//   - Backward overwrites every gradient of its tensors, whole, with the plain sum over the rows of
//     the pass, in one order; it divides by nothing. pass.gradients has none that is null.
//   - dstream goes from the gradient of `out` to that of `in` in place; the first layer, whose `in`
//     is null and which reads pass.Inputs() or pass.tokens, leaves it alone.
//   - The last layer (Head) writes the loss of each row to pass.losses in Backward and in Loss: 0
//     for a row that is masked.
// CheckGradients (gradient_check.h) holds the second half of this against finite differences.
//
// Precision is fp32. The device is the CPU, on which all of a Kernels' call is done when it
// returns, so a layer's own loops may stand between them.

#ifndef DSRUN_WORKER_API_MODEL_H_
#define DSRUN_WORKER_API_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/own_model.h"
#include "worker/engine/engine_factory.h"
#include "worker/model/layer.h"

namespace dsrun {

using worker::ConstReals;
using worker::Head;
using worker::Layer;
using worker::Pass;
using worker::Reals;

struct OwnModel;

struct OwnLayer {
  LayerDescription plan;
  std::function<std::unique_ptr<Layer>()> make;  // unless plan.kind is one of the engine's
};

struct OwnHead {
  LayerDescription plan;
  std::function<std::unique_ptr<Head>()> make;
  // Whether the model's targets and outputs are what it works with; empty: it takes any.
  std::function<absl::Status(const OwnModel&)> check = nullptr;
};

struct OwnModel {
  std::string name;  // in checkpoints: another name is another model
  int64_t rows = 1;  // of a sample: the steps of a sequence, the patches of an image
  SampleShape sample = {};
  int64_t outputs = 1;  // that the head gives for a row: classes, or numbers
  int64_t heads = 1;    // of attention blocks
  std::vector<OwnLayer> layers;
  OwnHead head;
};

// One sample, to be filled: of inputs and targets each the one span that is as SampleShape says;
// the other is empty.
struct Sample {
  std::span<float> inputs = {};        // (rows, inputs_of_row)
  std::span<int32_t> input_ids = {};   // the same
  std::span<float> targets = {};       // (rows, targets_of_row)
  std::span<int32_t> target_ids = {};  // the same; a row whose first is below 0 is masked
};

// Fills sample `index`, all of it. A pure function of the index: it is called on whichever rank has
// to do with the sample, again where a step is computed again, and after a restart with the index
// at which the checkpoint stood. That is how a batch is the same whatever the number of ranks.
// Called by one thread at a time in a process.
using SampleFn = std::function<void(int64_t index, const Sample& sample)>;

// What plans and engine take. Errors: those of PlanOwnModel and of the head's check;
// INVALID_ARGUMENT: a layer has no function that makes it.
absl::StatusOr<worker::OwnModel> PlanModel(const OwnModel& model);

// What the trainer calls.
std::function<void(int64_t index, std::span<int32_t> inputs, std::span<int32_t> targets)>
SampleWords(const SampleShape& shape, SampleFn sample);

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_MODEL_H_
