// The kinds of layers that families are made of: each function plans one layer over tensors of the
// model. Pure. `tensors` are indices into ModelPlan::tensors.

#ifndef DSRUN_COMMON_MODEL_LAYER_KINDS_H_
#define DSRUN_COMMON_MODEL_LAYER_KINDS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "common/model/layer_plan.h"
#include "common/model/model_spec.h"

namespace dsrun {

// By embedding_layer::Use: (vocab_size, width), (seq_length, width).
LayerPlan EmbeddingLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors);
// By attention_layer::Use: (width), (width), (width, 3 width), (3 width), (width, width), (width).
LayerPlan AttentionLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors);
// By mlp_layer::Use: (width), (width), (width, 4 width), (4 width), (4 width, width), (width).
LayerPlan MlpLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors);
// By head_layer::Use: (width), (width), (vocab_size, width).
LayerPlan HeadLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_LAYER_KINDS_H_
