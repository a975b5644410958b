// LeafSums: the squares of leaves, into an exact sum, for norms of what lies on the device: in
// double precision by leaf, exact over leaves (docs/numerics.md).
//
// Threads: the kernels' caller.

#ifndef DSRUN_WORKER_PARALLEL_LEAF_SUMS_H_
#define DSRUN_WORKER_PARALLEL_LEAF_SUMS_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "common/numerics/exact_sum.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

// Where squares stand on their way, so many leaves at a time.
struct LeafSums {
  Kernels* kernels;
  double* leaf_squares;       // the device's, for as many leaves as `squares` has
  std::span<double> squares;  // the host's; at least one

  // Adds those of `elements` (whole leaves) at `x` to `sum`. Errors: the device's.
  absl::Status Add(int64_t elements, const float* x, ExactSum& sum) const;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_LEAF_SUMS_H_
