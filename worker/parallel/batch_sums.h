// BatchSums: the sum of gradients over the batch, on one rank and over the ranks. Backward's
// gradients go in, tensor by tensor; when all are in, a bucket at a time is reduced over the ranks,
// and the owners get floats.
//
//   exact   64-bit integers (docs/numerics.md): the same bits in every layout. The greatest
//           magnitude that went in is kept for each tensor: it says afterwards whether all fitted
//           (gradient_exponents.h).
//   fast    fp32, in the order in which they come: half the memory and bytes, other bits in every
//           layout. What DeepSpeed does; here to measure against.
//
// The first contribution of a step is stored, the others are added.
//
// Threads: one thread calls StartStep, Add and Magnitudes; Reduce is the communicator's owner's,
// for ranges in which every contribution of this rank is.

#ifndef DSRUN_WORKER_PARALLEL_BATCH_SUMS_H_
#define DSRUN_WORKER_PARALLEL_BATCH_SUMS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/plan/shard_plan.h"
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
  // What one use of entry `tensor` of the layout has: `gradients`, of its size. Once an atom.
  virtual void Add(size_t tensor, const float* gradients) = 0;
  // By tensor: the greatest magnitude of the step (Kernels::StoreFixed); fast: all 0. Waits for
  // what was added. Errors: the device's.
  virtual absl::StatusOr<std::span<const uint32_t>> Magnitudes() = 0;

  // Over the ranks. `result` gets what this rank owns of it, one range after the other, when what
  // was enqueued is finished. `kernels`: for the calling thread. REQUIRES: what was added to these
  // ranges is finished. Errors: the communicator's, the device's.
  virtual absl::Status Reduce(Communicator& communicator, Kernels& kernels, const Owners& owners,
                              float* result, const std::string& what) = 0;
};

// Memory is the caller's: `sums` has layout->size() elements, all 0 at first (padding stays so),
// `scratch` as many as ReduceScratchElements says for the largest bucket. All must outlive the
// sums.
struct BatchSumsSetup {
  const FlatLayout* layout;
  Kernels* kernels;      // for the thread that calls Add
  uint32_t* magnitudes;  // of the device, one a tensor
  ReduceRoute route;
};
std::unique_ptr<BatchSums> ExactSums(const BatchSumsSetup& setup,
                                     const GradientExponents& exponents, uint64_t* sums,
                                     std::span<uint64_t> scratch);
std::unique_ptr<BatchSums> FastSums(const BatchSumsSetup& setup, float* sums,
                                    std::span<float> scratch);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_BATCH_SUMS_H_
