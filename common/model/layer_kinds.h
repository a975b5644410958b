// The kinds of layers that families are made of: each function plans one layer over tensors of the
// model. Pure. `tensors` are indices into ModelPlan::tensors.

#ifndef DSRUN_COMMON_MODEL_LAYER_KINDS_H_
#define DSRUN_COMMON_MODEL_LAYER_KINDS_H_

#include <cstddef>
#include <optional>
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

// --- Layers that normalise by the root mean square, keep matrices as (outputs, inputs) and rotate
// queries and keys. `optional`: by the kind's Optional, nullopt where the model has none.

// By token_embedding_layer::Use: (vocab_size, width).
LayerPlan TokenEmbeddingLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors);
// By grouped_attention_layer::Use, with a = heads x head size and g = heads of keys x head size:
// (width), (a, width), (g, width), (g, width), (width, a); optional (a), (g), (g), (width), (head
// size), (head size).
LayerPlan GroupedAttentionLayer(const ModelSpec& spec, std::string name,
                                std::vector<size_t> tensors,
                                const std::vector<std::optional<size_t>>& optional);
// By gated_mlp_layer::Use, with f = ffn_hidden_size: (width), (f, width), (f, width), (width, f);
// optional (f), (f), (width).
LayerPlan GatedMlpLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors,
                        const std::vector<std::optional<size_t>>& optional);
// By rms_head_layer::Use: (width), (vocab_size, width).
LayerPlan RmsHeadLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors);

// By rotary_tables::Table: what ModelPlan::tables is where queries and keys are rotated.
std::vector<PlannedActivation> RotaryTables(const ModelSpec& spec);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_LAYER_KINDS_H_
