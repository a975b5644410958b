// Which parameters were frozen in a checkpoint: those without any of the optimizer's state. A
// checkpoint says it in no other way. Pure.

#ifndef DSRUN_COMMON_FORMAT_FROZEN_IN_H_
#define DSRUN_COMMON_FORMAT_FROZEN_IN_H_

#include <set>
#include <string>

#include "common/format/manifest.h"
#include "common/format/tensor_names.h"

namespace dsrun {

// Names of parameters, without prefix.
inline std::set<std::string> FrozenIn(const Manifest& manifest) {
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
