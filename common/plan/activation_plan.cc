#include "common/plan/activation_plan.h"

#include <algorithm>

namespace dsrun {
namespace {

constexpr int64_t kAlignBytes = 64;
constexpr int64_t kFloat = 4;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes; }

const char* WordsOf(PlannedActivation::Per per) {
  switch (per) {
    case PlannedActivation::Per::kRow:
      return "batch x seq x ";
    case PlannedActivation::Per::kHeadRow:
      return "rows of logits at a time x ";
    case PlannedActivation::Per::kThread:
      return "threads x ";
    case PlannedActivation::Per::kPosition:
      return "seq x ";
  }
  return "";
}

}  // namespace

// Collects buffers, each with the place where its offset goes once all are packed.
class ActivationPlan::Packer {
 public:
  void Add(int64_t bytes, Lifetime life, int64_t* offset) {
    buffers_.push_back({.bytes = bytes, .life = life});
    offsets_.push_back(offset);
  }
  int64_t Pack() {
    const int64_t total = PackIntervals(buffers_);
    for (size_t i = 0; i < buffers_.size(); ++i) *offsets_[i] = buffers_[i].offset;
    return total;
  }

 private:
  std::vector<PackedBuffer> buffers_;
  std::vector<int64_t*> offsets_;
};

ActivationPlan::ActivationPlan(const ModelPlan& model, const ActivationInput& input)
    : input_(input),
      dtype_(model.dtype),
      rows_(input.micro_batch_size * model.spec.seq_length),
      positions_(model.spec.seq_length),
      segments_(RecomputedSegments(model, rows_, input.slots, input.recompute)),
      slots_(static_cast<size_t>(input.slots)) {
  FindMoments(model.layers.size());
  Packer packer;
  for (Slot& slot : slots_) AddSlot(model, slot, packer);
  AddTables(model, packer);
  AddWorkspace(model, packer);
  AddReplays(model, packer);
  total_bytes_ = packer.Pack();
  for (Slot& slot : slots_) {
    for (size_t layer = 0; layer < model.layers.size(); ++layer) {
      if (IsRecomputed(layer)) slot.kept[layer] = slots_.front().kept[layer];
      if (IsInside(layer)) slot.streams[layer] = slots_.front().streams[layer];
    }
  }
  int64_t kept = 0;
  for (const PlannedBuffer& line : lines_) kept += line.bytes();
  lines_.push_back({.name = "workspace.layer",
                    .group = "workspace",
                    .elements = (total_bytes_ - kept) / kFloat,
                    .formula = "what is needed beside them at the moment that needs most",
                    .life = {0, last_moment_}});
}

int64_t ActivationPlan::Bytes(const PlannedActivation& activation) const {
  int64_t count = rows_;
  if (activation.per == PlannedActivation::Per::kHeadRow) count = std::min(rows_, kHeadRows);
  if (activation.per == PlannedActivation::Per::kThread) count = input_.threads;
  if (activation.per == PlannedActivation::Per::kPosition) count = positions_;
  const int64_t more = BytesOf(dtype_) == 2 ? activation.more_in_16_bits : 0;
  return count * (activation.elements + more) * BytesOf(TypeOf(activation));
}

Lifetime ActivationPlan::KeptBy(size_t layer) const {
  if (input_.slots > 1) return {0, last_moment_};
  return {static_cast<int64_t>(layer), backward_at_[layer]};
}

void ActivationPlan::FindMoments(size_t layers) {
  again_.assign(layers, -1);
  backward_at_.resize(layers);
  replays_.resize(layers);
  auto moment = static_cast<int64_t>(layers);
  auto segment = segments_.rbegin();
  for (size_t layer = layers; layer-- > 0;) {
    if (segment != segments_.rend() && segment->end == static_cast<int64_t>(layer) + 1) {
      for (int64_t i = segment->begin; i < segment->end; ++i) {
        again_[static_cast<size_t>(i)] = moment++;
      }
      ++segment;
    }
    backward_at_[layer] = moment++;
  }
  last_moment_ = moment - 1;
}

bool ActivationPlan::IsInside(size_t layer) const {
  const auto index = static_cast<int64_t>(layer);
  return std::any_of(segments_.begin(), segments_.end(), [&](const Range& segment) {
    return segment.begin <= index && index + 1 < segment.end;
  });
}

