#include "worker/api/model.h"

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

using Elements = SampleShape::Elements;

std::span<float> AsFloats(std::span<int32_t> words) {
  return {static_cast<float*>(static_cast<void*>(words.data())), words.size()};
}

absl::Status NobodyMakes(const OwnModel& model, const LayerDescription& layer) {
  return absl::InvalidArgumentError(absl::StrCat("model ", model.name, ", layer ", layer.name,
                                                 ": it has no function that makes it"));
}

}  // namespace

absl::StatusOr<worker::OwnModel> PlanModel(const OwnModel& model) {
  ModelDescription description{.name = model.name,
                               .rows = model.rows,
                               .sample = model.sample,
                               .outputs = model.outputs,
                               .heads = model.heads,
                               .layers = {}};
  std::vector<std::function<std::unique_ptr<Layer>()>> makers;
  for (const OwnLayer& layer : model.layers) {
    if (layer.plan.kind == LayerKind::kOwn && layer.make == nullptr) {
      return NobodyMakes(model, layer.plan);
    }
    description.layers.push_back(layer.plan);
    makers.push_back(layer.make);
  }
  if (model.head.make == nullptr) return NobodyMakes(model, model.head.plan);
  description.layers.push_back(model.head.plan);
  if (model.head.check != nullptr) {
    RETURN_IF_ERROR(model.head.check(model))
        << "model " << model.name << ", layer " << model.head.plan.name;
  }
  worker::OwnModel own;
  ASSIGN_OR_RETURN(own.plan, PlanOwnModel(description));
  own.layers.layer = [makers = std::move(makers)](size_t index) { return makers[index](); };
  own.layers.head = model.head.make;
  return own;
}

std::function<void(int64_t index, std::span<int32_t> inputs, std::span<int32_t> targets)>
SampleWords(const SampleShape& shape, SampleFn sample) {
  return [shape, sample = std::move(sample)](int64_t index, std::span<int32_t> inputs,
                                             std::span<int32_t> targets) {
    Sample parts;
    if (shape.inputs == Elements::kFloats) parts.inputs = AsFloats(inputs);
    if (shape.inputs == Elements::kIds) parts.input_ids = inputs;
    if (shape.targets == Elements::kFloats) parts.targets = AsFloats(targets);
    if (shape.targets == Elements::kIds) parts.target_ids = targets;
    sample(index, parts);
  };
}

}  // namespace dsrun
