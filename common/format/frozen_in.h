// Which parameters were frozen in a checkpoint: those without any of the optimizer's state, or,
// where the optimizer keeps none, those that the manifest lists. Pure.

#ifndef DSRUN_COMMON_FORMAT_FROZEN_IN_H_
#define DSRUN_COMMON_FORMAT_FROZEN_IN_H_

#include <set>
#include <string>

#include "common/format/manifest.h"
#include "common/format/tensor_names.h"

namespace dsrun {

// Names of parameters, without prefix.
inline std::set<std::string> FrozenIn(const Manifest& manifest) {
  const OptimizerFacts& optimizer = manifest.facts.optimizer;
  if (optimizer.slots.empty()) return {optimizer.frozen.begin(), optimizer.frozen.end()};
  std::set<std::string> frozen;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (tensor.name.starts_with(kModelPrefix)) {
      frozen.insert(tensor.name.substr(kModelPrefix.size()));
    }
  }
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (!tensor.name.starts_with(kStatePrefix)) continue;
    const size_t slash = tensor.name.find('/', kStatePrefix.size());
    if (slash != std::string::npos) frozen.erase(tensor.name.substr(slash + 1));
  }
  return frozen;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_FROZEN_IN_H_
