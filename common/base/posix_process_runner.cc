#include "common/base/posix_process_runner.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <list>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/process_spawn.h"
#include "common/base/process_tree.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/base/waits.h"
#include "common/base/wake_fd.h"

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

class PosixProcessRunner::State : public ProcessRunner {
 public:
  State(const Options& options, WakeFd wake) : options_(options), wake_(std::move(wake)) {}

  absl::StatusOr<int32_t> Spawn(const ProcessSpec& spec, OnEnd on_end) override;
  void SignalGroup(int32_t pid, int signal) override;
  void StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) override;
  std::vector<int32_t> Alive() const override;
  void Close();
  void Loop();

 private:
  struct Child {
    int pidfd = -1;
    OnEnd on_end;
    absl::Duration kill_at = absl::InfiniteDuration();  // steady
    bool held = false;  // its pidfd says that it has ended, and it cannot be reaped yet
  };
  struct Ended {
    int32_t pid = 0;
    ProcessEnd end;
    OnEnd on_end;
  };

  absl::StatusOr<int32_t> Register(const ProcessSpec& spec, const SpawnedProcess& process,
                                   OnEnd on_end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Kills what is due, then reaps what has ended.
  void KillDueLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<Ended> CollectLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReapAdoptedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsBeingStartedLocked(int32_t pid) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Closing: what SIGKILL did not end in time is named and forgotten.
  void GiveUpLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int PollTimeoutLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const Options options_;
  const WakeFd wake_;

  mutable Mutex mu_;
  std::map<int32_t, Child> children_ ABSL_GUARDED_BY(mu_);
  // Children on their way: neither adopted nor in the map yet. 0: not there yet.
  std::list<std::atomic<int32_t>> being_started_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;  // nobody reaps any more
  absl::Duration give_up_at_ ABSL_GUARDED_BY(mu_) = absl::InfiniteDuration();  // steady
};

absl::StatusOr<std::unique_ptr<PosixProcessRunner>> PosixProcessRunner::Create(
    const Options& options) {
  ASSIGN_OR_RETURN(WakeFd wake, WakeFd::Create());
  const int wake_fd = wake.fd();
  auto state = std::make_shared<State>(options, std::move(wake));
  std::unique_ptr<PosixProcessRunner> runner(new PosixProcessRunner(state));
  if (options.reap_adopted) {
    runner->takes_signal_ = true;
    child_signal_fd = wake_fd;
    struct sigaction action = {};
    action.sa_handler = &OnChildSignal;
    action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
    sigaction(SIGCHLD, &action, nullptr);
  }
  ASSIGN_OR_RETURN(runner->thread_,
                   StartThread("the ends of processes", [state] { state->Loop(); }));
  return runner;
}

PosixProcessRunner::PosixProcessRunner(std::shared_ptr<State> state) : state_(std::move(state)) {}

PosixProcessRunner::~PosixProcessRunner() {
  state_->Close();
  if (thread_.joinable()) thread_.join();
  if (!takes_signal_) return;
  signal(SIGCHLD, SIG_DFL);
  child_signal_fd = -1;
}

absl::StatusOr<int32_t> PosixProcessRunner::Spawn(const ProcessSpec& spec, OnEnd on_end) {
  // A share of its own: this object may be gone when it comes back.
  const std::shared_ptr<State> state = state_;
  return state->Spawn(spec, std::move(on_end));
}

void PosixProcessRunner::SignalGroup(int32_t pid, int signal) { state_->SignalGroup(pid, signal); }

void PosixProcessRunner::StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) {
  state_->StopGroups(pids, grace);
}

std::vector<int32_t> PosixProcessRunner::Alive() const { return state_->Alive(); }

std::shared_ptr<ProcessRunner> PosixProcessRunner::Outliving() const { return state_; }

// No lock is held across exec, which may hang. A child that ends meanwhile is neither unknown
// (being_started_) nor reaped before it is in the map.
absl::StatusOr<int32_t> PosixProcessRunner::State::Spawn(const ProcessSpec& spec, OnEnd on_end) {
  std::list<std::atomic<int32_t>>::iterator pid;
  {
    MutexLock lock(mu_);
    if (closing_) return absl::FailedPreconditionError("the process runner is being destroyed");
    pid = being_started_.emplace(being_started_.end(), 0);
  }
  const absl::StatusOr<SpawnedProcess> process = SpawnProcess(spec, &*pid);
  absl::StatusOr<int32_t> result = 0;
  {
    MutexLock lock(mu_);
    being_started_.erase(pid);
    if (process.ok()) {
      result = Register(spec, *process, std::move(on_end));
    } else {
      result = process.status();
    }
  }
  wake_.Wake();
  return result;
}

