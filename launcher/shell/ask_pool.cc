#include "launcher/shell/ask_pool.h"

#include <utility>

#include "absl/status/statusor.h"
#include "common/base/thread.h"

namespace dsrun::launcher {

absl::Status AskPool::Ask(std::function<void()> question) {
  MutexLock lock(mu_);
  if (stopped_) return absl::CancelledError("nobody asks any more");
  waiting_.push_back(std::move(question));
  if (waiting_.size() > idle_ && threads_.size() < most_) {
    absl::StatusOr<std::thread> thread = StartThread("questions about agents", [this] { Work(); });
    if (thread.ok()) {
      threads_.push_back(*std::move(thread));
    } else if (threads_.empty()) {
      waiting_.pop_back();
      return thread.status();
    }
  }
  changed_.NotifyOne();
  return absl::OkStatus();
}

void AskPool::Work() {
  while (true) {
    std::function<void()> question;
    {
      MutexLock lock(mu_);
      ++idle_;
      while (waiting_.empty() && !stopped_) changed_.Wait(mu_);
      --idle_;
      if (stopped_) return;
      question = std::move(waiting_.front());
      waiting_.pop_front();
    }
    question();
  }
}

void AskPool::Stop() {
  std::vector<std::thread> threads;
  std::deque<std::function<void()>> dropped;
  {
    MutexLock lock(mu_);
    stopped_ = true;
    threads.swap(threads_);
    dropped.swap(waiting_);
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace dsrun::launcher
