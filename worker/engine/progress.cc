#include "worker/engine/progress.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/proto_duration.h"
#include "worker/engine/thread_stacks.h"

namespace dsrun::worker {
namespace {

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

ExchangeWatch WatchOf(Progress* progress, LongWaitFn on_long_wait) {
  return {[progress] { progress->EnterExchange(); }, [progress] { progress->LeaveExchange(); },
          [progress, on_long_wait = std::move(on_long_wait)](const std::string& what,
                                                             absl::Duration waited) {
            on_long_wait(what, waited, progress->TakeStacks());
          }};
}

std::string StacksText(const proto::Stacks& stacks) {
  std::string text;
  for (const std::string& line : stacks.lines()) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", "  stack: ", line);
  }
  return text;
}

}  // namespace dsrun::worker
