#include "common/base/log_writer.h"

#include <poll.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/thread.h"
#include "common/base/thread_signals.h"

namespace dsrun {
namespace {

constexpr int kAgainMs = 1;
constexpr char kTakesNothing[] = "whoever reads standard error took nothing";

// What a new thread inherits.
class SignalsBlocked {
 public:
  SignalsBlocked() : before_(BlockSignalsButFaults()) {}
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  const sigset_t before_;
};

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);  // as Clock, and allowed in a handler
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

LogWriter::LogWriter(Options options) : options_(std::move(options)), output_(options_.fd) {
  absl::StatusOr<std::thread> thread = [this] {
    const SignalsBlocked blocked;
    return StartThread("the log", [this] { Run(); });
  }();
  if (!thread.ok()) return;
  thread->detach();
  MutexLock lock(mu_);
  has_thread_ = true;
}

void LogWriter::Add(std::string line) {
  MutexLock lock(mu_);
  if (!has_thread_) return Write(line, failed_ == 0 ? kPatience : absl::ZeroDuration());
  if (bytes_ + line.size() > options_.most_bytes) {
    ++left_out_;
    return;
  }
  PushLoss();
  Push(std::move(line));
}

void LogWriter::Push(std::string line) {
  if (lines_.empty() && waiting_ == 0) moved_at_ = Clock::Real().SteadyNow();
  bytes_ += line.size();
  ++waiting_;
  lines_.push_back(std::move(line));
  changed_.NotifyAll();
}

void LogWriter::PushLoss() {
  if (left_out_ == 0) return;
  Push(LossLine(std::exchange(left_out_, 0), kTakesNothing));
}

std::string LogWriter::LossLine(int64_t lines, const std::string& why) const {
  return absl::StrCat("[", options_.who, "] left out of this log: ", Counted(lines, "line"), " (",
                      why, ")\n");
}

void LogWriter::Flush(absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(mu_);
  if (!has_thread_) return;
  PushLoss();
  while (waiting_ > 0) {
    if (!changed_.WaitUntil(mu_, std::min(deadline, moved_at_ + kLastPatience))) return;
  }
}

void LogWriter::FlushInHandler() const {
  const int64_t end = NowMs() + absl::ToInt64Milliseconds(kPatience);
  while (waiting_ > 0 && NowMs() < end) poll(nullptr, 0, kAgainMs);
}

void LogWriter::Run() {
  while (true) {
    std::string line;
    {
      MutexLock lock(mu_);
      while (lines_.empty()) changed_.Wait(mu_);
      line = std::move(lines_.front());
      lines_.pop_front();
    }
    Write(line, absl::InfiniteDuration());
    MutexLock lock(mu_);
    bytes_ -= line.size();
    --waiting_;
    moved_at_ = Clock::Real().SteadyNow();
    changed_.NotifyAll();
  }
}

void LogWriter::Write(const std::string& line, absl::Duration patience) {
  if (failed_ > 0 && Put(LossLine(failed_, why_), patience)) failed_ = 0;
  if (failed_ > 0 || !Put(line, patience)) ++failed_;
}

bool LogWriter::Put(const std::string& line, absl::Duration patience) {
  const std::string text = torn_ ? "\n" + line : line;
  const SteadyTime deadline = Clock::Real().SteadyNow() + patience;
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = output_.Write(text.data() + done, text.size() - done);
    const int error = written < 0 ? errno : 0;
    if (error == EINTR) continue;
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (error == EAGAIN && left > absl::ZeroDuration()) {
      // A terminal may have room, and not for what is to be written.
      if (output_.AwaitRoom(left)) poll(nullptr, 0, kAgainMs);
      continue;
    }
    if (written <= 0) {
      why_ = error == EAGAIN ? kTakesNothing : strerror(error);
      torn_ = done > 0 ? text[done - 1] != '\n' : torn_;
      return false;
    }
    done += static_cast<size_t>(written);
  }
  torn_ = false;
  return true;
}

}  // namespace dsrun
