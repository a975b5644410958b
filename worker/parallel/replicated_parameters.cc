#include "worker/parallel/replicated_parameters.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"

namespace dsrun::worker {

ReplicatedParameters::ReplicatedParameters(const ModelPlan& model, const FlatLayout& layout,
                                           ConstReals arena, AwaitFn await)
    : await_(std::move(await)) {
  for (const LayerPlan& layer : model.layers) {
    LayerPlace place;
    for (const size_t tensor : layer.uses) {
      const FlatLayout::Entry& entry = layout.entries()[tensor];
      place.tensors.push_back(arena + entry.offset);
      if (entry.tensor.trainable) place.end = std::max(place.end, entry.padded().end);
    }
    layers_.push_back(std::move(place));
  }
}

absl::StatusOr<std::span<const ConstReals>> ReplicatedParameters::Acquire(size_t layer) {
  const LayerPlace& place = layers_[layer];
  if (await_ != nullptr) {
    RETURN_IF_ERROR(await_(place.end));
  }
  return std::span<const ConstReals>(place.tensors);
}

}  // namespace dsrun::worker
