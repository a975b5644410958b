// WatchedCommunicator: a communicator whose exchanges somebody hears of. A decorator; knows nothing
// of what the watcher makes of it.
//
// Threads: as Communicator. The watcher is called by the thread that exchanges.

#ifndef DSRUN_WORKER_COMM_CORE_WATCHED_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_CORE_WATCHED_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

struct ExchangeWatch {
  std::function<void()> enter;  // an exchange begins
  std::function<void()> leave;  // and ends, whatever its outcome
  // One has failed after at least half of the timeout and not by an Abort here, so peers have been
  // waited for in vain. Called before the error is returned, so before anything is torn down.
  std::function<void(const std::string& what, absl::Duration waited)> waited_in_vain;
};

// `timeout`: the one that `inner` was made with. What `watch` refers to must outlive the result.
std::unique_ptr<Communicator> WatchExchanges(std::unique_ptr<Communicator> inner,
                                             absl::Duration timeout, ExchangeWatch watch);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_WATCHED_COMMUNICATOR_H_
