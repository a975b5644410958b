#include "worker/model/rotary_layers.h"

#include <array>

#include "worker/model/hidden_dropout.h"

namespace dsrun::worker {
namespace {

// Where the optional uses of a layer stand: those that the model has follow the others, in order.
template <size_t N>
class OptionalUses {
 public:
  OptionalUses(size_t first, const std::array<bool, N>& has) {
    for (size_t i = 0; i < N; ++i) at_[i] = has[i] ? first++ : kNone;
  }

  ConstReals Parameter(const Pass& pass, size_t which) const {
    return at_[which] == kNone ? ConstReals() : pass.parameters[at_[which]];
  }
  float* Gradient(const Pass& pass, size_t which) const {
    return at_[which] == kNone ? nullptr : pass.gradients[at_[which]];
  }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);
  std::array<size_t, N> at_;
};

LinearShape Stored(const Pass& pass, int64_t inputs, int64_t outputs) {
  return {pass.rows(), inputs, outputs, WeightOrder::kOutputsInputs};
}

// Gradients of a linear layer's weight and bias; null: it has none, or its gradient is not wanted.
void WeightBackward(const Pass& pass, const LinearShape& shape, ConstReals x, ConstReals dout,
                    float* dweight, float* dbias) {
  pass.kernels.LinearBackwardBias(shape, dout, dbias);
  pass.kernels.LinearBackwardWeight(shape, x, dout, dweight);
}

class TokenEmbedding final : public Layer {
 public:
  explicit TokenEmbedding(const ModelSpec& spec) : spec_(spec) {}

  void Forward(const Pass& pass, ConstReals, Reals out) override {
    pass.kernels.EmbeddingForward(Shape(pass), pass.tokens,
                                  pass.parameters[token_embedding_layer::kTokenTable], nullptr,
                                  out);
    DropInPlace(pass, spec_.hidden_size, out);
  }
  void Backward(const Pass& pass, ConstReals, Reals dstream) override {
    DropInPlace(pass, spec_.hidden_size, dstream);  // nobody reads it below the first layer
    pass.kernels.EmbeddingBackward(Shape(pass), spec_.vocab_size, 0, pass.tokens, dstream,
                                   pass.gradients[token_embedding_layer::kTokenTable], nullptr);
  }

 private:
  SequenceShape Shape(const Pass& pass) const {
    return {pass.batch, pass.seq_length, spec_.hidden_size, 1};
  }

