#include "agent/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "agent/beat_pipe.h"
#include "agent/exit_codes.h"
#include "agent/stop_signals.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/private_folder.h"
#include "common/base/process_spawn.h"
#include "common/base/process_tree.h"
#include "common/base/stand_apart.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"

extern char** environ;

namespace dsrun::agent {
namespace {

// One look at what is left, and how often there may be something left.
constexpr absl::Duration kSweepLimit = absl::Seconds(2);
constexpr int kSweeps = 30;
constexpr absl::Duration kBetweenSweeps = absl::Milliseconds(10);
constexpr absl::Duration kSameRequest = absl::Milliseconds(300);

struct Watch {
  SpawnedProcess agent;
  int beat_fd = -1;
  int signal_fd = -1;
  absl::Duration limit;                                 // of silence
  absl::Duration beat_at;                               // of the newest beat
  absl::Duration stop_at = absl::InfiniteDuration();    // KILL after an order
  bool asked = false;                                   // to stop, by anybody
  absl::Duration asked_at = -absl::InfiniteDuration();  // the last time
};

enum class Verdict { kEnded, kSilent, kLingers };

absl::Duration Now() { return Clock::Real().SteadyNow(); }

// The first order gives the agent time, the second one is taken as impatience.
void Order(const KeeperOptions& options, Watch& watch) {
  if (watch.stop_at == absl::InfiniteDuration()) {
    kill(watch.agent.pid, KeepersOrder());
    watch.stop_at = Now() + options.stop_limit;
  } else {
    watch.stop_at = Now();
  }
}

// What a signal means depends on who sent it (stop_signals.h). Asked again, it is an order whoever
// asks: a shell is a starter too, and the kernel is the sender of its Ctrl-C. Who asks twice at
// once (to a process and to its group) has asked once.
void OnSignals(const KeeperOptions& options, Watch& watch) {
  signalfd_siginfo info;
  while (read(watch.signal_fd, &info, sizeof(info)) == sizeof(info)) {
    const auto signal = static_cast<int>(info.ssi_signo);
    if (signal == KeepersOrder()) continue;  // nobody gives this process one
    if (signal == SIGUSR1 || signal == SIGUSR2) {
      kill(watch.agent.pid, signal);
      continue;
    }
    const absl::Duration now = Now();
    const bool again = now - std::exchange(watch.asked_at, now) >= kSameRequest;
    const bool by_starter = options.starter_pid != 0 && SenderOf(info) == options.starter_pid;
    if (by_starter || (watch.asked && again)) {
      Order(options, watch);
    } else {
      kill(watch.agent.pid, signal);
    }
    watch.asked = true;
  }
}

Verdict AwaitVerdict(const KeeperOptions& options, Watch& watch) {
  while (true) {
    const absl::Duration deadline = std::min(watch.beat_at + watch.limit, watch.stop_at);
    const absl::Duration left = std::max(absl::ZeroDuration(), deadline - Now());
    pollfd fds[] = {
        {watch.agent.pidfd, POLLIN, 0}, {watch.beat_fd, POLLIN, 0}, {watch.signal_fd, POLLIN, 0}};
    poll(fds, 3, PollMilliseconds(left));
    const absl::Duration now = Now();
    if (fds[0].revents != 0) return Verdict::kEnded;
    if (fds[2].revents != 0) OnSignals(options, watch);
    if (const std::optional<absl::Duration> limit = ReadBeats(watch.beat_fd)) {
      watch.limit = *limit;
      watch.beat_at = now;
    } else if (now - deadline > watch.limit / 2) {
      // We did not run ourselves (machine or both of us stopped): the silence proves nothing yet.
      watch.beat_at = now;
    }
    if (now >= watch.stop_at) return Verdict::kLingers;
    if (now >= watch.beat_at + watch.limit) return Verdict::kSilent;
  }
}

void ReapAll() {
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

// Everything below is killed and reaped. What cannot die (stuck in the kernel) is reported.
void Sweep(const BornBefore& before) {
  for (int i = 0; i < kSweeps; ++i) {
    const int left = before.KillOurDescendants(kSweepLimit);
    ReapAll();
    // Zombies of the last moment become ours once their parent is gone.
    if (left == 0 && before.OurDescendants().empty()) return;
    if (left == 0) poll(nullptr, 0, PollMilliseconds(kBetweenSweeps));
  }
  const std::string left = ProcessWords(before.OurDescendants());
  LOG_IF(ERROR, !left.empty()) << "left below the keeper, for SIGKILL does not end it: " << left;
}

// The folder of the agent's socket; removed whichever way the keeper ends.
class SocketFolder {
 public:
  SocketFolder() = default;
  ~SocketFolder() {
    std::error_code ignored;
    if (path_.empty()) return;
    // An empty folder first, which needs no descriptor: there may be none left.
    if (!std::filesystem::remove(path_, ignored)) std::filesystem::remove_all(path_, ignored);
  }
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;

  // Empty: a new one. Errors: those of MakePrivateFolder.
  absl::Status Take(std::string given) {
    path_ = std::move(given);
    if (!path_.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(path_, MakePrivateFolder("dsagent-"));
    return absl::OkStatus();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void CloseFds(const KeeperOptions& options) {
  for (const InheritedFd& fd : options.fds) close(fd.from);
}

absl::StatusOr<SpawnedProcess> StartAgent(const KeeperOptions& options,
                                          const std::string& socket_dir, int beat_fd, int life_fd) {
  ProcessSpec spec;
  spec.executable = options.agent_binary;
  spec.argv = options.agent_argv;
  spec.argv.push_back("--role=agent");
  spec.argv.push_back(absl::StrCat("--socket-dir=", socket_dir));
  for (char** variable = environ; *variable != nullptr; ++variable) {
    spec.environment.push_back(*variable);
  }
  spec.stdout_fd = STDOUT_FILENO;
  spec.stderr_fd = STDERR_FILENO;
  spec.fds = options.fds;
  spec.fds.push_back({beat_fd, kBeatFd});
  spec.fds.push_back({life_fd, kLifeFd});
  return SpawnProcess(spec);
}

// Nothing: it could not be ended.
int CodeOf(Verdict verdict, const std::optional<ProcessEnd>& end) {
  if (!end) return kExitAgentStopped;
  switch (verdict) {
    case Verdict::kSilent:
      return kExitAgentStopped;
    case Verdict::kLingers:
      return kExitOk;  // told to stop, and all is gone
    case Verdict::kEnded:
      return end->term_signal != 0 ? kExitAgentSignal + end->term_signal : end->exit_code;
  }
  return kExitCannotStart;
}

int Keep(const KeeperOptions& options, const BornBefore& before, Watch& watch) {
  const Verdict verdict = AwaitVerdict(options, watch);
  if (verdict == Verdict::kSilent) {
    LOG(ERROR) << "agent " << watch.agent.pid << " silent for " << watch.limit
               << ", probably stopped: killed with everything below it";
  }
  if (verdict != Verdict::kEnded) kill(watch.agent.pid, SIGKILL);
  const std::optional<ProcessEnd> end =
      ReapWithin(watch.agent.pid, watch.agent.pidfd, options.kill_limit);
  if (!end) {
    LOG(ERROR) << "the agent cannot be ended, " << options.kill_limit
               << " after SIGKILL: " << ProcessWords(watch.agent.pid)
               << "; everything else below the keeper is ended";
  } else if (end->term_signal != 0 && verdict == Verdict::kEnded) {
    LOG(ERROR) << "agent " << watch.agent.pid << " ended by signal " << end->term_signal
               << ": everything below it is killed";
  }
  Sweep(before);
  return CodeOf(verdict, end);
}

}  // namespace

int RunKeeper(const KeeperOptions& options) {
  const BornBefore before = BornBefore::Look();
  SocketFolder folder;
  if (const absl::Status made = folder.Take(options.socket_dir); !made.ok()) {
    LOG(ERROR) << "keeper: cannot start: " << made;
    return kExitCannotStart;
  }
  int beat[2], life[2];
  Watch watch;
  watch.signal_fd = OpenStopSignals();
  if (!BecomeSubreaper() || watch.signal_fd < 0 || pipe2(beat, O_CLOEXEC | O_NONBLOCK) != 0 ||
      pipe2(life, O_CLOEXEC) != 0) {
    const int error = errno;
    LOG(ERROR) << "keeper: cannot start: " << strerror(error) << BecauseOfLimit(error);
    return kExitCannotStart;
  }
  const absl::StatusOr<SpawnedProcess> agent = StartAgent(options, folder.path(), beat[1], life[0]);
  close(beat[1]);
  close(life[0]);
  CloseFds(options);
  if (!agent.ok()) {
    LOG(ERROR) << "keeper: " << agent.status();
    return kExitCannotStart;
  }
  watch.agent = *agent;
  watch.beat_fd = beat[0];
  watch.limit = options.first_beat_within;
  watch.beat_at = Now();
  return Keep(options, before, watch);
}

}  // namespace dsrun::agent
