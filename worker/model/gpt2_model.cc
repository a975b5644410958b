#include "worker/model/gpt2_model.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/plan/activation_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun::worker {
namespace {

// Where the tensors of one block stand in the parameter arena (elements).
struct BlockOffsets {
  int64_t ln_1_weight, ln_1_bias;
  int64_t c_attn_weight, c_attn_bias;  // (width, 3 width), (3 width)
  int64_t attn_proj_weight, attn_proj_bias;
  int64_t ln_2_weight, ln_2_bias;
  int64_t c_fc_weight, c_fc_bias;  // (width, 4 width), (4 width)
  int64_t mlp_proj_weight, mlp_proj_bias;
};

// What forward keeps of one block; named like the plan's buffers.
struct BlockActivations {
  float *ln_1_mean, *ln_1_rstd, *ln_1_out;
  float *qkv, *attention_lse, *attention_out, *residual_mid;
  float *ln_2_mean, *ln_2_rstd, *ln_2_out;
  float *fc_slope, *fc_gelu, *residual_out;
};

// Hands out the arena buffer by buffer, by the plan's names.
class Arena {
 public:
  Arena(const std::vector<PlannedBuffer>& plan, Buffer memory) : memory_(std::move(memory)) {
    char* at = static_cast<char*>(memory_.data());
    for (const PlannedBuffer& buffer : plan) {
      parts_[buffer.name] = at;
      at += buffer.bytes();
    }
  }

  template <typename T = float>
  T* Get(const std::string& name) const {
    const auto found = parts_.find(name);
    CHECK(found != parts_.end()) << "the activation plan has no buffer " << name;
    return reinterpret_cast<T*>(found->second);
  }

 private:
  Buffer memory_;
  std::map<std::string, char*> parts_;
};

int64_t TotalBytes(const std::vector<PlannedBuffer>& plan) {
  int64_t bytes = 0;
  for (const PlannedBuffer& buffer : plan) bytes += buffer.bytes();
  return bytes;
}

// Tells `ready` how far backward has come and zeroes padding on the way: gradients are finished
// from the end of the space to its start, tensor by tensor. Keeps the first error.
class GradientCursor {
 public:
  GradientCursor(const FlatLayout& layout, int64_t end, float* gradients, const RangeFn& ready)
      : layout_(layout), end_(end), gradients_(gradients), ready_(ready) {}

  // The accumulator of a second use, [begin, end of the space), is written.
  void FinishHead(int64_t begin, int64_t elements) { Finish(begin, begin + elements); }
  // `tensor` and everything behind it is written.
  void Finish(const std::string& tensor) {
    const FlatLayout::Entry& entry = layout_.Find(tensor);
    Finish(entry.offset, entry.flat().end);
  }
  const absl::Status& status() const { return status_; }

 private:
  void Finish(int64_t begin, int64_t written_end) {
    CHECK_LT(begin, end_);
    std::fill(gradients_ + written_end, gradients_ + end_, 0.0f);
    const Range range{begin, end_};
    end_ = begin;
    if (status_.ok()) status_ = ready_(range);
  }

  const FlatLayout& layout_;
  int64_t end_;  // everything from here on is finished
  float* const gradients_;
  const RangeFn& ready_;
  absl::Status status_;
};

// Asks for the parameters that forward reads next. Keeps the first error.
class ParameterCursor {
 public:
  explicit ParameterCursor(const RangeFn& needed) : needed_(needed) {}

  // Everything before `end`, that is, which was not asked for yet.
  void Need(int64_t end) {
    CHECK_GT(end, position_);
    const Range range{position_, end};
    position_ = end;
    if (status_.ok()) status_ = needed_(range);
  }
  const absl::Status& status() const { return status_; }

 private:
  const RangeFn& needed_;
  int64_t position_ = 0;
  absl::Status status_;
};

class Gpt2Model final : public Model {
 public:
  Gpt2Model(const ModelSpec& spec, int64_t micro_batch_size, Kernels& kernels,
            const std::vector<PlannedBuffer>& plan, Buffer memory);

