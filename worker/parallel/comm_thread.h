// CommThread: the thread that communicates while the caller computes. Tasks run one after the
// other, in the order in which they were added; the first error ends it: later tasks are dropped,
// since a communicator that has failed stays dead (communicator.h).
//
// Threads: one thread adds and waits. While tasks are outstanding, what they use (the communicator
// before all) belongs to the communication thread.

#ifndef DSRUN_WORKER_PARALLEL_COMM_THREAD_H_
#define DSRUN_WORKER_PARALLEL_COMM_THREAD_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "common/base/mutex.h"

namespace dsrun::worker {

class CommThread {
 public:
  using Task = std::function<absl::Status()>;
  // The number of tasks added so far: what to wait for.
  using Ticket = int64_t;

  CommThread();
  // Runs what is outstanding to its end; where peers may no longer answer, the communicator must
  // have been aborted.
  ~CommThread();

  Ticket Add(Task task);
  // Until the tasks up to `ticket` have run or were dropped. Errors: the first one of any task.
  absl::Status Wait(Ticket ticket);
  // All of them.
  absl::Status Wait() { return Wait(added_); }
  // The first error so far. Does not wait.
  absl::Status status();

 private:
  void Run();

  Ticket added_ = 0;
  Mutex mu_;
  CondVar more_;
  CondVar reached_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mu_);
  Ticket done_ ABSL_GUARDED_BY(mu_) = 0;
  Ticket awaited_ ABSL_GUARDED_BY(mu_) = 0;  // so that the caller is woken once
  bool quit_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;  // last: it uses everything above
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_COMM_THREAD_H_