  const ModelSpec& spec_;
};

class GroupedAttention final : public Layer {
 public:
  explicit GroupedAttention(const ModelSpec& spec)
      : spec_(spec),
        width_(spec.hidden_size),
        queries_(spec.num_attention_heads * spec.head_size()),
        keys_(spec.heads_of_keys() * spec.head_size()),
        optional_(grouped_attention_layer::kUses,
                  {spec.qkv_bias, spec.qkv_bias, spec.qkv_bias, spec.attention_out_bias,
                   spec.qk_norm, spec.qk_norm}) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    using namespace grouped_attention_layer;  // NOLINT: the names of this layer's parts
    const std::span<const ConstReals> p = pass.parameters;
    Kernels& k = pass.kernels;
    const ConstReals normed = pass.Kept(kNormed);
    k.RmsNormForward(pass.rows(), width_, Epsilon(), in, p[kNormWeight], pass.Kept(kNormed),
                     pass.KeptF32(kRstd));
    k.LinearForward(Stored(pass, width_, queries_), normed, p[kQueryWeight],
                    optional_.Parameter(pass, kQueryBias), Projected(pass, kQuery, kRawQuery));
    k.LinearForward(Stored(pass, width_, keys_), normed, p[kKeyWeight],
                    optional_.Parameter(pass, kKeyBias), Projected(pass, kKey, kRawKey));
    k.LinearForward(Stored(pass, width_, keys_), normed, p[kValueWeight],
                    optional_.Parameter(pass, kValueBias), pass.Kept(kValue));
    if (spec_.qk_norm) {
      k.RmsNormForward(HeadsIn(pass, queries_), spec_.head_size(), Epsilon(), pass.Kept(kRawQuery),
                       optional_.Parameter(pass, kQueryNorm), pass.Kept(kQuery),
                       pass.KeptF32(kQueryRstd));
      k.RmsNormForward(HeadsIn(pass, keys_), spec_.head_size(), Epsilon(), pass.Kept(kRawKey),
                       optional_.Parameter(pass, kKeyNorm), pass.Kept(kKey),
                       pass.KeptF32(kKeyRstd));
    }
    k.RotaryForward(Rotary(pass, queries_), pass.tables[rotary_tables::kCosines],
                    pass.tables[rotary_tables::kSines], pass.Kept(kQuery));
    k.RotaryForward(Rotary(pass, keys_), pass.tables[rotary_tables::kCosines],
                    pass.tables[rotary_tables::kSines], pass.Kept(kKey));
    k.GroupedAttentionForward(Shape(pass), pass.AttentionMask(), pass.Kept(kQuery), pass.Kept(kKey),
                              pass.Kept(kValue), pass.WorkF32(kScratch), pass.Kept(kContext),
                              pass.KeptF32(kLogSumExp));
    AddToStream(pass, Stored(pass, queries_, width_), pass.Kept(kContext), p[kOutWeight],
                optional_.Parameter(pass, kOutBias), in, out);
  }

  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace grouped_attention_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    const std::span<float* const> g = pass.gradients;
    Kernels& k = pass.kernels;
    const Reals dcontext = pass.Work(kDNormed);
    // Their gradients are not there yet.
    const ConstReals dout = AddedGradient(pass, width_, dstream, pass.Work(kDQuery));
    WeightBackward(pass, Stored(pass, queries_, width_), pass.Kept(kContext), dout, g[kOutWeight],
                   optional_.Gradient(pass, kOutBias));
    k.LinearBackwardInput(Stored(pass, queries_, width_), dout, p[kOutWeight], dcontext);
    k.GroupedAttentionBackward(Shape(pass), pass.AttentionMask(), pass.Kept(kQuery),
                               pass.Kept(kKey), pass.Kept(kValue), pass.Kept(kContext),
                               pass.KeptF32(kLogSumExp), dcontext, pass.WorkF32(kScratch),
                               pass.Work(kDQuery), pass.Work(kDKey), pass.Work(kDValue));
    RotateBack(pass);
    ProjectionsBackward(pass);
    k.RmsNormBackward(pass.rows(), width_, in, p[kNormWeight], pass.KeptF32(kRstd),
                      pass.Work(kDNormed), dstream, dstream, g[kNormWeight]);
  }

 private:
  // From the gradients of rotated queries and keys to those of what was projected, in place.
  void RotateBack(const Pass& pass) {
    using namespace grouped_attention_layer;  // NOLINT
    Kernels& k = pass.kernels;
    k.RotaryBackward(Rotary(pass, queries_), pass.tables[rotary_tables::kCosines],
                     pass.tables[rotary_tables::kSines], pass.Work(kDQuery));
    k.RotaryBackward(Rotary(pass, keys_), pass.tables[rotary_tables::kCosines],
                     pass.tables[rotary_tables::kSines], pass.Work(kDKey));
    if (!spec_.qk_norm) return;
    k.RmsNormBackward(HeadsIn(pass, queries_), spec_.head_size(), pass.Kept(kRawQuery),
                      optional_.Parameter(pass, kQueryNorm), pass.KeptF32(kQueryRstd),
                      pass.Work(kDQuery), nullptr, pass.Work(kDQuery),
                      optional_.Gradient(pass, kQueryNorm));
    k.RmsNormBackward(HeadsIn(pass, keys_), spec_.head_size(), pass.Kept(kRawKey),
                      optional_.Parameter(pass, kKeyNorm), pass.KeptF32(kKeyRstd), pass.Work(kDKey),
                      nullptr, pass.Work(kDKey), optional_.Gradient(pass, kKeyNorm));
  }

  // The three add to the gradient of their input in this order.
  void ProjectionsBackward(const Pass& pass) {
    using namespace grouped_attention_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    const std::span<float* const> g = pass.gradients;
    Kernels& k = pass.kernels;
    const LinearShape query = Stored(pass, width_, queries_);
    const LinearShape key = Stored(pass, width_, keys_);
    const ConstReals normed = pass.Kept(kNormed);
    WeightBackward(pass, query, normed, pass.Work(kDQuery), g[kQueryWeight],
                   optional_.Gradient(pass, kQueryBias));
    WeightBackward(pass, key, normed, pass.Work(kDKey), g[kKeyWeight],
                   optional_.Gradient(pass, kKeyBias));
    WeightBackward(pass, key, normed, pass.Work(kDValue), g[kValueWeight],
                   optional_.Gradient(pass, kValueBias));
    k.LinearBackwardInput(query, pass.Work(kDQuery), p[kQueryWeight], pass.Work(kDNormed));
    k.AccumulateLinearBackwardInput(key, pass.Work(kDKey), p[kKeyWeight], pass.Work(kDNormed));
    k.AccumulateLinearBackwardInput(key, pass.Work(kDValue), p[kValueWeight], pass.Work(kDNormed));
  }

  float Epsilon() const { return static_cast<float>(spec_.norm_epsilon); }
  // Where a projection goes: what is normalised afterwards is kept as it was.
  Reals Projected(const Pass& pass, size_t kept, size_t raw) const {
    return pass.Kept(spec_.qk_norm ? raw : kept);
  }
  int64_t HeadsIn(const Pass& pass, int64_t width) const {
    return pass.rows() * (width / spec_.head_size());
  }
  RotaryShape Rotary(const Pass& pass, int64_t width) const {
    return {pass.batch, pass.seq_length, width / spec_.head_size(), spec_.head_size()};
  }
  GroupedAttentionShape Shape(const Pass& pass) const {
    return {pass.batch,        pass.seq_length, spec_.num_attention_heads, spec_.heads_of_keys(),
            spec_.head_size(), spec_.window};
  }

  const ModelSpec& spec_;
  const int64_t width_;
  const int64_t queries_;  // width of all heads of queries
  const int64_t keys_;     // and of all heads of keys
  const OptionalUses<grouped_attention_layer::kOptionals> optional_;
};

