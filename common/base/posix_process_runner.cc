#include "common/base/posix_process_runner.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/process_spawn.h"
#include "common/base/process_tree.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/base/waits.h"

namespace dsrun {
namespace {

constexpr absl::Duration kBetweenReaps = absl::Milliseconds(20);

// Where the SIGCHLD handler knocks; -1: nobody cares.
std::atomic<int> child_signal_fd{-1};

void OnChildSignal(int) {
  const int saved = errno;
  const uint64_t one = 1;
  const int fd = child_signal_fd.load();
  if (fd >= 0) (void)!write(fd, &one, sizeof(one));
  errno = saved;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PosixProcessRunner>> PosixProcessRunner::Create(
    const Options& options) {
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) {
    const int error = errno;
    return absl::ResourceExhaustedError(absl::StrCat(
        "process runner: cannot make an eventfd: ", strerror(error), BecauseOfLimit(error)));
  }
  std::unique_ptr<PosixProcessRunner> runner(new PosixProcessRunner(options, wake_fd));
  ASSIGN_OR_RETURN(runner->thread_,
                   StartThread("the ends of processes", [r = runner.get()] { r->Loop(); }));
  return runner;
}

PosixProcessRunner::PosixProcessRunner(const Options& options, int wake_fd)
    : options_(options), wake_fd_(wake_fd) {
  if (!options_.reap_adopted) return;
  child_signal_fd = wake_fd_;
  struct sigaction action = {};
  action.sa_handler = &OnChildSignal;
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  sigaction(SIGCHLD, &action, nullptr);
}

PosixProcessRunner::~PosixProcessRunner() {
  {
    MutexLock lock(mu_);
    closing_ = true;
    give_up_at_ = Clock::Real().SteadyNow() + options_.kill_limit;
    for (const auto& [pid, child] : children_) kill(-pid, SIGKILL);
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  if (options_.reap_adopted) {
    signal(SIGCHLD, SIG_DFL);
    child_signal_fd = -1;
  }
  close(wake_fd_);
}

absl::StatusOr<int32_t> PosixProcessRunner::Spawn(const ProcessSpec& spec, OnEnd on_end) {
  int32_t pid = 0;
  {
    MutexLock lock(mu_);
    if (closing_) return absl::FailedPreconditionError("the process runner is being destroyed");
    ASSIGN_OR_RETURN(const SpawnedProcess process, SpawnProcess(spec));
    pid = process.pid;
    Child& child = children_[pid];
    child.pidfd = process.pidfd;
    child.on_end = std::move(on_end);
  }
  Wake();
  return pid;
}

void PosixProcessRunner::SignalGroup(int32_t pid, int signal) {
  MutexLock lock(mu_);
  // Unreaped, so the number still names this group and no other.
  if (children_.contains(pid)) kill(-pid, signal);
}

void PosixProcessRunner::StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) {
  {
    MutexLock lock(mu_);
    const absl::Duration kill_at = Clock::Real().SteadyNow() + grace;
    for (const int32_t pid : pids) {
      const auto it = children_.find(pid);
      if (it == children_.end()) continue;
      kill(-pid, SIGTERM);
      // A stopped process cannot even see the TERM.
      kill(-pid, SIGCONT);
      it->second.kill_at = std::min(it->second.kill_at, kill_at);
    }
  }
  Wake();
}

std::vector<int32_t> PosixProcessRunner::Alive() const {
  MutexLock lock(mu_);
  std::vector<int32_t> pids;
  for (const auto& [pid, child] : children_) pids.push_back(pid);
  return pids;
}

void PosixProcessRunner::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
}

void PosixProcessRunner::Loop() {
  std::vector<pollfd> fds;
  while (true) {
    int timeout_ms = -1;
    fds.assign(1, {wake_fd_, POLLIN, 0});
    {
      MutexLock lock(mu_);
      if (closing_ && Clock::Real().SteadyNow() >= give_up_at_) GiveUpLocked();
      if (closing_ && children_.empty()) return;
      for (const auto& [pid, child] : children_) {
        if (!child.held) fds.push_back({child.pidfd, POLLIN, 0});
      }
      timeout_ms = PollTimeoutLocked();
    }
    poll(fds.data(), fds.size(), timeout_ms);
    uint64_t count = 0;
    (void)!read(wake_fd_, &count, sizeof(count));
    std::vector<Ended> ended;
    {
      MutexLock lock(mu_);
      KillDueLocked();
      ended = CollectLocked();
      if (options_.reap_adopted) ReapAdoptedLocked();
    }
    for (Ended& e : ended) {
      if (e.on_end) e.on_end(e.pid, e.end);
    }
  }
}

int PosixProcessRunner::PollTimeoutLocked() const {
  absl::Duration first = absl::InfiniteDuration();
  bool held = false;
  for (const auto& [pid, child] : children_) {
    first = std::min(first, child.kill_at);
    held |= child.held;
  }
  if (closing_) first = std::min(first, give_up_at_);
  if (first == absl::InfiniteDuration() && !held) return -1;
  const absl::Duration wait = first - Clock::Real().SteadyNow();
  return PollMilliseconds(held ? std::min(wait, kBetweenReaps) : wait);
}

void PosixProcessRunner::KillDueLocked() {
  const absl::Duration now = Clock::Real().SteadyNow();
  for (auto& [pid, child] : children_) {
    if (now < child.kill_at) continue;
    kill(-pid, SIGKILL);
    child.kill_at = absl::InfiniteDuration();
  }
}

std::vector<PosixProcessRunner::Ended> PosixProcessRunner::CollectLocked() {
  std::vector<Ended> ended;
  for (auto it = children_.begin(); it != children_.end();) {
    const int32_t pid = it->first;
    siginfo_t info = {};
    // WNOWAIT: while the leader is a zombie its number cannot be given away, so the rest of the
    // group can be killed by it.
    if (waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != pid) {
      // A debugger may hold it: its pidfd would wake the loop without an end.
      pollfd ended{.fd = it->second.pidfd, .events = POLLIN, .revents = 0};
      it->second.held = poll(&ended, 1, 0) > 0;
      ++it;
      continue;
    }
    kill(-pid, SIGKILL);
    close(it->second.pidfd);
    ended.push_back({pid, ReapProcess(pid), std::move(it->second.on_end)});
    it = children_.erase(it);
  }
  return ended;
}

void PosixProcessRunner::GiveUpLocked() {
  for (const auto& [pid, child] : children_) {
    LOG(ERROR) << ProcessWords(pid) << ": it has not ended within " << options_.kill_limit
               << " of SIGKILL and is left behind; look at what it waits for";
    close(child.pidfd);
  }
  children_.clear();
}

void PosixProcessRunner::ReapAdoptedLocked() {
  while (true) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    // One of our own ended since CollectLocked: its pidfd wakes the loop again.
    if (children_.contains(info.si_pid)) return;
    ReapProcess(info.si_pid);
  }
}

}  // namespace dsrun
