// Layer: explicit forward and backward of one layer, on Kernels. What it has, keeps and needs is
// its LayerPlan; all memory comes in with the pass, all of it 64-byte aligned.
//
// Numerics: every output has the same bits for any thread count and any ISA our loops are compiled
// for. Losses and gradients are plain sums over the micro-batch's unmasked tokens, never divided
// here (docs/numerics.md, rule f).
//
// Everything is enqueued on the kernels' stream. Threads: one thread at a time.

#ifndef DSRUN_WORKER_MODEL_LAYER_H_
#define DSRUN_WORKER_MODEL_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "common/base/logging.h"
#include "common/model/model_plan.h"
#include "common/numerics/dropout.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

struct LossSum {
  double loss = 0;     // nats, summed over unmasked tokens in a fixed order
  int64_t tokens = 0;  // unmasked tokens
};

// What a layer computes with, once. Lists stand in the order of its kind's Use, Kept and Work.
struct Pass {
  Kernels& kernels;
  int64_t batch;           // sequences
  int64_t seq_length;      // of them; the plan's or, for sampling, less
  const int32_t* tokens;   // (rows, inputs_of_row), of a language model (batch, seq_length)
  const int32_t* targets;  // (rows, targets_of_row), likewise; below 0: masked
  DType dtype;             // of Reals: what the model computes in
  float gradient_scale;    // backward only: what the gradients are times, a power of two
  std::span<const ConstReals> parameters;
  std::span<float* const> gradients;     // backward only; null: not wanted
  std::span<const float* const> tables;  // by rotary_tables::Table, none where nothing rotates
  std::span<void* const> kept;
  std::span<void* const> workspace;
  double* losses;    // of the host, (rows): written by backward and Loss of the head, in nats
  size_t layer = 0;  // which of the plan it is
  // Of training alone: none where a model is sampled or evaluated. Of one micro-batch, the same in
  // forward, in a second forward and in backward.
  std::optional<PassDraws> draws = {};

  // The masks of dropout at `rate`, for use `use` of this layer's random bits: forward and backward
  // ask alike. Drops nothing outside of training. REQUIRES: IsDropoutRate(rate); `use` is at least
  // kFirstOwnUse where the layer is one's own, and below kUsesOfLayer.
  DropoutMask Mask(double rate, uint32_t use) const {
    CHECK(IsDropoutRate(rate) && use < kUsesOfLayer) << "rate " << rate << ", use " << use;
    return draws ? MaskAt(rate, *draws, SiteOf(layer, use)) : DropoutMask();
  }
  // By the job's own rates.
  DropoutMask HiddenMask() const { return Mask(draws ? draws->rates.hidden : 0, kHiddenUse); }
  DropoutMask AttentionMask() const {
    return Mask(draws ? draws->rates.attention : 0, kAttentionUse);
  }

  int64_t rows() const { return batch * seq_length; }
  Reals Kept(size_t index) const { return {kept[index], dtype}; }
  Reals Work(size_t index) const { return {workspace[index], dtype}; }
  // Of those that are fp32 whatever the model computes in (layer_plan.h).
  float* KeptF32(size_t index) const { return static_cast<float*>(kept[index]); }
  float* WorkF32(size_t index) const { return static_cast<float*>(workspace[index]); }
  // What stands at `tokens` and `targets` where samples are of floats (SampleShape).
  const float* Inputs() const { return Floats(tokens); }
  const float* Targets() const { return Floats(targets); }
  static const float* Floats(const int32_t* elements) {
    return static_cast<const float*>(static_cast<const void*>(elements));
  }
};

class Layer {
 public:
  virtual ~Layer() = default;

  // `in`: the stream, (rows, width), null before the first layer. `out`: likewise, null after the
  // last. Keeps what Backward needs. Not `in`: whoever plays the layers keeps that.
  virtual void Forward(const Pass& pass, ConstReals in, Reals out) = 0;

  // Of the last Forward, with the same pass. Overwrites all of pass.gradients. `dstream`: from the
  // gradient of `out` to that of `in`, in place; what the last layer finds there means nothing.
  virtual void Backward(const Pass& pass, ConstReals in, Reals dstream) = 0;
};

// The last layer of a model. Its logits are needed once, for loss and gradient together, so forward
// leaves them to backward, which computes them kHeadRows rows at a time: all of them never exist.
class Head : public Layer {
 public:
  // The loss alone, after Forward.
  virtual void Loss(const Pass& pass) = 0;
  // After Forward: logits (vocab_size) of one row, or what else the head gives for it, to the host.
  virtual void Logits(const Pass& pass, int64_t row, float* logits) = 0;
};

// REQUIRES: `layer` is a layer of `model`. Both must outlive what is created.
std::unique_ptr<Layer> CreateLayer(const ModelPlan& model, const LayerPlan& layer);
// REQUIRES: its kind is kHead or kRmsHead.
std::unique_ptr<Head> CreateHead(const ModelPlan& model, const LayerPlan& layer);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_LAYER_H_
