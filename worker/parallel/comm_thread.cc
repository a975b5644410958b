#include "worker/parallel/comm_thread.h"

#include <utility>

#include "common/base/thread.h"

namespace dsrun::worker {

CommThread::CommThread()
    : thread_(StartThreadOrEnd("the exchange between ranks", [this] { Run(); })) {}

CommThread::~CommThread() {
  {
    MutexLock lock(mu_);
    quit_ = true;
    more_.NotifyAll();
  }
  thread_.join();
}

CommThread::Ticket CommThread::Add(Task task) {
  MutexLock lock(mu_);
  tasks_.push_back(std::move(task));
  more_.NotifyAll();
  return ++added_;
}

absl::Status CommThread::Wait(Ticket ticket) {
  MutexLock lock(mu_);
  awaited_ = ticket;
  while (done_ < ticket) reached_.Wait(mu_);
  return status_;
}

absl::Status CommThread::status() {
  MutexLock lock(mu_);
  return status_;
}

void CommThread::Run() {
  MutexLock lock(mu_);
  while (true) {
    while (tasks_.empty() && !quit_) more_.Wait(mu_);
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    if (status_.ok()) {
      mu_.Unlock();
      absl::Status status = task();
      task = nullptr;
      mu_.Lock();
      status_ = std::move(status);
    }
    ++done_;
    if (done_ == awaited_) reached_.NotifyAll();
  }
}

}  // namespace dsrun::worker
