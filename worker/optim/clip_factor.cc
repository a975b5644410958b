#include "worker/optim/clip_factor.h"

#include <cmath>

namespace dsrun::worker {

double ClipFactor(double norm, double max_norm) {
  if (max_norm <= 0 || !std::isfinite(norm) || norm <= max_norm) return 1;
  return max_norm / norm;
}

}  // namespace dsrun::worker
