#include "common/plan/activation_plan.h"

#include <algorithm>

namespace dsrun {
namespace {

constexpr int64_t kAlignBytes = 64;
constexpr int64_t kFloat = 4;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes; }

const char* NameOf(PlannedActivation::Per per) {
  switch (per) {
    case PlannedActivation::Per::kRow:
      return "batch x seq x ";
    case PlannedActivation::Per::kHeadRow:
      return "rows of logits at a time x ";
    case PlannedActivation::Per::kThread:
      return "threads x ";
  }
  return "";
}

}  // namespace

ActivationPlan::ActivationPlan(const ModelPlan& model, const ActivationInput& input)
    : input_(input), rows_(input.micro_batch_size * model.spec.seq_length) {
  for (int64_t slot = 0; slot < input.slots; ++slot) PlaceSlot(model);
  PlaceWorkspace(model);
}

int64_t ActivationPlan::Elements(const PlannedActivation& activation) const {
  switch (activation.per) {
    case PlannedActivation::Per::kRow:
      return rows_ * activation.elements;
    case PlannedActivation::Per::kHeadRow:
      return std::min(rows_, kHeadRows) * activation.elements;
    case PlannedActivation::Per::kThread:
      return input_.threads * activation.elements;
  }
  return 0;
}

int64_t ActivationPlan::Place(int64_t bytes) {
  const int64_t at = total_bytes_;
  total_bytes_ += Aligned(bytes);
  return at;
}

void ActivationPlan::PlaceSlot(const ModelPlan& model) {
  Slot slot;
  slot.tokens = Place(rows_ * kFloat);
  slot.targets = Place(rows_ * kFloat);
  AddLine("activations", "tokens", 2 * Aligned(rows_ * kFloat) / kFloat, kFloat, "2 x batch x seq");
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    const LayerPlan& plan = model.layers[layer];
    if (layer + 1 < model.layers.size()) {
      const int64_t bytes = rows_ * model.spec.hidden_size * kFloat;
      slot.streams.push_back(Place(bytes));
      AddLine("activations", "stream", Aligned(bytes) / kFloat, kFloat, "batch x seq x width");
    }
    std::vector<int64_t>& kept = slot.kept.emplace_back();
    for (const PlannedActivation& activation : plan.kept) {
      const int64_t bytes = Elements(activation) * activation.element_bytes;
      kept.push_back(Place(bytes));
      AddLine("activations", activation.name, Aligned(bytes) / activation.element_bytes,
              activation.element_bytes, NameOf(activation.per) + activation.formula);
    }
  }
  slots_.push_back(std::move(slot));
}

void ActivationPlan::PlaceWorkspace(const ModelPlan& model) {
  const int64_t stream = rows_ * model.spec.hidden_size * kFloat;
  stream_gradient_ = Place(stream);
  AddLine("workspace", "dstream", Aligned(stream) / kFloat, kFloat, "batch x seq x width");
  const int64_t begin = total_bytes_;
  int64_t end = begin;
  std::string largest;
  for (const LayerPlan& layer : model.layers) {
    total_bytes_ = begin;
    std::vector<int64_t>& offsets = workspace_.emplace_back();
    for (const PlannedActivation& activation : layer.workspace) {
      offsets.push_back(Place(Elements(activation) * activation.element_bytes));
    }
    if (total_bytes_ > end) largest = layer.name;
    end = std::max(end, total_bytes_);
  }
  total_bytes_ = end;
  AddLine("workspace", "layer", (end - begin) / kFloat, kFloat,
          "of the layer that needs most: " + largest);
}

void ActivationPlan::AddLine(const std::string& group, const std::string& name, int64_t elements,
                             int64_t element_bytes, const std::string& formula) {
  const std::string full = group + "." + name;
  const auto line = std::find_if(lines_.begin(), lines_.end(),
                                 [&](const PlannedBuffer& buffer) { return buffer.name == full; });
  if (line == lines_.end()) {
    lines_.push_back({full, group, elements, element_bytes, formula});
    return;
  }
  line->elements += elements;
  if (!line->formula.starts_with("layers x ")) line->formula = "layers x " + line->formula;
}

}  // namespace dsrun