  int64_t gradient_size() const override { return layout_.size() + wte_padded_; }
  absl::StatusOr<LossSum> Forward(const float* parameters, const int32_t* tokens,
                                  const int32_t* targets, const RangeFn& needed) override;
  absl::Status Backward(const float* parameters, float* gradients, const RangeFn& ready) override;
  void NextTokenLogits(const float* parameters, const int32_t* tokens, int64_t length,
                       float* logits) override;

 private:
  int64_t At(const std::string& tensor) const { return layout_.Find(tensor).offset; }
  BlockOffsets FindBlock(int64_t layer) const;
  BlockActivations FindActivations(int64_t layer) const;

  // Everything up to ln_f, for (batch, length) tokens.
  absl::Status ForwardBody(const SequenceShape& shape, const float* parameters,
                           const int32_t* tokens, const RangeFn& needed);
  void ForwardBlock(const SequenceShape& shape, const float* parameters, int64_t layer,
                    const float* in, ParameterCursor& cursor);
  // dresidual_: from the gradient of the block's output to that of its input.
  void BackwardBlock(const float* parameters, float* gradients, int64_t layer, const float* in,
                     GradientCursor& cursor);
  // The input of block `layer`, or of ln_f.
  const float* BlockInput(int64_t layer) const {
    return layer == 0 ? embedded_ : blocks_[static_cast<size_t>(layer - 1)].residual_out;
  }

  const ModelSpec spec_;
  const FlatLayout layout_;
  const SequenceShape shape_;  // a whole micro-batch
  const HeadShape head_;
  Kernels& kernels_;
  Arena arena_;
  int64_t wte_padded_;

  std::vector<BlockOffsets> offsets_;     // by layer
  std::vector<BlockActivations> blocks_;  // by layer
  int32_t* tokens_;                       // (rows), what backward scatters by
  float* embedded_;                       // (rows, width)
  float *ln_f_mean_, *ln_f_rstd_, *ln_f_out_;
  float* logits_;   // (rows, stride); after Forward: dlogits
  double* losses_;  // (rows)
  float *dresidual_, *dbranch_, *dqkv_, *dfc_, *attention_scratch_;
};

Gpt2Model::Gpt2Model(const ModelSpec& spec, int64_t micro_batch_size, Kernels& kernels,
                     const std::vector<PlannedBuffer>& plan, Buffer memory)
    : spec_(spec),
      layout_(LogicalTensors(spec)),
      shape_{micro_batch_size, spec.seq_length, spec.hidden_size, spec.num_attention_heads},
      head_{shape_.rows(), spec.hidden_size, spec.vocab_size, LogitsStride(spec)},
      kernels_(kernels),
      arena_(plan, std::move(memory)),
      wte_padded_(layout_.Find("wte.weight").padded().size()) {
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    offsets_.push_back(FindBlock(layer));
    blocks_.push_back(FindActivations(layer));
  }
  tokens_ = arena_.Get<int32_t>("activations.tokens");
  embedded_ = arena_.Get("activations.embedded");
  ln_f_mean_ = arena_.Get("activations.ln_f_mean");
  ln_f_rstd_ = arena_.Get("activations.ln_f_rstd");
  ln_f_out_ = arena_.Get("activations.ln_f_out");
  logits_ = arena_.Get("activations.logits");
  losses_ = arena_.Get<double>("activations.losses");
  dresidual_ = arena_.Get("workspace.dresidual");
  dbranch_ = arena_.Get("workspace.dbranch");
  dqkv_ = arena_.Get("workspace.dqkv");
  dfc_ = arena_.Get("workspace.dfc");
  attention_scratch_ = arena_.Get("workspace.attention");
}

BlockOffsets Gpt2Model::FindBlock(int64_t layer) const {
  const std::string h = "h." + std::to_string(layer) + ".";
  return {At(h + "ln_1.weight"),      At(h + "ln_1.bias"),          At(h + "attn.c_attn.weight"),
          At(h + "attn.c_attn.bias"), At(h + "attn.c_proj.weight"), At(h + "attn.c_proj.bias"),
          At(h + "ln_2.weight"),      At(h + "ln_2.bias"),          At(h + "mlp.c_fc.weight"),
          At(h + "mlp.c_fc.bias"),    At(h + "mlp.c_proj.weight"),  At(h + "mlp.c_proj.bias")};
}