class GatedMlp final : public Layer {
 public:
  explicit GatedMlp(const ModelSpec& spec)
      : spec_(spec),
        width_(spec.hidden_size),
        inner_(spec.ffn_hidden_size),
        optional_(gated_mlp_layer::kUses, {spec.mlp_bias, spec.mlp_bias, spec.mlp_bias}) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    using namespace gated_mlp_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    Kernels& k = pass.kernels;
    const LinearShape in_shape = Stored(pass, width_, inner_);
    k.RmsNormForward(pass.rows(), width_, static_cast<float>(spec_.norm_epsilon), in,
                     p[kNormWeight], pass.Kept(kNormed), pass.KeptF32(kRstd));
    k.LinearForward(in_shape, pass.Kept(kNormed), p[kGateWeight],
                    optional_.Parameter(pass, kGateBias), pass.Kept(kGate));
    k.LinearForward(in_shape, pass.Kept(kNormed), p[kUpWeight], optional_.Parameter(pass, kUpBias),
                    pass.Kept(kUp));
    k.SwiGluForward(pass.rows() * inner_, pass.Kept(kGate), pass.Kept(kUp), pass.Work(kActivated));
    AddToStream(pass, Stored(pass, inner_, width_), pass.Work(kActivated), p[kDownWeight],
                optional_.Parameter(pass, kDownBias), in, out);
  }

  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace gated_mlp_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    const std::span<float* const> g = pass.gradients;
    Kernels& k = pass.kernels;
    const int64_t n = pass.rows() * inner_;
    const LinearShape down = Stored(pass, inner_, width_);
    const LinearShape up = Stored(pass, width_, inner_);
    k.SwiGluForward(n, pass.Kept(kGate), pass.Kept(kUp), pass.Work(kActivated));
    const ConstReals dout = AddedGradient(pass, width_, dstream, pass.Work(kDNormed));
    WeightBackward(pass, down, pass.Work(kActivated), dout, g[kDownWeight],
                   optional_.Gradient(pass, kDownBias));
    k.LinearBackwardInput(down, dout, p[kDownWeight], pass.Work(kDActivated));
    const Reals dup = pass.Work(kActivated);
    const Reals dgate = pass.Work(kDActivated);
    k.SwiGluBackward(n, pass.Kept(kGate), pass.Kept(kUp), pass.Work(kDActivated), dgate, dup);
    WeightBackward(pass, up, pass.Kept(kNormed), dgate, g[kGateWeight],
                   optional_.Gradient(pass, kGateBias));
    WeightBackward(pass, up, pass.Kept(kNormed), dup, g[kUpWeight],
                   optional_.Gradient(pass, kUpBias));
    k.LinearBackwardInput(up, dgate, p[kGateWeight], pass.Work(kDNormed));
    k.AccumulateLinearBackwardInput(up, dup, p[kUpWeight], pass.Work(kDNormed));
    k.RmsNormBackward(pass.rows(), width_, in, p[kNormWeight], pass.KeptF32(kRstd),
                      pass.Work(kDNormed), dstream, dstream, g[kNormWeight]);
  }

 private:
  const ModelSpec& spec_;
  const int64_t width_;
  const int64_t inner_;
  const OptionalUses<gated_mlp_layer::kOptionals> optional_;
};

}  // namespace

std::unique_ptr<Layer> CreateTokenEmbedding(const ModelSpec& spec) {
  return std::make_unique<TokenEmbedding>(spec);
}

std::unique_ptr<Layer> CreateGroupedAttention(const ModelSpec& spec) {
  return std::make_unique<GroupedAttention>(spec);
}

std::unique_ptr<Layer> CreateGatedMlp(const ModelSpec& spec) {
  return std::make_unique<GatedMlp>(spec);
}

}  // namespace dsrun::worker
