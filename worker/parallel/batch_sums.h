// BatchSums: the sum of gradients over the batch, on one rank and over the ranks. Backward's
// gradients go in, tensor by tensor; when all are in, a part at a time (a bucket, but for ZeRO-2's
// earlier uses of tensors, common/plan/sum_places.h) is reduced over the ranks, and the owners get
// floats.
//
//   exact   64-bit integers (docs/numerics.md): the same bits in every layout. The greatest
//           magnitude that went in is kept for each tensor: it says afterwards whether all fitted
//           (gradient_exponents.h).
//   fast    fp32, in the order in which they come: half the memory and bytes, other bits in every
//           layout. What DeepSpeed does; here to measure against.
//
// The first contribution of a step is stored, the others are added. In buckets that only pass
// (common/plan/sum_places.h) there is one for each element: it is kept as the floats that it is,
// and exact sums make integers of it where it is reduced (reduce_scatter.h).
//
// Where the owners alone hold sums (places->of_owners()) every atom's contributions pass, a round
// an atom, and the owner adds up what the rounds bring of its own.
//
// Threads: one thread calls StartStep, Add and Magnitudes; Reduce is the communicator's owner's,
// for parts in which every contribution of this rank is. Magnitudes: after the last Reduce.

#ifndef DSRUN_WORKER_PARALLEL_BATCH_SUMS_H_
#define DSRUN_WORKER_PARALLEL_BATCH_SUMS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/range.h"
#include "common/plan/shard_plan.h"
#include "common/plan/sum_places.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/reduce_scatter.h"
#include "worker/device/kernels.h"
#include "worker/parallel/gradient_exponents.h"

namespace dsrun::worker {

class BatchSums {
 public:
  virtual ~BatchSums() = default;

  // Nothing counts that went in before.
  virtual void StartStep() = 0;
  // What one use of entry `tensor` of the layout has in `flat`, inside of `part`. Every element
  // once an atom and use; `first`: in this step.
  virtual void Add(size_t part, size_t tensor, Range flat, const float* gradients, bool first) = 0;
  // By trainable tensor: the greatest magnitude that this rank made integers of in the step
  // (Kernels::StoreFixed); fast: all 0. Of single contributions that is their receiver. Waits for
  // what was added. Errors: the device's.
  virtual absl::StatusOr<std::span<const uint32_t>> Magnitudes() = 0;

  // Over the ranks. `result` gets what this rank owns of it, one range after the other, where the
  // step has nothing more of the part (IsComplete); it has waited for its kernels when it returns.
  // `kernels`: for the calling thread. `round`: of the step, on all ranks; `owners`: of the part.
  // REQUIRES: what was added to this part in this round is finished. Errors: the communicator's,
  // the device's.
  virtual absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t part,
                              int64_t round, const Owners& owners, float* result,
                              const std::string& what) = 0;
};

// Memory is the caller's: `sums` has places->held_elements(), all 0 at first (padding stays so),
// and where places->of_owners() the rank's own of every bucket that IsSummed, one after the other;
// `slots` places->slot_elements(), `scratch` as many as SumsScratch says. All must outlive the
// sums.
struct BatchSumsSetup {
  const FlatLayout* layout;
  const ShardPlan* shards;
  const SumPlaces* places;             // of this rank
  std::vector<int64_t> atoms_of_rank;  // in a step: the same on all ranks
  int rank;
  Kernels* kernels;  // for the thread that calls Add
  // Of the device, two for each trainable tensor: of what was added, and of what was reduced.
  uint32_t* magnitudes;
  ReduceRoute route;
  float* slots;
};

// Of a step: the most atoms of a rank where the owners hold the sums, else 1.
int64_t RoundsOf(const SumPlaces& places, const std::vector<int64_t>& atoms_of_rank);
// Whether the step has nothing more of `part` after its turn in `round` of `rounds`.
inline bool IsComplete(const SumPlaces::Part& part, int64_t round, int64_t rounds) {
  return part.whole && round + 1 == rounds;
}

// Elements of scratch that the largest bucket needs.
int64_t SumsScratch(const BatchSumsSetup& setup, bool exact);

std::unique_ptr<BatchSums> ExactSums(const BatchSumsSetup& setup,
                                     const GradientExponents& exponents, uint64_t* sums,
                                     std::span<uint64_t> scratch);
std::unique_ptr<BatchSums> FastSums(const BatchSumsSetup& setup, float* sums,
                                    std::span<float> scratch);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_BATCH_SUMS_H_
