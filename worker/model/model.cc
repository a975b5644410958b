#include "worker/model/model.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/model/rotary.h"
#include "common/plan/gather_plan.h"
#include "common/plan/recompute_plan.h"

namespace dsrun::worker {
namespace {

// Of the host.
bool AllFinite(ConstReals x, int64_t elements) {
  // An exponent of ones.
  const uint16_t mask = x.dtype() == DType::kBF16 ? 0x7f80 : 0x7c00;
  for (int64_t i = 0; i < elements; ++i) {
    const bool finite =
        x.dtype() == DType::kF32 ? std::isfinite(x.f32()[i]) : (x.bits16()[i] & mask) != mask;
    if (!finite) return false;
  }
  return true;
}

class LayeredModel final : public Model {
 public:
  LayeredModel(ModelPlan plan, const ActivationInput& input, Kernels& kernels)
      : plan_(std::move(plan)),
        activations_(plan_, input),
        micro_batch_size_(input.micro_batch_size),
        slots_(static_cast<size_t>(input.slots)),
        losses_(static_cast<size_t>(input.micro_batch_size * plan_.spec.seq_length)),
        kernels_(kernels) {}
  // What was enqueued uses the memory that goes.
  ~LayeredModel() override { (void)kernels_.stream().Record().Await(); }

  absl::Status Allocate(const LayerFactory& own, Device& device) {
    ASSIGN_OR_RETURN(
        memory_, device.Allocate(Space::kDevice, static_cast<size_t>(activations_.total_bytes()),
                                 "activations"));
    RETURN_IF_ERROR(CreateLayers(own));
    RETURN_IF_ERROR(FillTables());
    dstream_ = RealsAt(activations_.stream_gradient());
    for (size_t slot = 0; slot < slots_.size(); ++slot) FindSlot(activations_.slot(slot), slot);
    for (size_t layer = 0; layer < plan_.layers.size(); ++layer) {
      forward_workspace_.push_back(AllAt(activations_.forward_workspace(layer)));
      backward_workspace_.push_back(AllAt(activations_.backward_workspace(layer)));
    }
    FindReplays();
    return absl::OkStatus();
  }

  absl::Status CreateLayers(const LayerFactory& own) {
    const auto made = [](const LayerPlan& layer, bool is) {
      return is ? absl::OkStatus()
                : absl::InvalidArgumentError(absl::StrCat(
                      "layer ", layer.name, ": nobody makes it; give the function that does"));
    };
    for (size_t index = 0; index + 1 < plan_.layers.size(); ++index) {
      const LayerPlan& layer = plan_.layers[index];
      const bool is_own = layer.kind == LayerKind::kOwn;
      if (!is_own) layers_.push_back(CreateLayer(plan_, layer));
      if (is_own) layers_.push_back(own.layer == nullptr ? nullptr : own.layer(index));
      RETURN_IF_ERROR(made(layer, layers_.back() != nullptr));
    }
    const LayerPlan& head = plan_.layers.back();
    if (head.kind != LayerKind::kOwn) head_ = CreateHead(plan_, head);
    if (head.kind == LayerKind::kOwn && own.head != nullptr) head_ = own.head();
    return made(head, head_ != nullptr);
  }

  const ModelPlan& plan() const override { return plan_; }
  void SetGradientScale(float scale) override { gradient_scale_ = scale; }
  absl::Status Forward(size_t slot, const int32_t* tokens, const int32_t* targets,
                       const std::optional<PassDraws>& draws, ParameterStore& parameters) override;
  absl::StatusOr<LossSum> Backward(size_t slot, ParameterStore& parameters,
                                   GradientSink& gradients) override;
  absl::StatusOr<LossSum> Loss(size_t slot, ParameterStore& parameters) override;
  absl::StatusOr<size_t> FirstBadLayer(size_t slot) override;
  absl::Status Outputs(size_t slot, ParameterStore& parameters, float* out) override;
  absl::Status NextTokenLogits(const int32_t* tokens, int64_t length, ParameterStore& parameters,
                               float* logits) override;

 private:
  struct Slot {
    int32_t* tokens;
    int32_t* targets;
    int64_t unmasked;                      // of the targets
    std::optional<PassDraws> draws;        // of its last Forward
    std::vector<Reals> streams;            // the output of each layer but the last
    std::vector<std::vector<void*>> kept;  // by layer
  };

