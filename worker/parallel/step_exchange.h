// StepExchange: the one small all-gather of a step. Every rank tells all others its blocks' losses,
// the sums of squares of its owned leaves, and whether it was asked to stop; every rank then adds
// them in the fixed orders of docs/numerics.md and comes to the same bits.
// Whether a rank is still saving goes with it, so that all skip the same save.
//
// Threads: the communicator's owner.

#ifndef DSRUN_WORKER_PARALLEL_STEP_EXCHANGE_H_
#define DSRUN_WORKER_PARALLEL_STEP_EXCHANGE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/canonical_blocks.h"
#include "common/plan/shard_plan.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

class StepExchange {
 public:
  struct Sums {
    double loss = 0;         // over all unmasked tokens of the global batch
    int64_t tokens = 0;      // unmasked
    double grad_square = 0;  // sum of squares of the summed gradient
    bool stop = false;       // any rank was asked to stop
    bool saving = false;     // any rank's older save is not through
  };

  // All four must outlive this.
  StepExchange(Communicator& communicator, const BatchPlan& batch, const FlatLayout& layout,
               const ShardPlan& shards);

  // To be filled before Gather.
  std::span<double> block_losses() { return block_losses_; }  // of the rank's blocks, in order
  std::span<double> leaf_squares() { return leaf_squares_; }  // of its owned leaves, ascending

  // Errors: the communicator's first one.
  absl::StatusOr<Sums> Gather(int64_t tokens, bool stop, bool saving = false);

 private:
  size_t MessageDoubles(int64_t rank) const;
  Sums Add() const;

  Communicator& communicator_;
  const BatchPlan& batch_;
  const FlatLayout& layout_;
  const ShardPlan& shards_;
  // messages_[r]: {tokens, stop and saving, block losses, leaf squares} of rank r. Counts below
  // 2^53 are exact.
  std::vector<std::vector<double>> messages_;
  std::span<double> block_losses_;  // inside the own message
  std::span<double> leaf_squares_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_STEP_EXCHANGE_H_
