#include "common/base/leavable_thread.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"

namespace dsrun {

struct LeavableThread::End {
  Mutex mu;
  CondVar changed;
  bool reached ABSL_GUARDED_BY(mu) = false;
};

std::function<void()> LeavableThread::WithEnd(const std::shared_ptr<End>& end,
                                              std::function<void()> body) {
  return [end, body = std::move(body)] {
    body();
    MutexLock lock(end->mu);
    end->reached = true;
    end->changed.NotifyAll();
  };
}

absl::StatusOr<LeavableThread> LeavableThread::Start(const char* name, std::function<void()> body) {
  LeavableThread started;
  started.end_ = std::make_shared<End>();
  ASSIGN_OR_RETURN(started.thread_, StartThread(name, WithEnd(started.end_, std::move(body))));
  return started;
}

LeavableThread LeavableThread::StartOrEnd(const char* name, std::function<void()> body) {
  LeavableThread started;
  started.end_ = std::make_shared<End>();
  started.thread_ = StartThreadOrEnd(name, WithEnd(started.end_, std::move(body)));
  return started;
}

bool LeavableThread::JoinOrLeave(absl::Duration limit) {
  if (!thread_.joinable()) return true;
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  bool reached = false;
  {
    MutexLock lock(end_->mu);
    while (!end_->reached && end_->changed.WaitUntil(end_->mu, deadline)) continue;
    reached = end_->reached;
  }
  if (reached) {
    thread_.join();
  } else {
    thread_.detach();
  }
  return reached;
}

}  // namespace dsrun