  // A layer's second forward, and what its backward reads in place of the slot's.
  struct Replay {
    ConstReals in;  // null: that of the slot, which the segment has kept
    Reals out;
    std::vector<void*> kept;
    std::vector<void*> workspace;
    bool ends_segment = false;
    size_t segment_begin = 0;
  };

  template <typename T>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_.data()) + offset);
  }
  Reals RealsAt(int64_t offset) const { return {At<void>(offset), plan_.dtype}; }
  std::vector<void*> AllAt(const std::vector<int64_t>& offsets) const {
    std::vector<void*> pointers;
    for (const int64_t offset : offsets) pointers.push_back(At<void>(offset));
    return pointers;
  }
  absl::Status FillTables() {
    if (plan_.tables.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const HostAccess access,
                     kernels_.stream().OpenForHost(memory_.data(), memory_.bytes()));
    const auto table = [&](size_t index) { return At<float>(activations_.tables()[index]); };
    FillRotaryTables(PlanRotary(plan_.spec), plan_.spec.seq_length, table(rotary_tables::kCosines),
                     table(rotary_tables::kSines));
    for (size_t index = 0; index < plan_.tables.size(); ++index) tables_.push_back(table(index));
    return absl::OkStatus();
  }
  void FindSlot(const ActivationPlan::Slot& plan, size_t index) {
    Slot& slot = slots_[index];
    slot.tokens = At<int32_t>(plan.tokens);
    slot.targets = At<int32_t>(plan.targets);
    for (const int64_t stream : plan.streams) slot.streams.push_back(RealsAt(stream));
    for (const std::vector<int64_t>& kept : plan.kept) slot.kept.push_back(AllAt(kept));
  }

  void FindReplays() {
    replays_.resize(plan_.layers.size());
    for (const Range& segment : activations_.segments()) {
      const auto begin = static_cast<size_t>(segment.begin);
      const auto end = static_cast<size_t>(segment.end);
      for (size_t layer = begin; layer < end; ++layer) {
        const ActivationPlan::Replay& plan = activations_.replay(layer);
        Replay replay{.in = layer == begin ? ConstReals() : replays_[layer - 1]->out,
                      .out = RealsAt(plan.out),
                      .kept = AllAt(plan.kept),
                      .workspace = AllAt(plan.workspace),
                      .ends_segment = layer + 1 == end,
                      .segment_begin = begin};
        replays_[layer] = std::move(replay);
      }
    }
  }

  size_t last() const { return plan_.layers.size() - 1; }
  Layer& layer(size_t index) { return index == last() ? *head_ : *layers_[index]; }
  // Forward, of all sequences; parameters, gradients and losses come in afterwards.
  Pass PassOf(const Slot& slot, size_t layer) const {
    return {.kernels = kernels_,
            .batch = micro_batch_size_,
            .seq_length = plan_.spec.seq_length,
            .tokens = slot.tokens,
            .targets = slot.targets,
            .dtype = plan_.dtype,
            .gradient_scale = gradient_scale_,
            .parameters = {},
            .gradients = {},
            .tables = tables_,
            .kept = slot.kept[layer],
            .workspace = forward_workspace_[layer],
            .losses = nullptr,
            .layer = layer,
            .draws = slot.draws};
  }
  static ConstReals In(const Slot& slot, size_t layer) {
    return layer == 0 ? ConstReals() : slot.streams[layer - 1];
  }
  static Reals Out(const Slot& slot, size_t layer) {
    return layer < slot.streams.size() ? slot.streams[layer] : Reals();
  }
  // What backward of a layer reads: the stream as forward has kept it, or as it was played again.
  ConstReals BackwardIn(const Slot& slot, size_t layer) const {
    const bool again = replays_[layer] && !(replays_[layer]->in == nullptr);
    return again ? replays_[layer]->in : In(slot, layer);
  }
  // play(pass) with the parameters of `layer`.
  template <typename Play>
  static absl::Status With(ParameterStore& parameters, size_t layer, Pass pass, const Play& play) {
    ASSIGN_OR_RETURN(pass.parameters, parameters.Acquire(layer));
    play(pass);
    parameters.Release(layer);
    return absl::OkStatus();
  }
  // To device memory; `tokens` may change when it returns.
  void CopyIn(int32_t* to, const int32_t* tokens, int64_t count) {
    kernels_.stream().Copy(to, tokens, static_cast<size_t>(count) * sizeof(int32_t));
  }
  // Waits for the losses, and adds them up in the order of rows.
  absl::StatusOr<LossSum> SumLosses(const Slot& slot);
  // Every layer, for (batch, seq_length) tokens of the slot.
  absl::Status PlayForward(const Slot& slot, int64_t batch, int64_t seq_length,
                           ParameterStore& parameters);
  // Forward once more, of the segment that `end` is the last layer of.
  absl::Status PlaySegmentAgain(const Slot& slot, size_t end, ParameterStore& parameters);

  const ModelPlan plan_;
  const ActivationPlan activations_;
  const int64_t micro_batch_size_;
  std::vector<Slot> slots_;
  std::vector<double> losses_;  // by row, of the slot that was played last
  Kernels& kernels_;
  Buffer memory_;
  std::vector<std::unique_ptr<Layer>> layers_;  // but the head
  std::unique_ptr<Head> head_;
  std::vector<std::vector<void*>> forward_workspace_;  // by layer
  std::vector<std::vector<void*>> backward_workspace_;
  std::vector<std::optional<Replay>> replays_;  // by layer
  std::vector<const float*> tables_;            // by rotary_tables::Table
  Reals dstream_;
  float gradient_scale_ = 1;
};

