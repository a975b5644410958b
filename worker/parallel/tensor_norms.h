// TensorNorms: the norms of each tensor's parameters and of the direction it is about to move in,
// over all owners: what LAMB divides by one another. Squares of leaves in double precision, added
// exactly (common/numerics/exact_sum.h), so the bits are the same at every width
// (docs/numerics.md). One small exchange a step: each rank tells all others the sums of the tensors
// of which it owns a part.
//
// Threads: the communicator's owner.

#ifndef DSRUN_WORKER_PARALLEL_TENSOR_NORMS_H_
#define DSRUN_WORKER_PARALLEL_TENSOR_NORMS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/range.h"
#include "common/numerics/exact_sum.h"
#include "common/plan/shard_plan.h"
#include "worker/comm/core/communicator.h"
#include "worker/parallel/leaf_sums.h"

namespace dsrun::worker {

class TensorNorms {
 public:
  // All must outlive this.
  struct Setup {
    Communicator* communicator;
    const FlatLayout* layout;
    const ShardPlan* shards;
    LeafSums squares;
  };
  struct Norms {
    double parameter = 0;
    double direction = 0;
  };

  explicit TensorNorms(const Setup& setup);

  // A part of what this rank owns: both stand at the element of range.begin, padding included. All
  // of it once before every Gather. Errors: the device's.
  // REQUIRES: range is leaf-aligned.
  absl::Status Add(Range range, const float* param, const float* direction);

  // By tensor of the layout, of those that train; begins anew. Errors: the communicator's first
  // one.
  absl::StatusOr<std::vector<Norms>> Gather();

 private:
  struct Sums {
    ExactSum parameter;
    ExactSum direction;
  };
  const Setup setup_;
  std::vector<Sums> sums_;                      // by tensor, of this rank's part
  std::vector<std::vector<size_t>> tensors_;    // by rank, those of which it owns a part, ascending
  std::vector<std::vector<int64_t>> messages_;  // by rank
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_TENSOR_NORMS_H_
