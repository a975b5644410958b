// A communicator that misbehaves on purpose, at chosen calls: what trainers and reductions are
// tested against. Wraps a good one.
//
// Threads: as the communicator inside; `before` runs on the owner's thread, outside any lock.

#ifndef DSRUN_TESTS_WORKER_COMM_FAULTY_COMMUNICATOR_H_
#define DSRUN_TESTS_WORKER_COMM_FAULTY_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

struct CommunicatorFault {
  enum class Kind {
    kFail,   // returns `error` and is dead from then on; nothing was sent
    kDrop,   // sends nothing, but receives; the peers wait for what was dropped
    kDelay,  // runs `before`, then behaves; `before` may block until the test says otherwise
  };
  Kind kind;
  int call;  // counted from 1; one fault per call
  absl::Status error = absl::UnavailableError("injected fault");
  std::function<void()> before = [] {};
};

std::unique_ptr<Communicator> CreateFaultyCommunicator(std::unique_ptr<Communicator> inner,
                                                       std::vector<CommunicatorFault> faults);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_COMM_FAULTY_COMMUNICATOR_H_
