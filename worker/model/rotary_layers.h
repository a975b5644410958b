// The layers that normalise by the root mean square, keep matrices as (outputs, inputs) and rotate
// queries and keys (common/model/layer_plan.h); their head stands with the other in layers.cc.

#ifndef DSRUN_WORKER_MODEL_ROTARY_LAYERS_H_
#define DSRUN_WORKER_MODEL_ROTARY_LAYERS_H_

#include <memory>

#include "common/model/model_spec.h"
#include "worker/model/layer.h"

namespace dsrun::worker {

// `spec` must outlive what is created.
std::unique_ptr<Layer> CreateTokenEmbedding(const ModelSpec& spec);
std::unique_ptr<Layer> CreateGroupedAttention(const ModelSpec& spec);
std::unique_ptr<Layer> CreateGatedMlp(const ModelSpec& spec);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_ROTARY_LAYERS_H_
