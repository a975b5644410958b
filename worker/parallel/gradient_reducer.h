// GradientReducer: ZeRO-1's reduce-scatter (Rajbhandari et al., 2020), bucket by bucket, while
// backward is still running.
//
// The last micro-batch's backward announces finished ranges of the gradient space, descending. As
// soon as a whole bucket is finished, the communication thread adds it to what the rank's earlier
// micro-batches left (the last additions of the AccumulationPlan), and reduces it over the ranks in
// the fixed tree (canonical_reduce.h). The owner's slice of the result ends in result().
//
// The same additions in the same order are made whatever the buckets and with or without overlap:
// neither changes a bit.
//
// Threads: one thread calls StartStep, Ready, Finish. Between StartStep and Finish the
// communicator, the buffers from the announced position up and the scratch belong to the
// communication thread.

#ifndef DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_
#define DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/plan/accumulation_plan.h"
#include "common/plan/canonical_blocks.h"
#include "common/plan/gradient_space.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/kernels.h"
#include "worker/parallel/comm_thread.h"

namespace dsrun::worker {

class GradientReducer {
 public:
  struct Setup {
    Communicator* communicator;
    CommThread* thread;
    const BatchPlan* batch;
    const GradientSpace* space;
    const AccumulationPlan* accumulation;  // of this rank
    std::vector<float*> buffers;           // gradient buffers, accumulation->buffer_count of them
    std::span<float> scratch;              // ScratchElements()
    Kernels* kernels;                      // for the communication thread alone
    bool overlap;
    // The owned elements in `range` of the gradient space are the sum over the whole batch, and
    // still in the cache. Called from the communication thread, before Finish returns.
    std::function<void(Range range)> on_reduced;
    // For the trace: called from the communication thread.
    std::function<void(const std::string& name, SteadyTime begin, SteadyTime end)> on_span;
  };

  // Floats of scratch that the largest bucket needs.
  static int64_t ScratchElements(const BatchPlan& batch, const GradientSpace& space, int64_t rank);

  // The thread must be destroyed first.
  explicit GradientReducer(Setup setup);

  void StartStep();
  // Gradients in `range` are final in the last micro-batch's target buffer.
  void Ready(Range range);
  // Waits until every bucket is reduced. Errors: the communicator's first one.
  absl::Status Finish();

  // Base of the gradient space; the rank's owned elements hold the sum over the whole batch.
  const float* result() const { return result_; }
  float* result() { return result_; }

  // Of the last finished step.
  struct Times {
    absl::Duration reducing;  // in the communication thread
    absl::Duration hidden;    // of it, before Finish was called: inside the backward pass
  };
  Times times() const { return times_; }

 private:
  void EnqueueFinishedBuckets(int64_t position);
  absl::Status ReduceBucket(size_t bucket);
  absl::Status Reduce(Range range, const std::string& what);

  const Setup setup_;
  float* const result_;
  Times times_;
  size_t next_bucket_ = 0;  // not yet handed over
  struct Busy {
    SteadyTime begin;
    SteadyTime end;
  };
  std::vector<Busy> spans_;  // of this step; the communication thread's until Finish has waited
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_
