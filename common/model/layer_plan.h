// LayerPlan: what one layer of a model has, keeps, needs and costs, as data. Pure. The memory plan,
// the arenas, initialisation, names and FLOP counts come from these; the worker has one class for
// each kind (worker/model).
//
// A model is a list of layers along one residual stream, (rows, width): every layer takes the
// stream and gives it on, so a pipeline can cut between any two. `rows` counts the tokens of one
// micro-batch.
//
// The enumerations below are the order of a kind's uses, kept activations and workspace: the plan
// writes the lists in that order, and the worker's layer reads them by it.

#ifndef DSRUN_COMMON_MODEL_LAYER_PLAN_H_
#define DSRUN_COMMON_MODEL_LAYER_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/dtype.h"

namespace dsrun {

// A tile of attention scores: constants of the model, never of the memory at hand
// (docs/numerics.md, rules a and b).
inline constexpr int64_t kAttentionQueries = 32;
inline constexpr int64_t kAttentionKeys = 256;

// Rows of logits that exist at a time, a constant likewise: for a vocabulary of 50,257 they take
// 98 MiB, and the product is still large enough for its library.
inline constexpr int64_t kHeadRows = 512;

// Floats that attention needs per thread: two tiles, two operands by column, and two numbers per
// query.
constexpr int64_t AttentionScratch(int64_t head_size) {
  return 2 * kAttentionQueries * (kAttentionKeys + head_size + 1);
}

// What it needs besides where the model computes in 16 bits: eight matrices of a head in fp32.
constexpr int64_t HalfAttentionScratch(int64_t head_size, int64_t seq_length) {
  return 8 * seq_length * head_size;
}

// Elements from one row of logits to the next: rows begin on 64 bytes.
constexpr int64_t LogitsStride(int64_t vocab_size) { return (vocab_size + 15) / 16 * 16; }

enum class LayerKind {
  kEmbedding,         // tokens -> stream: token and learned position
  kAttention,         // stream + projection(attention(qkv(layernorm(stream))))
  kMlp,               // stream + down(gelu(up(layernorm(stream))))
  kHead,              // layernorm, logits, cross-entropy; the stream ends here
  kTokenEmbedding,    // tokens -> stream: the token alone
  kGroupedAttention,  // stream + projection(attention(rotated q, rotated k, v of rmsnorm(stream)))
  kGatedMlp,          // stream + down(silu(gate) * up, both of rmsnorm(stream))
  kRmsHead,           // rmsnorm, logits, cross-entropy; the stream ends here
  kOwn,               // what a program has written for itself (own_model.h)
};

namespace embedding_layer {
enum Use { kTokenTable, kPositionTable };
}
namespace attention_layer {
enum Use { kNormWeight, kNormBias, kQkvWeight, kQkvBias, kOutWeight, kOutBias };
enum Kept { kMean, kRstd, kNormed, kQkv, kLogSumExp, kContext };
enum Work { kDNormed, kDQkv, kScratch };  // kDNormed also holds the context's gradient
}  // namespace attention_layer
namespace mlp_layer {
enum Use { kNormWeight, kNormBias, kUpWeight, kUpBias, kDownWeight, kDownBias };
enum Kept { kMean, kRstd, kNormed, kSlope, kActivated };
enum Work { kDNormed, kDUp };
}  // namespace mlp_layer
namespace head_layer {
enum Use { kNormWeight, kNormBias, kTokenTable };
enum Kept { kMean, kRstd, kNormed };
enum Work { kDNormed, kLogits, kLosses };
}  // namespace head_layer

namespace token_embedding_layer {
enum Use { kTokenTable };
}
// Matrices as Hugging Face stores them, (outputs, inputs). Behind the uses that every such layer
// has come those of `Optional` that the model has, in that order.
namespace grouped_attention_layer {
enum Use { kNormWeight, kQueryWeight, kKeyWeight, kValueWeight, kOutWeight, kUses };
enum Optional { kQueryBias, kKeyBias, kValueBias, kOutBias, kQueryNorm, kKeyNorm, kOptionals };
// From kRawQuery on: of models that normalise queries and keys alone.
enum Kept {
  kRstd,
  kNormed,
  kQuery,
  kKey,
  kValue,
  kLogSumExp,
  kContext,
  kRawQuery,
  kRawKey,
  kQueryRstd,
  kKeyRstd
};
enum Work { kDNormed, kDQuery, kDKey, kDValue, kScratch };  // kDNormed: also the context's gradient
}  // namespace grouped_attention_layer
namespace gated_mlp_layer {
enum Use { kNormWeight, kGateWeight, kUpWeight, kDownWeight, kUses };
enum Optional { kGateBias, kUpBias, kDownBias, kOptionals };
enum Kept { kRstd, kNormed, kGate, kUp };
// kActivated is computed again in backward; it becomes the gradient of `up`, and kDActivated that
// of `gate`.
enum Work { kDNormed, kActivated, kDActivated };
}  // namespace gated_mlp_layer
namespace rms_head_layer {
enum Use { kNormWeight, kTokenTable };  // the table of the tokens, or one of the head's own
enum Kept { kRstd, kNormed };
enum Work { kDNormed, kLogits, kLosses };
}  // namespace rms_head_layer

// What a model computes once, before its first pass: see ModelPlan::tables.
namespace rotary_tables {
enum Table { kCosines, kSines };
}

// Dropout needs no buffer of its own: the gradient that hidden dropout leaves of the stream's lies
// in kDQkv and kDQuery before the gradients of queries do, and in an MLP's kDNormed.

// A buffer of one micro-batch.
struct PlannedActivation {
  // kHeadRow: of the rows, up to kHeadRows; kPosition: of one sequence.
  enum class Per { kRow, kHeadRow, kThread, kPosition };

  std::string name;
  int64_t elements;     // for each `per`
  std::string formula;  // of them, for people: "3 width"
  Per per = Per::kRow;
  std::optional<DType> dtype = {};  // none: the one that the model computes in
  int64_t more_in_16_bits = 0;      // elements that it has besides where that is bf16 or fp16
};

struct LayerPlan {
  LayerKind kind;
  std::string name;                          // "h.3.attn"
  std::vector<size_t> uses;                  // tensors of the model, by the kind's Use
  std::vector<PlannedActivation> kept;       // from forward to backward
  std::vector<PlannedActivation> workspace;  // inside one pass through the layer
  // Forward, multiply-adds counted as two, for each token of a full sequence; backward costs twice
  // that.
  double flops_of_token;
  // Elements of a row of the stream that it gives, at its beginning; 0: the model's width.
  int64_t out = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_LAYER_PLAN_H_
