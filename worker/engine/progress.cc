#include "worker/engine/progress.h"

#include <unistd.h>

#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/proto_duration.h"
#include "worker/engine/thread_stacks.h"

namespace dsrun::worker {
namespace {

class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner, absl::Duration timeout,
                      Progress* progress, LongWaitFn on_long_wait)
      : inner_(std::move(inner)),
        progress_(progress),
        on_long_wait_(std::move(on_long_wait)),
        timeout_(timeout) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    const SteadyTime begin = Clock::Real().SteadyNow();
    progress_->EnterExchange();
    absl::Status status = inner_->Exchange(sends, recvs, what);
    progress_->LeaveExchange();
    if (status.ok() || absl::IsAborted(status)) return status;
    const absl::Duration waited = Clock::Real().SteadyNow() - begin;
    if (waited >= timeout_ / 2) on_long_wait_(what, waited, progress_->TakeStacks());
    return status;
  }
  void SetTimeout(absl::Duration timeout) override {
    timeout_ = timeout;
    inner_->SetTimeout(timeout);
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<Communicator> inner_;
  Progress* const progress_;
  const LongWaitFn on_long_wait_;
  absl::Duration timeout_;  // of the owner, as Exchange
};

void AddStack(const char* title, pid_t thread, proto::Stacks& stacks) {
  stacks.add_lines(title);
  for (std::string& name : ThreadStack(thread)) stacks.add_lines(absl::StrCat("  ", name));
}

}  // namespace

void Progress::Set(int64_t step, const std::string& phase, absl::Duration patience) {
  MutexLock lock(mu_);
  beat_.set_step(step);
  beat_.set_phase(phase);
  beat_.set_moves(beat_.moves() + 1);
  patience_ = patience;
}

void Progress::Moved() {
  MutexLock lock(mu_);
  beat_.set_moves(beat_.moves() + 1);
}

void Progress::EnterExchange() {
  MutexLock lock(mu_);
  beat_.set_moves(beat_.moves() + 1);
  ++exchanges_;
  exchanger_ = ThisThread();
}

void Progress::LeaveExchange() {
  MutexLock lock(mu_);
  beat_.set_moves(beat_.moves() + 1);
  --exchanges_;
}

proto::Beat Progress::Get() const {
  MutexLock lock(mu_);
  proto::Beat beat = beat_;
  if (exchanges_ == 0 && patience_ != absl::InfiniteDuration()) {
    *beat.mutable_patience() = ToProto(patience_);
  }
  return beat;
}

// Not under the lock: an interrupted thread may be about to take it.
proto::Stacks Progress::TakeStacks() const {
  pid_t exchanger;
  {
    MutexLock lock(mu_);
    exchanger = exchanger_;
  }
  proto::Stacks stacks;
  AddStack("main thread:", getpid(), stacks);
  if (exchanger != 0 && exchanger != getpid()) {
    AddStack("communication thread:", exchanger, stacks);
  }
  return stacks;
}

std::unique_ptr<Communicator> WatchExchanges(std::unique_ptr<Communicator> inner,
                                             absl::Duration timeout, Progress* progress,
                                             LongWaitFn on_long_wait) {
  return std::make_unique<WatchedCommunicator>(std::move(inner), timeout, progress,
                                               std::move(on_long_wait));
}

std::string StacksText(const proto::Stacks& stacks) {
  std::string text;
  for (const std::string& line : stacks.lines()) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", "  stack: ", line);
  }
  return text;
}

}  // namespace dsrun::worker