void ActivationPlan::AddSlot(const ModelPlan& model, Slot& slot, Packer& packer) {
  const size_t layers = model.layers.size();
  const int64_t stream = rows_ * model.spec.hidden_size * BytesOf(dtype_);
  const int64_t inputs = rows_ * model.sample.inputs_of_row * kFloat;
  const int64_t targets = rows_ * model.sample.targets_of_row * kFloat;
  packer.Add(inputs, {0, last_moment_}, &slot.tokens);
  packer.Add(targets, {0, last_moment_}, &slot.targets);
  AddLine("tokens", Aligned(inputs) + Aligned(targets), DType::kI32, {0, last_moment_},
          model.sample == SampleShape() ? "2 x batch x seq" : "batch x (inputs + targets)");
  slot.streams.resize(layers - 1);
  const bool first_slot = &slot == &slots_.front();
  for (size_t layer = 0; layer + 1 < layers; ++layer) {
    if (IsInside(layer)) {
      const auto now = static_cast<int64_t>(layer);
      if (first_slot) packer.Add(stream, {now, now + 1}, &slot.streams[layer]);
      continue;
    }
    // Of use to the layer behind it in both passes.
    const Lifetime reader = KeptBy(layer + 1);
    const Lifetime life = {std::min(KeptBy(layer).first, reader.first), reader.last};
    packer.Add(stream, life, &slot.streams[layer]);
    AddLine("stream", Aligned(stream), dtype_, life, "batch x seq x width");
  }
  slot.kept.resize(layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    const std::vector<PlannedActivation>& kept = model.layers[layer].kept;
    slot.kept[layer].resize(kept.size());
    for (size_t i = 0; i < kept.size(); ++i) {
      if (IsRecomputed(layer)) {
        const auto now = static_cast<int64_t>(layer);
        if (first_slot) packer.Add(Bytes(kept[i]), {now, now}, &slot.kept[layer][i]);
        continue;
      }
      packer.Add(Bytes(kept[i]), KeptBy(layer), &slot.kept[layer][i]);
      AddLine(kept[i].name, Aligned(Bytes(kept[i])), TypeOf(kept[i]), KeptBy(layer),
              WordsOf(kept[i].per) + kept[i].formula);
    }
  }
}

void ActivationPlan::AddTables(const ModelPlan& model, Packer& packer) {
  tables_.resize(model.tables.size());
  for (size_t i = 0; i < model.tables.size(); ++i) {
    const PlannedActivation& table = model.tables[i];
    packer.Add(Bytes(table), {0, last_moment_}, &tables_[i]);
    AddLine(table.name, Aligned(Bytes(table)), TypeOf(table), {0, last_moment_},
            WordsOf(table.per) + table.formula);
  }
}

void ActivationPlan::AddWorkspace(const ModelPlan& model, Packer& packer) {
  const size_t layers = model.layers.size();
  packer.Add(rows_ * model.spec.hidden_size * BytesOf(dtype_),
             {static_cast<int64_t>(layers), last_moment_}, &stream_gradient_);
  forward_.resize(layers);
  backward_.resize(layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    const std::vector<PlannedActivation>& workspace = model.layers[layer].workspace;
    const auto forward = static_cast<int64_t>(layer);
    const int64_t backward = backward_at_[layer];
    forward_[layer].resize(workspace.size());
    backward_[layer].resize(workspace.size());
    for (size_t i = 0; i < workspace.size(); ++i) {
      packer.Add(Bytes(workspace[i]), {forward, forward}, &forward_[layer][i]);
      packer.Add(Bytes(workspace[i]), {backward, backward}, &backward_[layer][i]);
    }
  }
}

void ActivationPlan::AddReplays(const ModelPlan& model, Packer& packer) {
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    if (!IsRecomputed(layer)) continue;
    const LayerPlan& of = model.layers[layer];
    Replay& replay = replays_[layer];
    const int64_t again = again_[layer];
    // Nobody reads what a segment's last layer gives on: backward is past the layer that did.
    const int64_t read = IsInside(layer) ? backward_at_[layer + 1] : again;
    packer.Add(rows_ * model.spec.hidden_size * BytesOf(dtype_), {again, read}, &replay.out);
    replay.kept.resize(of.kept.size());
    for (size_t i = 0; i < of.kept.size(); ++i) {
      packer.Add(Bytes(of.kept[i]), {again, backward_at_[layer]}, &replay.kept[i]);
    }
    replay.workspace.resize(of.workspace.size());
    for (size_t i = 0; i < of.workspace.size(); ++i) {
      packer.Add(Bytes(of.workspace[i]), {again, again}, &replay.workspace[i]);
    }
  }
}

void ActivationPlan::AddLine(const std::string& name, int64_t bytes, DType dtype, Lifetime life,
                             const std::string& formula) {
  const std::string full = "activations." + name;
  const auto line = std::find_if(lines_.begin(), lines_.end(),
                                 [&](const PlannedBuffer& buffer) { return buffer.name == full; });
  if (line == lines_.end()) {
    lines_.push_back({.name = full,
                      .group = "activations",
                      .dtype = dtype,
                      .elements = bytes / BytesOf(dtype),
                      .formula = formula,
                      .life = life});
    return;
  }
  line->elements += bytes / BytesOf(dtype);
  line->life = {std::min(line->life.first, life.first), std::max(line->life.last, life.last)};
  if (!line->formula.starts_with("layers x ")) line->formula = "layers x " + line->formula;
}

}  // namespace dsrun