absl::Status LayeredModel::PlayForward(const Slot& slot, int64_t batch, int64_t seq_length,
                                       ParameterStore& parameters) {
  for (size_t index = 0; index < plan_.layers.size(); ++index) {
    Pass pass = PassOf(slot, index);
    pass.batch = batch;
    pass.seq_length = seq_length;
    RETURN_IF_ERROR(With(parameters, index, pass, [&](const Pass& with) {
      layer(index).Forward(with, In(slot, index), Out(slot, index));
    }));
  }
  return absl::OkStatus();
}

absl::Status LayeredModel::Forward(size_t slot, const int32_t* tokens, const int32_t* targets,
                                   const std::optional<PassDraws>& draws,
                                   ParameterStore& parameters) {
  Slot& at = slots_[slot];
  at.draws = draws;
  const int64_t rows = micro_batch_size_ * plan_.spec.seq_length;
  CopyIn(at.tokens, tokens, micro_batch_size_ * plan_.InputsOfSample());
  CopyIn(at.targets, targets, micro_batch_size_ * plan_.TargetsOfSample());
  at.unmasked = rows;
  if (plan_.sample.targets == SampleShape::Elements::kIds) {
    at.unmasked = 0;
    const int64_t of_row = plan_.sample.targets_of_row;
    for (int64_t row = 0; row < rows; ++row) at.unmasked += targets[row * of_row] >= 0 ? 1 : 0;
  }
  return PlayForward(at, micro_batch_size_, plan_.spec.seq_length, parameters);
}

absl::Status LayeredModel::PlaySegmentAgain(const Slot& slot, size_t end,
                                            ParameterStore& parameters) {
  for (size_t index = replays_[end]->segment_begin; index <= end; ++index) {
    Pass pass = PassOf(slot, index);
    pass.kept = replays_[index]->kept;
    pass.workspace = replays_[index]->workspace;
    RETURN_IF_ERROR(With(parameters, index, pass, [&](const Pass& with) {
      layer(index).Forward(with, BackwardIn(slot, index), replays_[index]->out);
    }));
  }
  return absl::OkStatus();
}

absl::StatusOr<LossSum> LayeredModel::Backward(size_t slot, ParameterStore& parameters,
                                               GradientSink& gradients) {
  const Slot& at = slots_[slot];
  for (size_t index = plan_.layers.size(); index-- > gradients.lowest_layer();) {
    const std::optional<Replay>& replay = replays_[index];
    if (replay && replay->ends_segment) {
      RETURN_IF_ERROR(PlaySegmentAgain(at, index, parameters));
    }
    Pass pass = PassOf(at, index);
    if (replay) pass.kept = replay->kept;
    pass.workspace = backward_workspace_[index];
    pass.gradients = gradients.Begin(index);
    pass.losses = losses_.data();
    RETURN_IF_ERROR(With(parameters, index, pass, [&](const Pass& with) {
      layer(index).Backward(with, BackwardIn(at, index), dstream_);
    }));
    RETURN_IF_ERROR(gradients.End(index));
  }
  return SumLosses(at);
}

