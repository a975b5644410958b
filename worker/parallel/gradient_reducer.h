// GradientReducer: ZeRO's reduce-scatter (Rajbhandari et al., 2020), part by part, while backward
// is still running. A part is a bucket, or some of one (common/plan/sum_places.h).
//
// A step has one round of all parts, or one for each atom of the rank that has most (RoundsOf). The
// last micro-batch of a round announces the parts that this rank has finished, in their order. The
// communication thread then reduces each over the ranks (batch_sums.h). What the owner gets of it
// in the last round ends in result(). Who needs the memory of a part waits for it.
//
// Exact sums are the same in any order: neither buckets nor overlap changes a bit.
//
// Threads: one thread calls StartStep, Ready, Await, NextRound, Finish. Between StartStep and
// Finish the communicator, the sums and results of announced parts and the scratch belong to the
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
#include "common/plan/sum_places.h"
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
    const SumPlaces* places;  // which parts there are
    int64_t rounds;           // of a step
    BatchSums* sums;
    float* result;     // (owned size): what the rank owns, one range after the other
    Stream* compute;   // where the sums are made
    Kernels* kernels;  // for the communication thread alone
    // Reduce inside the backward pass what is ready there, and go on meanwhile. Otherwise, at its
    // end; but where parts only pass (`passing`), each when it is ready, while backward waits.
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
  // What this rank has of the parts below `parts` in this round is enqueued on `compute`.
  // Errors: the first one, of communicator or device.
  absl::Status Ready(size_t parts);
  // Until `part` is reduced. REQUIRES: it was Ready in this round. Errors: the same.
  absl::Status Await(size_t part);
  // Until it is reduced as of the round before; at once, where there was none. Errors: the same.
  absl::Status AwaitRoundBefore(size_t part);
  // All parts are Ready, and the next round begins. A rank that has nothing for a round has called
  // nothing else in it. Errors: the same.
  absl::Status NextRound();
  // All parts of the last round are Ready. Waits until every one is reduced. Errors: the same.
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
  void Enqueue(size_t parts);
  absl::Status ReducePart(size_t part, int64_t round);
  absl::Status Reduce(size_t part, int64_t round, const std::string& what);

  const Setup setup_;
  struct Part {
    Owners owners;
    int64_t offset = 0;  // of what this rank owns of it, in the result; of a whole one
    int64_t owned = 0;   // elements
  };
  std::vector<Part> parts_;
  std::vector<CommThread::Ticket> tickets_;  // by part, the last of this step; 0: none
  Times times_;
  int64_t round_ = 0;
  size_t next_ = 0;  // part that is not yet handed over in this round
  struct Busy {
    SteadyTime begin;
    SteadyTime end;
  };
  std::vector<Busy> spans_;  // of this step; the communication thread's until Finish has waited
  std::vector<Busy> waits_;  // of this step, by backward; from Finish on, to its end
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_GRADIENT_REDUCER_H_
