// Progress: where the engine of this process is, and whether it moves; what the beat thread tells
// the agent. A beat alone proves only that the process lives: an engine that loops for ever in its
// own code beats on. So every phase, block of the model, byte of a sample and exchange is a move,
// and the beat says how long the next one may take, by the class of the operation (deadlines.h). A
// beat without such a limit (`patience`) says that none is due: while it joins, or while an
// exchange waits for peers, which has a deadline of its own (proto/worker.proto, Beat).
//
// Threads: all methods are thread-safe. Progress must outlive the communicators that watch for it.

#ifndef DSRUN_WORKER_ENGINE_PROGRESS_H_
#define DSRUN_WORKER_ENGINE_PROGRESS_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "proto/worker.pb.h"
#include "worker/comm/core/watched_communicator.h"

namespace dsrun::worker {

class Progress {
 public:
  // A phase begins: a move. `patience`: how long the engine may take for its next one; infinite: no
  // move is due.
  void Set(int64_t step, const std::string& phase,
           absl::Duration patience = absl::InfiniteDuration());
  // Something is done inside the phase.
  void Moved();
  // An exchange begins and ends. Both are moves.
  void EnterExchange();
  void LeaveExchange();

  proto::Beat Get() const;
  // What the main thread of the process, and the one that exchanged last, are doing.
  proto::Stacks TakeStacks() const;

 private:
  mutable Mutex mu_;
  proto::Beat beat_ ABSL_GUARDED_BY(mu_);
  absl::Duration patience_ ABSL_GUARDED_BY(mu_) = absl::InfiniteDuration();
  int exchanges_ ABSL_GUARDED_BY(mu_) = 0;
  pid_t exchanger_ ABSL_GUARDED_BY(mu_) = 0;
};

// What `progress` wants to hear of a communicator's exchanges. `on_long_wait` is given the stacks
// of the threads as they stand when one has waited in vain, from any thread that exchanges.
using LongWaitFn = std::function<void(const std::string& what, absl::Duration waited,
                                      const proto::Stacks& stacks)>;
ExchangeWatch WatchOf(Progress* progress, LongWaitFn on_long_wait);

// The lines of `stacks`, as they go into a rank's log.
std::string StacksText(const proto::Stacks& stacks);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_PROGRESS_H_
