// GradientReducer: ZeRO-1's reduce-scatter (Rajbhandari et al., 2020), bucket by bucket, while
// backward is still running.
//
// The last micro-batch announces ranges of the arena whose sums this rank has finished, descending.
// As soon as a whole bucket is finished, the communication thread reduces it over the ranks
// (batch_sums.h). The owner's part ends in result(). Who needs the memory of a bucket waits for it.
//
// Exact sums are the same in any order: neither buckets nor overlap changes a bit.
//
// Threads: one thread calls StartStep, Ready, Await, Finish. Between StartStep and Finish the
// communicator, the sums and results from the announced position up and the scratch belong to the
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
#include "common/plan/shard_plan.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/reduce_scatter.h"
#include "worker/device/kernels.h"
#include "worker/device/stream.h"
#include "worker/parallel/batch_sums.h"
#include "worker/parallel/comm_thread.h"

namespace dsrun::worker {

class GradientReducer {
 public:
  struct Setup {
    Communicator* communicator;
    CommThread* thread;
    const ShardPlan* shards;
    BatchSums* sums;
    float* result;     // (owned size): what the rank owns, one range after the other
    Stream* compute;   // where the sums are made
    Kernels* kernels;  // for the communication thread alone
    // Reduce inside the backward pass what is ready there, and go on meanwhile. Otherwise, at its
    // end; but where buckets only pass (`passing`), each when it is ready, while backward waits.
    bool overlap;
    bool passing;
    // `sums`, a piece of result(), are the sums over the whole batch, and still in the cache, when
    // what was enqueued on the kernels' stream is finished; it has waited for that when it returns.
    // Called from the communication thread, before Finish returns. Errors end the step.
    std::function<absl::Status(std::span<const float> sums)> on_reduced;
    // For the trace: called from the communication thread.
    std::function<void(const std::string& name, SteadyTime begin, SteadyTime end)> on_span;
  };

  // The thread must be destroyed first.
  explicit GradientReducer(Setup setup);

  void StartStep();
  // This rank's sums of everything from `position` of the arena up are enqueued on `compute`.
  // Errors: the first one, of communicator or device.
  absl::Status Ready(int64_t position);
  // Until `bucket` is reduced. REQUIRES: all of it was Ready in this step. Errors: the same.
  absl::Status Await(size_t bucket);
  // Waits until every bucket is reduced. Errors: the same.
  absl::Status Finish();

  // What the rank owns, one range after the other: the sums over the whole batch.
  const float* result() const { return setup_.result; }

  // Of the last finished step.
  struct Times {
    absl::Duration reducing;  // in the communication thread
    absl::Duration hidden;    // of it, inside the backward pass, while that did not wait for it
  };
  Times times() const { return times_; }

 private:
  absl::Status WaitInBackward(CommThread::Ticket ticket);
  void EnqueueFinishedBuckets(int64_t position);
  absl::Status ReduceBucket(size_t bucket);
  absl::Status Reduce(size_t bucket, const std::string& what);

  const Setup setup_;
  struct Bucket {
    Owners owners;
    int64_t offset = 0;  // of what this rank owns of it, in the result
    int64_t owned = 0;   // elements
  };
  std::vector<Bucket> buckets_;
  std::vector<CommThread::Ticket> tickets_;  // by bucket, of this step
  Times times_;
  size_t next_bucket_ = 0;  // not yet handed over
  struct Busy {
    SteadyTime begin;
    SteadyTime end;
  };
  std::vector<Busy> spans_;  // of this step; the communication thread's until Finish has waited
  std::vector<Busy> waits_;  // of this step, by backward; from Finish on, to its end
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_