BlockActivations Gpt2Model::FindActivations(int64_t layer) const {
  const auto part = [&](const std::string& name, int64_t per_row) {
    const int64_t elements = (shape_.rows() * per_row + 15) / 16 * 16;  // as in the plan
    return arena_.Get("activations." + name) + layer * elements;
  };
  const int64_t width = spec_.hidden_size;
  BlockActivations block;
  block.ln_1_mean = part("ln_1_mean", 1);
  block.ln_1_rstd = part("ln_1_rstd", 1);
  block.ln_1_out = part("ln_1_out", width);
  block.qkv = part("qkv", 3 * width);
  block.attention_lse = part("attention_lse", spec_.num_attention_heads);
  block.attention_out = part("attention_out", width);
  block.residual_mid = part("residual_mid", width);
  block.ln_2_mean = part("ln_2_mean", 1);
  block.ln_2_rstd = part("ln_2_rstd", 1);
  block.ln_2_out = part("ln_2_out", width);
  block.fc_slope = part("fc_slope", 4 * width);
  block.fc_gelu = part("fc_gelu", 4 * width);
  block.residual_out = part("residual_out", width);
  return block;
}

// --- Forward

void Gpt2Model::ForwardBlock(const SequenceShape& shape, const float* parameters, int64_t layer,
                             const float* in, ParameterCursor& cursor) {
  const BlockOffsets& at = offsets_[static_cast<size_t>(layer)];
  const BlockActivations& act = blocks_[static_cast<size_t>(layer)];
  const float* const p = parameters;
  const int64_t rows = shape.rows();
  const int64_t width = shape.width;
  cursor.Need(at.attn_proj_weight);
  kernels_.LayerNormForward(rows, width, in, p + at.ln_1_weight, p + at.ln_1_bias, act.ln_1_out,
                            act.ln_1_mean, act.ln_1_rstd);
  kernels_.LinearForward({rows, width, 3 * width}, act.ln_1_out, p + at.c_attn_weight,
                         p + at.c_attn_bias, act.qkv);
  kernels_.AttentionForward(shape, act.qkv, attention_scratch_, act.attention_out,
                            act.attention_lse);
  cursor.Need(at.ln_2_weight);
  kernels_.LinearResidualForward({rows, width, width}, act.attention_out, p + at.attn_proj_weight,
                                 p + at.attn_proj_bias, in, act.residual_mid);
  cursor.Need(at.mlp_proj_weight);
  kernels_.LayerNormForward(rows, width, act.residual_mid, p + at.ln_2_weight, p + at.ln_2_bias,
                            act.ln_2_out, act.ln_2_mean, act.ln_2_rstd);
  kernels_.LinearGeluForward({rows, width, 4 * width}, act.ln_2_out, p + at.c_fc_weight,
                             p + at.c_fc_bias, act.fc_slope, act.fc_gelu);
  cursor.Need(layer + 1 < spec_.num_layers ? offsets_[static_cast<size_t>(layer + 1)].ln_1_weight
                                           : At("ln_f.weight"));
  kernels_.LinearResidualForward({rows, 4 * width, width}, act.fc_gelu, p + at.mlp_proj_weight,
                                 p + at.mlp_proj_bias, act.residual_mid, act.residual_out);
}

absl::Status Gpt2Model::ForwardBody(const SequenceShape& shape, const float* parameters,
                                    const int32_t* tokens, const RangeFn& needed) {
  ParameterCursor cursor(needed);
  cursor.Need(offsets_[0].ln_1_weight);
  RETURN_IF_ERROR(cursor.status());
  kernels_.EmbeddingForward(shape, tokens, parameters + At("wte.weight"),
                            parameters + At("wpe.weight"), embedded_);
  for (int64_t layer = 0; layer < spec_.num_layers; ++layer) {
    ForwardBlock(shape, parameters, layer, BlockInput(layer), cursor);
    RETURN_IF_ERROR(cursor.status());
  }
  cursor.Need(layout_.size());
  RETURN_IF_ERROR(cursor.status());
  kernels_.LayerNormForward(shape.rows(), shape.width, BlockInput(spec_.num_layers),
                            parameters + At("ln_f.weight"), parameters + At("ln_f.bias"), ln_f_out_,
                            ln_f_mean_, ln_f_rstd_);
  return absl::OkStatus();
}

