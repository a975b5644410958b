#include "agent/side_thread.h"

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace dsrun::agent {

struct SideThread::Shared {
  Mutex mu;
  CondVar changed;
  std::deque<std::function<void()>> tasks ABSL_GUARDED_BY(mu);
  bool closing ABSL_GUARDED_BY(mu) = false;
};

absl::StatusOr<std::unique_ptr<SideThread>> SideThread::Create(const char* name) {
  auto shared = std::make_shared<Shared>();
  std::unique_ptr<SideThread> side(new SideThread(shared));
  ASSIGN_OR_RETURN(side->thread_, LeavableThread::Start(name, [shared] { Run(shared); }));
  return side;
}

SideThread::SideThread(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

SideThread::~SideThread() {
  {
    MutexLock lock(shared_->mu);
    shared_->closing = true;
    shared_->tasks.clear();
    shared_->changed.NotifyAll();
  }
  thread_.JoinOrLeave(kPatience);
}

void SideThread::Do(std::function<void()> task) {
  MutexLock lock(shared_->mu);
  if (shared_->closing) return;
  shared_->tasks.push_back(std::move(task));
  shared_->changed.NotifyAll();
}

void SideThread::Run(const std::shared_ptr<Shared>& shared) {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(shared->mu);
      while (shared->tasks.empty() && !shared->closing) shared->changed.Wait(shared->mu);
      if (shared->closing) return;
      task = std::move(shared->tasks.front());
      shared->tasks.pop_front();
    }
    task();
  }
}

}  // namespace dsrun::agent
