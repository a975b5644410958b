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
      rows_(input.micro_batch_size * model.spec.seq_length),
      positions_(model.spec.seq_length),
      last_moment_(2 * static_cast<int64_t>(model.layers.size()) - 1),
      slots_(static_cast<size_t>(input.slots)) {
  Packer packer;
  for (Slot& slot : slots_) AddSlot(model, slot, packer);
  AddTables(model, packer);
  AddWorkspace(model, packer);
  total_bytes_ = packer.Pack();
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
  return count * activation.elements * BytesOf(activation.dtype);
}

Lifetime ActivationPlan::KeptBy(size_t layer) const {
  if (input_.slots > 1) return {0, last_moment_};
  return {static_cast<int64_t>(layer), last_moment_ - static_cast<int64_t>(layer)};
}

void ActivationPlan::AddSlot(const ModelPlan& model, Slot& slot, Packer& packer) {
  const size_t layers = model.layers.size();
  const int64_t stream = rows_ * model.spec.hidden_size * kFloat;
  packer.Add(rows_ * kFloat, {0, last_moment_}, &slot.tokens);
  packer.Add(rows_ * kFloat, {0, last_moment_}, &slot.targets);
  AddLine("tokens", 2 * Aligned(rows_ * kFloat), DType::kI32, {0, last_moment_}, "2 x batch x seq");
  slot.streams.resize(layers - 1);
  for (size_t layer = 0; layer + 1 < layers; ++layer) {
    // Of use to the layer behind it in both passes.
    const Lifetime reader = KeptBy(layer + 1);
    const Lifetime life = {std::min(KeptBy(layer).first, reader.first), reader.last};
    packer.Add(stream, life, &slot.streams[layer]);
    AddLine("stream", Aligned(stream), DType::kF32, life, "batch x seq x width");
  }
  slot.kept.resize(layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    const std::vector<PlannedActivation>& kept = model.layers[layer].kept;
    slot.kept[layer].resize(kept.size());
    for (size_t i = 0; i < kept.size(); ++i) {
      packer.Add(Bytes(kept[i]), KeptBy(layer), &slot.kept[layer][i]);
      AddLine(kept[i].name, Aligned(Bytes(kept[i])), kept[i].dtype, KeptBy(layer),
              WordsOf(kept[i].per) + kept[i].formula);
    }
  }
}

void ActivationPlan::AddTables(const ModelPlan& model, Packer& packer) {
  tables_.resize(model.tables.size());
  for (size_t i = 0; i < model.tables.size(); ++i) {
    const PlannedActivation& table = model.tables[i];
    packer.Add(Bytes(table), {0, last_moment_}, &tables_[i]);
    AddLine(table.name, Aligned(Bytes(table)), table.dtype, {0, last_moment_},
            WordsOf(table.per) + table.formula);
  }
}

void ActivationPlan::AddWorkspace(const ModelPlan& model, Packer& packer) {
  const size_t layers = model.layers.size();
  packer.Add(rows_ * model.spec.hidden_size * kFloat, {static_cast<int64_t>(layers), last_moment_},
             &stream_gradient_);
  forward_.resize(layers);
  backward_.resize(layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    const std::vector<PlannedActivation>& workspace = model.layers[layer].workspace;
    const auto forward = static_cast<int64_t>(layer);
    const int64_t backward = last_moment_ - forward;
    forward_[layer].resize(workspace.size());
    backward_[layer].resize(workspace.size());
    for (size_t i = 0; i < workspace.size(); ++i) {
      packer.Add(Bytes(workspace[i]), {forward, forward}, &forward_[layer][i]);
      packer.Add(Bytes(workspace[i]), {backward, backward}, &backward_[layer][i]);
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
