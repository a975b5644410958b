// StepExchange: the one small all-gather of a step. Every rank tells all others its losses, the
// squares of its owned gradients, the greatest magnitude of its contributions to each tensor, and
// whether it was asked to stop; every rank then adds up the exact sums and comes to the same bits,
// whatever the layout (docs/numerics.md). Whether a rank is still saving goes with it, so that all
// skip the same save.
//
// Threads: the communicator's owner.

#ifndef DSRUN_WORKER_PARALLEL_STEP_EXCHANGE_H_
#define DSRUN_WORKER_PARALLEL_STEP_EXCHANGE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/numerics/exact_sum.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

class StepExchange {
 public:
  // Of this rank alone.
  struct Part {
    ExactSum loss;                         // over its unmasked tokens
    ExactSum grad_square;                  // squares of the summed gradient's elements that it owns
    int64_t tokens = 0;                    // unmasked
    bool stop = false;                     // it was asked to stop
    bool saving = false;                   // its older save is not through
    std::span<const uint32_t> magnitudes;  // by tensor (GradientSums)
  };
  // Of all ranks.
  struct Sums {
    double loss = 0;
    double grad_square = 0;
    int64_t tokens = 0;
    bool stop = false;
    bool saving = false;
    std::vector<uint32_t> magnitudes;
  };

  // `communicator` must outlive this.
  StepExchange(Communicator& communicator, size_t tensors);

  // Errors: the communicator's first one.
  absl::StatusOr<Sums> Gather(const Part& mine);

 private:
  Communicator& communicator_;
  const size_t tensors_;
  std::vector<std::vector<int64_t>> messages_;  // by rank
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_STEP_EXCHANGE_H_