absl::StatusOr<LossSum> LayeredModel::Loss(size_t slot, ParameterStore& parameters) {
  Pass pass = PassOf(slots_[slot], last());
  pass.losses = losses_.data();
  RETURN_IF_ERROR(With(parameters, last(), pass, [&](const Pass& with) { head_->Loss(with); }));
  return SumLosses(slots_[slot]);
}

absl::StatusOr<LossSum> LayeredModel::SumLosses(const Slot& slot) {
  RETURN_IF_ERROR(kernels_.stream().Record().Await());
  LossSum sum{.loss = 0, .tokens = slot.unmasked};
  for (const double loss : losses_) sum.loss += loss;
  return sum;
}

absl::StatusOr<size_t> LayeredModel::FirstBadLayer(size_t slot) {
  const Slot& at = slots_[slot];
  RETURN_IF_ERROR(kernels_.stream().Record().Await());
  ASSIGN_OR_RETURN(const HostAccess access,
                   kernels_.stream().OpenForHost(memory_.data(), memory_.bytes()));
  for (size_t layer = 0; layer < at.streams.size(); ++layer) {
    // What lies inside of a segment has made room for others.
    const bool inside = replays_[layer] && !replays_[layer]->ends_segment;
    const int64_t out = plan_.layers[layer].out;
    const int64_t elements =
        micro_batch_size_ * plan_.spec.seq_length * (out > 0 ? out : plan_.spec.hidden_size);
    if (!inside && !AllFinite(at.streams[layer], elements)) return layer;
  }
  return last();
}

absl::Status LayeredModel::Outputs(size_t slot, ParameterStore& parameters, float* out) {
  const Slot& at = slots_[slot];
  const int64_t rows = micro_batch_size_ * plan_.spec.seq_length;
  RETURN_IF_ERROR(With(parameters, last(), PassOf(at, last()), [&](const Pass& with) {
    for (int64_t row = 0; row < rows; ++row) {
      head_->Logits(with, row, out + row * plan_.spec.vocab_size);
    }
  }));
  return kernels_.stream().Record().Await();
}

absl::Status LayeredModel::NextTokenLogits(const int32_t* tokens, int64_t length,
                                           ParameterStore& parameters, float* logits) {
  CHECK(length >= 1 && length <= plan_.spec.seq_length) << "length " << length;
  Slot& slot = slots_[0];
  slot.draws.reset();
  CopyIn(slot.tokens, tokens, length);
  parameters.BeginPass(PassKind::kForwardOnly);
  RETURN_IF_ERROR(PlayForward(slot, 1, length, parameters));
  RETURN_IF_ERROR(With(parameters, last(), PassOf(slot, last()),
                       [&](const Pass& with) { head_->Logits(with, length - 1, logits); }));
  return kernels_.stream().Record().Await();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> CreateModel(ModelPlan plan, const LayerFactory& own,
                                                   const ActivationInput& input, Kernels& kernels,
                                                   Device& device) {
  const ModelSpec& spec = plan.spec;
  if (input.micro_batch_size < 1 || input.threads < 1 || input.slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model ", spec.preset, ": expected a micro-batch size, a thread count and slots of at ",
        "least 1, got ", input.micro_batch_size, ", ", input.threads, " and ", input.slots,
        "; check the batch arithmetic of the job"));
  }
  RETURN_IF_ERROR(
      CheckRecompute(plan, input.micro_batch_size * spec.seq_length, input.slots, input.recompute));
  const SequenceShape shape{input.micro_batch_size, spec.seq_length,
                            spec.num_attention_heads * spec.head_size(), spec.num_attention_heads};
  const DType dtype = plan.dtype;
  int64_t scratch = AttentionScratch(shape.head_size());
  if (dtype != DType::kF32) scratch += HalfAttentionScratch(shape.head_size(), spec.seq_length);
  CHECK_LE(kernels.AttentionScratch(shape, dtype), input.threads * scratch)
      << "the kernels' pool has more threads than the plan";
  auto model = std::make_unique<LayeredModel>(std::move(plan), input, kernels);
  RETURN_IF_ERROR(model->Allocate(own, device));
  return model;
}

absl::StatusOr<std::unique_ptr<Model>> CreateModel(const ModelSpec& spec,
                                                   const ActivationInput& input, Kernels& kernels,
                                                   Device& device, DType dtype) {
  RETURN_IF_ERROR(Validate(spec));
  return CreateModel(PlanModel(spec, {}, dtype), LayerFactory(), input, kernels, device);
}

}  // namespace dsrun::worker
