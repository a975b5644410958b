// The layers of every kind (common/model/layer_plan.h).

#include <algorithm>

#include "common/base/logging.h"
#include "worker/model/hidden_dropout.h"
#include "worker/model/layer.h"
#include "worker/model/rotary_layers.h"

namespace dsrun::worker {
namespace {

class Embedding final : public Layer {
 public:
  explicit Embedding(const ModelSpec& spec) : spec_(spec) {}

  void Forward(const Pass& pass, ConstReals, Reals out) override {
    pass.kernels.EmbeddingForward(Shape(pass), pass.tokens,
                                  pass.parameters[embedding_layer::kTokenTable],
                                  pass.parameters[embedding_layer::kPositionTable], out);
    DropInPlace(pass, spec_.hidden_size, out);
  }
  void Backward(const Pass& pass, ConstReals, Reals dstream) override {
    DropInPlace(pass, spec_.hidden_size, dstream);  // nobody reads it below the first layer
    pass.kernels.EmbeddingBackward(Shape(pass), spec_.vocab_size, spec_.seq_length, pass.tokens,
                                   dstream, pass.gradients[embedding_layer::kTokenTable],
                                   pass.gradients[embedding_layer::kPositionTable]);
  }

 private:
  SequenceShape Shape(const Pass& pass) const {
    return {pass.batch, pass.seq_length, spec_.hidden_size, spec_.num_attention_heads};
  }

  const ModelSpec& spec_;
};

class Attention final : public Layer {
 public:
  explicit Attention(const ModelSpec& spec) : spec_(spec) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    using namespace attention_layer;  // NOLINT: the names of this layer's parts
    const std::span<const ConstReals> p = pass.parameters;
    const int64_t width = spec_.hidden_size;
    Kernels& k = pass.kernels;
    k.LayerNormForward(pass.rows(), width, in, p[kNormWeight], p[kNormBias], pass.Kept(kNormed),
                       pass.KeptF32(kMean), pass.KeptF32(kRstd));
    k.LinearForward({pass.rows(), width, 3 * width}, pass.Kept(kNormed), p[kQkvWeight], p[kQkvBias],
                    pass.Kept(kQkv));
    k.AttentionForward(Shape(pass), pass.AttentionMask(), pass.Kept(kQkv), pass.WorkF32(kScratch),
                       pass.Kept(kContext), pass.KeptF32(kLogSumExp));
    AddToStream(pass, {pass.rows(), width, width}, pass.Kept(kContext), p[kOutWeight], p[kOutBias],
                in, out);
  }

  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace attention_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    const std::span<float* const> g = pass.gradients;
    const int64_t width = spec_.hidden_size;
    Kernels& k = pass.kernels;
    const LinearShape out{pass.rows(), width, width};
    const LinearShape qkv{pass.rows(), width, 3 * width};
    const Reals dcontext = pass.Work(kDNormed);
    // Their gradients are not there yet.
    const ConstReals dout = AddedGradient(pass, width, dstream, pass.Work(kDQkv));
    k.LinearBackwardBias(out, dout, g[kOutBias]);
    k.LinearBackwardWeight(out, pass.Kept(kContext), dout, g[kOutWeight]);
    k.LinearBackwardInput(out, dout, p[kOutWeight], dcontext);
    k.AttentionBackward(Shape(pass), pass.AttentionMask(), pass.Kept(kQkv), pass.Kept(kContext),
                        pass.KeptF32(kLogSumExp), dcontext, pass.WorkF32(kScratch),
                        pass.Work(kDQkv));
    k.LinearBackwardBias(qkv, pass.Work(kDQkv), g[kQkvBias]);
    k.LinearBackwardWeight(qkv, pass.Kept(kNormed), pass.Work(kDQkv), g[kQkvWeight]);
    k.LinearBackwardInput(qkv, pass.Work(kDQkv), p[kQkvWeight], pass.Work(kDNormed));
    k.LayerNormBackward(pass.rows(), width, in, p[kNormWeight], pass.KeptF32(kMean),
                        pass.KeptF32(kRstd), pass.Work(kDNormed), dstream, dstream, g[kNormWeight],
                        g[kNormBias]);
  }

 private:
  SequenceShape Shape(const Pass& pass) const {
    return {pass.batch, pass.seq_length, spec_.hidden_size, spec_.num_attention_heads};
  }

  const ModelSpec& spec_;
};