absl::StatusOr<LossSum> Gpt2Model::Forward(const float* parameters, const int32_t* tokens,
                                           const int32_t* targets, const RangeFn& needed) {
  const int64_t rows = shape_.rows();
  std::copy_n(tokens, rows, tokens_);
  RETURN_IF_ERROR(ForwardBody(shape_, parameters, tokens_, needed));
  kernels_.HeadForward(head_, ln_f_out_, parameters + At("wte.weight"), logits_);
  kernels_.CrossEntropy(head_, targets, logits_, losses_);
  LossSum sum;
  for (int64_t row = 0; row < rows; ++row) {
    sum.loss += losses_[row];
    sum.tokens += targets[row] >= 0 ? 1 : 0;
  }
  return sum;
}

void Gpt2Model::NextTokenLogits(const float* parameters, const int32_t* tokens, int64_t length,
                                float* logits) {
  CHECK(length >= 1 && length <= spec_.seq_length) << "length " << length;
  SequenceShape shape = shape_;
  shape.batch = 1;
  shape.seq_length = length;
  const absl::Status status =
      ForwardBody(shape, parameters, tokens, [](Range) { return absl::OkStatus(); });
  CHECK(status.ok()) << status;  // nothing else can fail in it
  kernels_.HeadForward({1, spec_.hidden_size, spec_.vocab_size, spec_.vocab_size},
                       ln_f_out_ + (length - 1) * spec_.hidden_size, parameters + At("wte.weight"),
                       logits);
}

// --- Backward

void Gpt2Model::BackwardBlock(const float* parameters, float* gradients, int64_t layer,
                              const float* in, GradientCursor& cursor) {
  const BlockOffsets& at = offsets_[static_cast<size_t>(layer)];
  const BlockActivations& act = blocks_[static_cast<size_t>(layer)];
  const float* const p = parameters;
  float* const g = gradients;
  const std::string h = "h." + std::to_string(layer) + ".";
  const int64_t rows = shape_.rows();
  const int64_t width = shape_.width;

  const LinearShape mlp_proj{rows, 4 * width, width};
  kernels_.LinearBackwardBias(mlp_proj, dresidual_, g + at.mlp_proj_bias);
  cursor.Finish(h + "mlp.c_proj.bias");
  kernels_.LinearBackwardWeight(mlp_proj, act.fc_gelu, dresidual_, g + at.mlp_proj_weight);
  cursor.Finish(h + "mlp.c_proj.weight");
  kernels_.LinearBackwardInputGelu(mlp_proj, dresidual_, p + at.mlp_proj_weight, act.fc_slope,
                                   dfc_);

  const LinearShape fc{rows, width, 4 * width};
  kernels_.LinearBackwardBias(fc, dfc_, g + at.c_fc_bias);
  cursor.Finish(h + "mlp.c_fc.bias");
  kernels_.LinearBackwardWeight(fc, act.ln_2_out, dfc_, g + at.c_fc_weight);
  cursor.Finish(h + "mlp.c_fc.weight");
  kernels_.LinearBackwardInput(fc, dfc_, p + at.c_fc_weight, dbranch_);
  kernels_.LayerNormBackward(rows, width, act.residual_mid, p + at.ln_2_weight, act.ln_2_mean,
                             act.ln_2_rstd, dbranch_, dresidual_, dresidual_, g + at.ln_2_weight,
                             g + at.ln_2_bias);
  cursor.Finish(h + "ln_2.bias");
  cursor.Finish(h + "ln_2.weight");

  const LinearShape attn_proj{rows, width, width};
  kernels_.LinearBackwardBias(attn_proj, dresidual_, g + at.attn_proj_bias);
  cursor.Finish(h + "attn.c_proj.bias");
  kernels_.LinearBackwardWeight(attn_proj, act.attention_out, dresidual_, g + at.attn_proj_weight);
  cursor.Finish(h + "attn.c_proj.weight");
  kernels_.LinearBackwardInput(attn_proj, dresidual_, p + at.attn_proj_weight, dbranch_);
  kernels_.AttentionBackward(shape_, act.qkv, act.attention_out, act.attention_lse, dbranch_,
                             attention_scratch_, dqkv_);

  const LinearShape c_attn{rows, width, 3 * width};
  kernels_.LinearBackwardBias(c_attn, dqkv_, g + at.c_attn_bias);
  cursor.Finish(h + "attn.c_attn.bias");
  kernels_.LinearBackwardWeight(c_attn, act.ln_1_out, dqkv_, g + at.c_attn_weight);
  cursor.Finish(h + "attn.c_attn.weight");
  kernels_.LinearBackwardInput(c_attn, dqkv_, p + at.c_attn_weight, dbranch_);
  kernels_.LayerNormBackward(rows, width, in, p + at.ln_1_weight, act.ln_1_mean, act.ln_1_rstd,
                             dbranch_, dresidual_, dresidual_, g + at.ln_1_weight,
                             g + at.ln_1_bias);
  cursor.Finish(h + "ln_1.bias");
  cursor.Finish(h + "ln_1.weight");
}

