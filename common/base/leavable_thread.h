// LeavableThread: a thread that may hang in the kernel for good (a file server that does not
// answer, a pipe that nobody reads), so that whoever ends it waits for a while and then leaves it
// behind.
//
//   ASSIGN_OR_RETURN(thread_, LeavableThread::Start("the metrics", [shared] { Run(*shared); }));
//   ...
//   tell the thread to end; thread_.JoinOrLeave(kPatience);
//
// One that is left goes on whenever the kernel lets it, and until the process ends. So `body` owns
// what it uses, shares it, or uses what is never destroyed.
//
// Methods are for one thread. As with std::thread, one that was neither joined nor left must not be
// destroyed or assigned to.

#ifndef DSRUN_COMMON_BASE_LEAVABLE_THREAD_H_
#define DSRUN_COMMON_BASE_LEAVABLE_THREAD_H_

#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun {

class LeavableThread {
 public:
  LeavableThread() = default;  // none
  // As StartThread and StartThreadOrEnd (common/base/thread.h).
  static absl::StatusOr<LeavableThread> Start(const char* name, std::function<void()> body);
  static LeavableThread StartOrEnd(const char* name, std::function<void()> body);

  // There is a thread, and it was neither joined nor left.
  bool joinable() const { return thread_.joinable(); }

  // Waits for its end, `limit` at most. True: it is joined, or there is none, and all that it did
  // is seen. False: it is left behind.
  bool JoinOrLeave(absl::Duration limit);

 private:
  struct End;
  static std::function<void()> WithEnd(const std::shared_ptr<End>& end, std::function<void()> body);

  std::shared_ptr<End> end_;  // shared with the thread
  std::thread thread_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_LEAVABLE_THREAD_H_