class Mlp final : public Layer {
 public:
  explicit Mlp(const ModelSpec& spec) : spec_(spec) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    using namespace mlp_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    const int64_t width = spec_.hidden_size;
    Kernels& k = pass.kernels;
    k.LayerNormForward(pass.rows(), width, in, p[kNormWeight], p[kNormBias], pass.Kept(kNormed),
                       pass.KeptF32(kMean), pass.KeptF32(kRstd));
    k.LinearGeluForward({pass.rows(), width, 4 * width}, pass.Kept(kNormed), p[kUpWeight],
                        p[kUpBias], pass.Kept(kSlope), pass.Kept(kActivated));
    AddToStream(pass, {pass.rows(), 4 * width, width}, pass.Kept(kActivated), p[kDownWeight],
                p[kDownBias], in, out);
  }

  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace mlp_layer;  // NOLINT
    const std::span<const ConstReals> p = pass.parameters;
    const std::span<float* const> g = pass.gradients;
    const int64_t width = spec_.hidden_size;
    Kernels& k = pass.kernels;
    const LinearShape up{pass.rows(), width, 4 * width};
    const LinearShape down{pass.rows(), 4 * width, width};
    const ConstReals dout = AddedGradient(pass, width, dstream, pass.Work(kDNormed));
    k.LinearBackwardBias(down, dout, g[kDownBias]);
    k.LinearBackwardWeight(down, pass.Kept(kActivated), dout, g[kDownWeight]);
    k.LinearBackwardInputGelu(down, dout, p[kDownWeight], pass.Kept(kSlope), pass.Work(kDUp));
    k.LinearBackwardBias(up, pass.Work(kDUp), g[kUpBias]);
    k.LinearBackwardWeight(up, pass.Kept(kNormed), pass.Work(kDUp), g[kUpWeight]);
    k.LinearBackwardInput(up, pass.Work(kDUp), p[kUpWeight], pass.Work(kDNormed));
    k.LayerNormBackward(pass.rows(), width, in, p[kNormWeight], pass.KeptF32(kMean),
                        pass.KeptF32(kRstd), pass.Work(kDNormed), dstream, dstream, g[kNormWeight],
                        g[kNormBias]);
  }

 private:
  const ModelSpec& spec_;
};

// Logits and loss of what a norm gives. Heads differ in the norm, and so in the order of their uses
// and of what they keep.
class TableHead : public Head {
 public:
  TableHead(const ModelSpec& spec, size_t table, size_t normed)
      : spec_(spec), table_(table), normed_(normed) {}

  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace head_layer;  // NOLINT
    Kernels& k = pass.kernels;
    const ConstReals table = pass.parameters[table_];
    ForRows(pass, [&](const HeadShape& shape, int64_t first) {
      const float* const dlogits = pass.WorkF32(kLogits);
      const ConstReals normed = pass.Kept(normed_) + first * spec_.hidden_size;
      if (first == 0) {
        k.HeadBackwardWeight(shape, dlogits, normed, pass.gradients[table_]);
      } else {
        k.AccumulateHeadBackwardWeight(shape, dlogits, normed, pass.gradients[table_]);
      }
      k.HeadBackwardInput(shape, dlogits, table, pass.Work(kDNormed) + first * spec_.hidden_size);
    });
    NormBackward(pass, in, dstream);
  }

  void Loss(const Pass& pass) override {
    ForRows(pass, [](const HeadShape&, int64_t) {});
  }

  void Logits(const Pass& pass, int64_t row, float* logits) override {
    pass.kernels.HeadForward({1, spec_.hidden_size, spec_.vocab_size, spec_.vocab_size},
                             pass.Kept(normed_) + row * spec_.hidden_size, pass.parameters[table_],
                             pass.WorkF32(head_layer::kLogits));
    pass.kernels.stream().Copy(logits, pass.WorkF32(head_layer::kLogits),
                               static_cast<size_t>(spec_.vocab_size) * sizeof(float));
  }

 protected:
  // From the gradient of what the norm gave, in kDNormed, to that of the stream.
  virtual void NormBackward(const Pass& pass, ConstReals in, Reals dstream) = 0;

  const ModelSpec& spec_;

 private:
  // each(shape of some rows, the first of them), whose losses are on their way and whose logits
  // have become their gradient.
  template <typename Each>
  void ForRows(const Pass& pass, const Each& each) {
    using namespace head_layer;  // NOLINT: work that all heads have
    double* const losses = static_cast<double*>(pass.workspace[kLosses]);
    for (int64_t first = 0; first < pass.rows(); first += kHeadRows) {
      const HeadShape shape{std::min(kHeadRows, pass.rows() - first), spec_.hidden_size,
                            spec_.vocab_size, LogitsStride(spec_.vocab_size)};
      pass.kernels.HeadForward(shape, pass.Kept(normed_) + first * spec_.hidden_size,
                               pass.parameters[table_], pass.WorkF32(kLogits));
      pass.kernels.CrossEntropy(shape, pass.gradient_scale, pass.targets + first,
                                pass.WorkF32(kLogits), losses);
      pass.kernels.stream().Copy(pass.losses + first, losses,
                                 static_cast<size_t>(shape.rows) * sizeof(double));
      each(shape, first);
    }
  }

  const size_t table_;   // of the uses
  const size_t normed_;  // of what is kept
};

