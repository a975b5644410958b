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
// communicator, the buffers below the announced position and the scratch belong to the
// communication thread; otherwise to the caller.

#ifndef DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_
#define DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/plan/accumulation_plan.h"
#include "common/plan/canonical_blocks.h"
#include "common/plan/gradient_space.h"
#include "worker/comm/communicator.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

class GradientReducer {
 public:
  struct Setup {
    Communicator* communicator;
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

  explicit GradientReducer(Setup setup);
  ~GradientReducer();  // the communicator must have been aborted if a step is in flight

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
  void RunThread();
  absl::Status ReduceBucket(size_t bucket);
  void EnqueueFinishedBuckets(int64_t position);

  const Setup setup_;
  float* const result_;
  Times times_;
  size_t next_bucket_ = 0;  // not yet enqueued

  Mutex mu_;
  CondVar changed_;
  std::deque<size_t> queue_ ABSL_GUARDED_BY(mu_);
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool quit_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  struct Busy {
    SteadyTime begin;
    SteadyTime end;
  };
  std::vector<Busy> spans_ ABSL_GUARDED_BY(mu_);  // of this step
  std::thread thread_;                            // last: it uses everything above
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_