absl::StatusOr<int32_t> PosixProcessRunner::State::Register(const ProcessSpec& spec,
                                                            const SpawnedProcess& process,
                                                            OnEnd on_end) {
  const bool wanted = !closing_ && (!spec.still_wanted || spec.still_wanted());
  if (!wanted) kill(-process.pid, SIGKILL);
  if (over_) {
    ReapWithin(process.pid, process.pidfd, options_.kill_limit);
    close(process.pidfd);
  } else {
    Child& child = children_[process.pid];
    child.pidfd = process.pidfd;
    if (wanted) child.on_end = std::move(on_end);
  }
  if (closing_) return absl::FailedPreconditionError("the process runner was destroyed meanwhile");
  if (wanted) return process.pid;
  return absl::CancelledError(
      absl::StrCat(spec.executable, " was started, and not wanted any more when it was there"));
}

void PosixProcessRunner::State::SignalGroup(int32_t pid, int signal) {
  MutexLock lock(mu_);
  // Unreaped, so the number still names this group and no other.
  if (children_.contains(pid)) kill(-pid, signal);
}

void PosixProcessRunner::State::StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) {
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
  wake_.Wake();
}

std::vector<int32_t> PosixProcessRunner::State::Alive() const {
  MutexLock lock(mu_);
  std::vector<int32_t> pids;
  for (const auto& [pid, child] : children_) pids.push_back(pid);
  return pids;
}

void PosixProcessRunner::State::Close() {
  {
    MutexLock lock(mu_);
    closing_ = true;
    give_up_at_ = Clock::Real().SteadyNow() + options_.kill_limit;
    for (const auto& [pid, child] : children_) kill(-pid, SIGKILL);
  }
  wake_.Wake();
}

void PosixProcessRunner::State::Loop() {
  std::vector<pollfd> fds;
  while (true) {
    int timeout_ms = -1;
    fds.assign(1, {wake_.fd(), POLLIN, 0});
    {
      MutexLock lock(mu_);
      if (closing_ && Clock::Real().SteadyNow() >= give_up_at_) GiveUpLocked();
      if (closing_ && children_.empty() && being_started_.empty()) over_ = true;
      if (over_) return;
      for (const auto& [pid, child] : children_) {
        if (!child.held) fds.push_back({child.pidfd, POLLIN, 0});
      }
      timeout_ms = PollTimeoutLocked();
    }
    poll(fds.data(), fds.size(), timeout_ms);
    (void)wake_.Take();
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

int PosixProcessRunner::State::PollTimeoutLocked() const {
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

void PosixProcessRunner::State::KillDueLocked() {
  const absl::Duration now = Clock::Real().SteadyNow();
  for (auto& [pid, child] : children_) {
    if (now < child.kill_at) continue;
    kill(-pid, SIGKILL);
    child.kill_at = absl::InfiniteDuration();
  }
}

std::vector<PosixProcessRunner::State::Ended> PosixProcessRunner::State::CollectLocked() {
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

void PosixProcessRunner::State::GiveUpLocked() {
  for (const auto& [pid, child] : children_) {
    LOG(ERROR) << ProcessWords(pid) << ": it has not ended within " << options_.kill_limit
               << " of SIGKILL and is left behind; look at what it waits for";
    close(child.pidfd);
  }
  for (const std::atomic<int32_t>& pid : being_started_) {
    LOG(ERROR) << ProcessWords(pid) << ": it is still being started, for its executable's file "
               << "server does not answer, and is left behind";
  }
  children_.clear();
  over_ = true;
}

bool PosixProcessRunner::State::IsBeingStartedLocked(int32_t pid) const {
  return std::any_of(being_started_.begin(), being_started_.end(),
                     [pid](const std::atomic<int32_t>& other) { return other == pid; });
}

void PosixProcessRunner::State::ReapAdoptedLocked() {
  while (true) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    // One of our own ended since CollectLocked: its pidfd wakes the loop again.
    if (children_.contains(info.si_pid)) return;
    // Whoever starts it reaps it, or puts it into the map, and wakes the loop.
    if (IsBeingStartedLocked(info.si_pid)) return;
    ReapProcess(info.si_pid);
  }
}

}  // namespace dsrun
