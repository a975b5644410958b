// Layers that many models need, ready to be put between one's own.

#ifndef DSRUN_WORKER_API_LAYERS_H_
#define DSRUN_WORKER_API_LAYERS_H_

#include <cstdint>
#include <string>

#include "worker/api/model.h"

namespace dsrun {

enum class Activation {
  kNone,
  kGelu,  // in its tanh form (Hendrycks and Gimpel, 2016)
};

// out = activation(in w + bias): NAME.weight (in, out), normal with a standard deviation of 1 /
// sqrt(in), which decays, and NAME.bias (out), zeros, which does not. As the first layer its `in`
// are the inputs of the sample, which are floats.
OwnLayer Dense(std::string name, int64_t in, int64_t out, Activation activation);

// The two halves of a transformer's block, pre-norm with a residual (common/model/layer_plan.h):
// causal attention over the rows of a sample, and an MLP four times as wide. `width` is the
// model's, and `layers` the number of both halves together in it, which makes the first values of
// what is added to the stream smaller.
OwnLayer AttentionBlock(std::string name, int64_t width, int64_t layers);
OwnLayer MlpBlock(std::string name, int64_t width, int64_t layers);

// Loss of a row: cross-entropy of the softmax of `classes` numbers with the class that is its
// target, in nats. Its outputs are the numbers before the softmax. No tensors.
OwnHead SoftmaxCrossEntropy(std::string name, int64_t classes);
// Loss of a row: half the sum over `outputs` numbers of the squared difference from its targets,
// which are floats. Its outputs are the numbers. No tensors.
OwnHead SquaredError(std::string name, int64_t outputs);

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_LAYERS_H_
