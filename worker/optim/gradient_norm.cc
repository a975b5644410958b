#include "worker/optim/gradient_norm.h"

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/base/logging.h"
#include "common/base/range.h"

namespace dsrun::worker {

double SumLeaves(const FlatLayout& layout, std::span<const double> leaves) {
  CHECK_EQ(static_cast<int64_t>(leaves.size()), layout.leaf_count());
  double total = 0;
  for (const int index : layout.name_order()) {
    const Range flat = layout.entries()[static_cast<size_t>(index)].padded();
    double sum = 0;
    for (int64_t leaf = flat.begin / kLeafElements; leaf < flat.end / kLeafElements; ++leaf) {
      sum += leaves[static_cast<size_t>(leaf)];
    }
    total += sum;
  }
  return total;
}

double ClipFactor(double norm, double max_norm) {
  if (max_norm <= 0 || !std::isfinite(norm) || norm <= max_norm) return 1;
  return max_norm / norm;
}

}  // namespace dsrun::worker
