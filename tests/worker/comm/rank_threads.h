// Groups of communicators whose ranks are threads of the test, over every backend, and the threads
// that play the ranks.

#ifndef DSRUN_TESTS_WORKER_COMM_RANK_THREADS_H_
#define DSRUN_TESTS_WORKER_COMM_RANK_THREADS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

enum class Backend {
  kInProcess,
  kGloo,
  kSharedMemory,      // all ranks on one node; what is inside is in-process and not used
  kSharedMemoryGloo,  // two nodes: even and odd ranks; Gloo between them
  kCheckedInProcess,
  kCheckedGloo,
  kCheckedSharedMemory,
  kQueuedInProcess,  // behind a queue of operations
};

std::string BackendName(Backend backend);

using Group = std::vector<std::unique_ptr<Communicator>>;

// A connected group; fails the test when that does not work. `part_bytes`: GlooOptions.
Group MakeGroup(Backend backend, int size, absl::Duration timeout = absl::Seconds(20),
                size_t part_bytes = size_t{1} << 30);

// Runs `work(rank)` on one thread for each rank and waits for all of them.
void RunRanks(int size, const std::function<void(int rank)>& work);

// One call on a thread of its own. Destroying it waits for the call.
class BackgroundCall {
 public:
  explicit BackgroundCall(std::function<absl::Status()> call);
  ~BackgroundCall();

  // Waits until the call's thread sleeps, that is, is blocked. False: it has ended instead, or did
  // not block within `timeout`.
  bool WaitUntilBlocked(absl::Duration timeout = absl::Seconds(10));
  // Waits until the call has ended; false: it has not within `timeout`.
  bool WaitUntilDone(absl::Duration timeout = absl::Seconds(10));
  // REQUIRES: done.
  absl::Status result();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_COMM_RANK_THREADS_H_
