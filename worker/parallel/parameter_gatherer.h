// ParameterGatherer: ZeRO-1's all-gather of the updated parameters, while the next forward pass is
// already running (Megatron-LM's --overlap-param-gather; PyTorch FSDP's prefetch). It goes bucket
// by bucket in the order in which forward reads them, and forward waits for no more than it reads
// next.
//
// Threads: one thread calls Start, StartWithFrozen and Await. From Start until everything was
// awaited the communicator belongs to the communication thread, and the parameters are only read.

#ifndef DSRUN_WORKER_PARALLEL_PARAMETER_GATHERER_H_
#define DSRUN_WORKER_PARALLEL_PARAMETER_GATHERER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/range.h"
#include "common/plan/shard_plan.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/reals.h"
#include "worker/device/stream.h"
#include "worker/parallel/comm_thread.h"

namespace dsrun::worker {

class ParameterGatherer {
 public:
  struct Setup {
    Communicator* communicator;
    CommThread* thread;
    Stream* compute;  // where they are updated
    Stream* stream;   // of the communication thread
    const ShardPlan* shards;
    Range frozen;      // of the arena, behind all buckets; may be empty
    Reals parameters;  // the arena
    // For the trace: called from the communication thread.
    std::function<void(const std::string& name, SteadyTime begin, SteadyTime end)> on_span;
  };

  // The thread must be destroyed first.
  explicit ParameterGatherer(Setup setup);

  // Every rank has enqueued the update of what it owns. Does not wait.
  void Start();
  // Every rank has enqueued what it stores, frozen tensors too: where nobody has read the whole.
  void StartWithFrozen();
  // Until the elements below `end` are those of every owner. Errors: the communicator's first one;
  // the elements are undefined then.
  absl::Status Await(int64_t end);

 private:
  // Of a range of the arena, which its owners have by rank.
  CommThread::Ticket Enqueue(const Event& updated, Range range,
                             std::vector<std::vector<Range>> by_rank, std::string what);
  absl::Status Gather(Range range, const std::vector<std::vector<Range>>& by_rank,
                      const std::string& what);

  const Setup setup_;
  std::vector<Range> pieces_;                // ascending, adjacent, covering the arena
  std::vector<CommThread::Ticket> tickets_;  // of the pieces, in flight or done
  size_t next_ = 0;                          // the first piece that was not awaited
  CommThread::Ticket frozen_ = 0;            // in flight; 0: nothing is
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_PARAMETER_GATHERER_H_
