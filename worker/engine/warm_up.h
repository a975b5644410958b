// What this device can do now, measured by products of the model's own width: where the limit of
// the first step comes from (deadlines.h).

#ifndef DSRUN_WORKER_ENGINE_WARM_UP_H_
#define DSRUN_WORKER_ENGINE_WARM_UP_H_

#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

struct WarmUp {
  int64_t width;                   // of the model: weights are (width, 4 width)
  int64_t rows;                    // of a micro-batch; fewer are taken where these are too many
  std::span<const float> weights;  // at least 4 width^2, 64-byte aligned; read
  std::span<float> scratch;        // at least 5 width, 64-byte aligned; overwritten
};

// How long `flops` would take at the speed that is measured: by the slowest quarter of the products
// that fit into some ten milliseconds, of one at least, after one that does not count. Each is so
// small that it takes less than a second on the slowest machine. Infinite where nothing can be
// measured.
absl::Duration EstimateTime(Kernels& kernels, const WarmUp& warm_up, double flops);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_WARM_UP_H_
