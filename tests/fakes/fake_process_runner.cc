#include "tests/fakes/fake_process_runner.h"

#include <signal.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"

namespace dsrun {

FakeProcessRunner::FakeProcessRunner() : thread_([this] { Loop(); }) {}

FakeProcessRunner::~FakeProcessRunner() {
  {
    MutexLock lock(mu_);
    while (!processes_.empty()) {
      EndLocked(processes_.begin()->first, {.term_signal = SIGKILL});
    }
    closing_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

absl::StatusOr<int32_t> FakeProcessRunner::Spawn(const ProcessSpec& spec, OnEnd on_end) {
  MutexLock lock(mu_);
  if (!next_failure_.ok()) return std::exchange(next_failure_, absl::OkStatus());
  for (const auto* strings : {&spec.argv, &spec.environment}) {
    for (const std::string& s : *strings) {
      if (s.find('\0') != std::string::npos) return absl::InvalidArgumentError("a NUL byte");
    }
  }
  if (!executables_.contains(spec.executable)) {
    return absl::NotFoundError(absl::StrCat(spec.executable, ": no such executable"));
  }
  if (spec.still_wanted && !spec.still_wanted()) return absl::CancelledError("not wanted any more");
  const int32_t pid = next_pid_++;
  const std::string mode = spec.argv.size() > 1 ? spec.argv[1] : "wait";
  processes_[pid] = {.deaf = mode == "ignore-term", .on_end = std::move(on_end)};
  spawned_.push_back(spec);
  if (mode == "exit") EndLocked(pid, {.exit_code = atoi(spec.argv[2].c_str())});
  changed_.NotifyAll();
  return pid;
}

void FakeProcessRunner::SignalGroup(int32_t pid, int signal) {
  MutexLock lock(mu_);
  SignalLocked(pid, signal);
}

void FakeProcessRunner::StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) {
  MutexLock lock(mu_);
  for (const int32_t pid : pids) {
    SignalLocked(pid, SIGTERM);
    const auto it = processes_.find(pid);
    if (it != processes_.end()) it->second.kill_at = std::min(it->second.kill_at, now_ + grace);
  }
}

std::vector<int32_t> FakeProcessRunner::Alive() const {
  MutexLock lock(mu_);
  std::vector<int32_t> pids;
  for (const auto& [pid, process] : processes_) pids.push_back(pid);
  return pids;
}

void FakeProcessRunner::AddExecutable(const std::string& path) {
  MutexLock lock(mu_);
  executables_.insert(path);
}

void FakeProcessRunner::FailNextSpawn(absl::Status status) {
  MutexLock lock(mu_);
  next_failure_ = std::move(status);
}

void FakeProcessRunner::End(int32_t pid, const ProcessEnd& end) {
  MutexLock lock(mu_);
  EndLocked(pid, end);
}

void FakeProcessRunner::Advance(absl::Duration duration) {
  MutexLock lock(mu_);
  now_ += duration;
  std::vector<int32_t> due;
  for (const auto& [pid, process] : processes_) {
    if (now_ >= process.kill_at) due.push_back(pid);
  }
  for (const int32_t pid : due) SignalLocked(pid, SIGKILL);
}

std::vector<ProcessSpec> FakeProcessRunner::spawned() const {
  MutexLock lock(mu_);
  return spawned_;
}

bool FakeProcessRunner::AwaitSpawned(size_t count) {
  MutexLock lock(mu_);
  return AwaitLocked([&] { return spawned_.size() >= count; });
}

bool FakeProcessRunner::AwaitSignals(size_t count) {
  MutexLock lock(mu_);
  return AwaitLocked([&] { return signals_.size() >= count; });
}

bool FakeProcessRunner::AwaitLocked(const std::function<bool()>& done) {
  const absl::Duration deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
  while (!done()) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitFor(mu_, left);
  }
  return true;
}

std::vector<std::pair<int32_t, int>> FakeProcessRunner::signals() const {
  MutexLock lock(mu_);
  return signals_;
}

void FakeProcessRunner::SignalLocked(int32_t pid, int signal) {
  const auto it = processes_.find(pid);
  if (it == processes_.end()) return;
  signals_.emplace_back(pid, signal);
  changed_.NotifyAll();
  const bool deadly = signal == SIGKILL || (signal == SIGTERM && !it->second.deaf);
  if (deadly) EndLocked(pid, {.term_signal = signal});
}

void FakeProcessRunner::EndLocked(int32_t pid, const ProcessEnd& end) {
  const auto it = processes_.find(pid);
  if (it == processes_.end()) return;
  ended_.push_back({pid, end, std::move(it->second.on_end)});
  processes_.erase(it);
  changed_.NotifyAll();
}

void FakeProcessRunner::Loop() {
  while (true) {
    Ended next;
    {
      MutexLock lock(mu_);
      while (ended_.empty() && !closing_) changed_.Wait(mu_);
      if (ended_.empty()) return;
      next = std::move(ended_.front());
      ended_.pop_front();
    }
    if (next.on_end) next.on_end(next.pid, next.end);
  }
}

}  // namespace dsrun