static_assert(int{head_layer::kDNormed} == int{rms_head_layer::kDNormed} &&
              int{head_layer::kLogits} == int{rms_head_layer::kLogits} &&
              int{head_layer::kLosses} == int{rms_head_layer::kLosses});

class LayerNormHead final : public TableHead {
 public:
  explicit LayerNormHead(const ModelSpec& spec)
      : TableHead(spec, head_layer::kTokenTable, head_layer::kNormed) {}

  void Forward(const Pass& pass, ConstReals in, Reals) override {
    using namespace head_layer;  // NOLINT
    pass.kernels.LayerNormForward(pass.rows(), spec_.hidden_size, in, pass.parameters[kNormWeight],
                                  pass.parameters[kNormBias], pass.Kept(kNormed),
                                  pass.KeptF32(kMean), pass.KeptF32(kRstd));
  }

 private:
  void NormBackward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace head_layer;  // NOLINT
    pass.kernels.LayerNormBackward(pass.rows(), spec_.hidden_size, in, pass.parameters[kNormWeight],
                                   pass.KeptF32(kMean), pass.KeptF32(kRstd), pass.Work(kDNormed),
                                   nullptr, dstream, pass.gradients[kNormWeight],
                                   pass.gradients[kNormBias]);
  }
};

class RmsHead final : public TableHead {
 public:
  explicit RmsHead(const ModelSpec& spec)
      : TableHead(spec, rms_head_layer::kTokenTable, rms_head_layer::kNormed) {}

  void Forward(const Pass& pass, ConstReals in, Reals) override {
    using namespace rms_head_layer;  // NOLINT
    pass.kernels.RmsNormForward(
        pass.rows(), spec_.hidden_size, static_cast<float>(spec_.norm_epsilon), in,
        pass.parameters[kNormWeight], pass.Kept(kNormed), pass.KeptF32(kRstd));
  }

 private:
  void NormBackward(const Pass& pass, ConstReals in, Reals dstream) override {
    using namespace rms_head_layer;  // NOLINT
    pass.kernels.RmsNormBackward(pass.rows(), spec_.hidden_size, in, pass.parameters[kNormWeight],
                                 pass.KeptF32(kRstd), pass.Work(kDNormed), nullptr, dstream,
                                 pass.gradients[kNormWeight]);
  }
};

}  // namespace

std::unique_ptr<Layer> CreateLayer(const ModelPlan& model, const LayerPlan& layer) {
  switch (layer.kind) {
    case LayerKind::kEmbedding:
      return std::make_unique<Embedding>(model.spec);
    case LayerKind::kAttention:
      return std::make_unique<Attention>(model.spec);
    case LayerKind::kMlp:
      return std::make_unique<Mlp>(model.spec);
    case LayerKind::kTokenEmbedding:
      return CreateTokenEmbedding(model.spec);
    case LayerKind::kGroupedAttention:
      return CreateGroupedAttention(model.spec);
    case LayerKind::kGatedMlp:
      return CreateGatedMlp(model.spec);
    case LayerKind::kHead:
    case LayerKind::kRmsHead:
      return CreateHead(model, layer);
    case LayerKind::kOwn:
      break;  // by LayerFactory
  }
  LOG(FATAL) << "no such kind of layer: " << static_cast<int>(layer.kind);
}

std::unique_ptr<Head> CreateHead(const ModelPlan& model, const LayerPlan& layer) {
  if (layer.kind == LayerKind::kRmsHead) return std::make_unique<RmsHead>(model.spec);
  CHECK(layer.kind == LayerKind::kHead) << layer.name;
  return std::make_unique<LayerNormHead>(model.spec);
}

}  // namespace dsrun::worker