absl::Status Gpt2Model::Backward(const float* parameters, float* gradients, const RangeFn& ready) {
  const float* const p = parameters;
  float* const g = gradients;
  const int64_t rows = shape_.rows();
  const int64_t width = shape_.width;
  GradientCursor cursor(layout_, gradient_size(), g, ready);

  // The head's use of wte has an accumulator of its own, behind all parameters.
  kernels_.HeadBackwardWeight(head_, logits_, ln_f_out_, g + layout_.size());
  cursor.FinishHead(layout_.size(), layout_.Find("wte.weight").tensor.size());
  RETURN_IF_ERROR(cursor.status());
  kernels_.HeadBackwardInput(head_, logits_, p + At("wte.weight"), dbranch_);
  kernels_.LayerNormBackward(rows, width, BlockInput(spec_.num_layers), p + At("ln_f.weight"),
                             ln_f_mean_, ln_f_rstd_, dbranch_, nullptr, dresidual_,
                             g + At("ln_f.weight"), g + At("ln_f.bias"));
  cursor.Finish("ln_f.bias");
  cursor.Finish("ln_f.weight");
  for (int64_t layer = spec_.num_layers - 1; layer >= 0; --layer) {
    BackwardBlock(p, g, layer, BlockInput(layer), cursor);
    RETURN_IF_ERROR(cursor.status());
  }
  kernels_.EmbeddingBackward(shape_, spec_.vocab_size, spec_.seq_length, tokens_, dresidual_,
                             g + At("wte.weight"), g + At("wpe.weight"));
  cursor.Finish("wpe.weight");
  cursor.Finish("wte.weight");
  return cursor.status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> CreateGpt2Model(const ModelSpec& spec,
                                                       int64_t micro_batch_size, int64_t threads,
                                                       Kernels& kernels, Device& device) {
  RETURN_IF_ERROR(Validate(spec));
  if (micro_batch_size < 1 || threads < 1) {
    return absl::InvalidArgumentError(
        "model " + spec.preset +
        ": expected a micro-batch size and a thread count of at least 1, got " +
        std::to_string(micro_batch_size) + " and " + std::to_string(threads) +
        "; check the batch arithmetic of the job");
  }
  const std::vector<PlannedBuffer> plan = PlanActivations(spec, micro_batch_size, threads);
  const SequenceShape shape{micro_batch_size, spec.seq_length, spec.hidden_size,
                            spec.num_attention_heads};
  CHECK_LE(kernels.AttentionScratch(shape), threads * AttentionScratch(shape.head_size()))
      << "the kernels' pool has more threads than the plan";
  ASSIGN_OR_RETURN(Buffer memory,
                   device.Allocate(static_cast<size_t>(TotalBytes(plan)), "activations"));
  return std::make_unique<Gpt2Model>(spec, micro_batch_size, kernels, plan, std::move(memory));
}

}  // namespace dsrun::worker
