// AskPool: questions that block for a while (does that node's agent listen? how did it end?), asked
// in a bounded number of threads, first come, first served. A thread is started when there is a
// question for it; thousands of nodes cost as many questions that wait, not as many threads.
//
// A question that takes long holds up one thread; that none takes for ever is the matter of whoever
// answers (agent_starter.h), and so is that those behind it get their turn.
//
// Thread-safe.

#ifndef DSRUN_LAUNCHER_SHELL_ASK_POOL_H_
#define DSRUN_LAUNCHER_SHELL_ASK_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/base/mutex.h"

namespace dsrun::launcher {

class AskPool {
 public:
  // `most`: threads, at least 1.
  explicit AskPool(size_t most) : most_(most) {}
  ~AskPool() { Stop(); }

  // Errors: RESOURCE_EXHAUSTED: not even one thread can be started; CANCELLED: after Stop.
  absl::Status Ask(std::function<void()> question);

  // Drops what waits and returns when what is being asked has been answered: as long as one
  // question takes, not as long as all of them.
  void Stop();

 private:
  void Work();

  const size_t most_;

  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
  size_t idle_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_ASK_POOL_H_
