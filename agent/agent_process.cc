#include "agent/agent_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "agent/agent_node.h"
#include "agent/agent_service.h"
#include "agent/beat_pipe.h"
#include "agent/exit_codes.h"
#include "agent/inventory.h"
#include "agent/stop_signals.h"
#include "agent/worker_command.h"
#include "agent/worker_door.h"
#include "agent/worker_host_service.h"
#include "common/base/clock.h"
#include "common/base/dying_process.h"
#include "common/base/logging.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_tree.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/base/wake_fd.h"
#include "common/rpc/door.h"
#include "common/rpc/guest_list.h"
#include "common/rpc/secrets.h"
#include "common/rpc/server.h"

namespace dsrun::agent {
namespace {

// A sweep runs on the core's thread; it must not look like a stalled agent.
constexpr absl::Duration kSweepLimit = absl::Seconds(1);

std::string SweepTag(const std::string& tag) {
  const std::string variable = absl::StrCat(kWorkerTagVariable, "=", tag);
  const auto which = [&](const ProcessInfo& info) {
    // Whoever is dying needs no KILL; one that cannot end would be waited for.
    return (tag.empty() || HasEnvironment(info.pid, variable)) && !LookAtDying(info.pid).dying;
  };
  if (KillDescendants(getpid(), which, kSweepLimit) == 0) return "";
  std::vector<ProcessInfo> left = DescendantsOf(getpid());
  std::erase_if(left, [&](const ProcessInfo& info) { return info.state == 'Z' || !which(info); });
  return left.empty() ? "processes that cannot be looked at, for want of a descriptor or of memory"
                      : ProcessWords(left);
}

// On a unix socket, before the key is asked for.
absl::Status IsOurUserOrRoot(const Caller& caller) {
  if (caller.uid == geteuid() || caller.uid == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("is of another user than this agent, who is uid ", geteuid()));
}

class AgentProcess {
 public:
  explicit AgentProcess(const AgentProcessOptions& options)
      : options_(options), signal_fd_(OpenStopSignals()) {}

  absl::Status Start() {
    // Beats go on into the pipe of a keeper that has just died. (Children start with the default.)
    signal(SIGPIPE, SIG_IGN);
    ASSIGN_OR_RETURN(WakeFd over, WakeFd::Create());
    over_.emplace(std::move(over));
    if (!BecomeSubreaper()) return absl::InternalError("cannot become a child subreaper");
    for (const int fd : {options_.beat_fd, options_.life_fd}) {
      fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    fcntl(options_.beat_fd, F_SETFL, O_NONBLOCK);
    ASSIGN_OR_RETURN(runner_, PosixProcessRunner::Create({.reap_adopted = true}));
    node_ = std::make_unique<AgentNode>(AgentNode::Options{
        .runner = runner_->Outliving(),
        .clock = &Clock::Real(),
        .incarnation = Incarnation(RandomIncarnation()),
        .inventory = ReadInventory(),
        .open_worker_door =
            [this](WorkerDoor::Options door) {
              door.folder = options_.socket_dir;
              return WorkerDoor::Open(std::move(door), worker_server_.get(), &workers_);
            },
        .worker_binary = options_.worker_binary,
        .run_dir = options_.run_dir,
        .sweep = &SweepTag,
        .on_job_over = [this](const JobOver& over) { OnJobOver(over); }});
    agent_service_ = std::make_unique<AgentService>(node_.get(), &coordinators_);
    worker_service_ = std::make_unique<WorkerHostService>(node_.get(), &workers_);
    ASSIGN_OR_RETURN(worker_server_, RpcServer::Start({worker_service_.get()}));
    ASSIGN_OR_RETURN(agent_server_, RpcServer::Start({agent_service_.get()}));
    ASSIGN_OR_RETURN(door_, Door::Open({.name = "the coordinator's door",
                                        .listen = options_.listen,
                                        .cluster_key = options_.cluster_key,
                                        .owner = std::nullopt,
                                        .judge = &IsOurUserOrRoot},
                                       agent_server_.get(), &coordinators_));
    return absl::OkStatus();
  }

  // False: nobody is there to read it.
  bool AnnounceReady() {
    LOG(INFO) << "listening on " << door_->address();
    if (options_.ready_fd < 0) return true;
    const std::string line = absl::StrCat(door_->port(), "\n");
    const bool read =
        write(options_.ready_fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
    close(options_.ready_fd);
    return read;
  }

  // Beats and waits until there is nothing left to do.
  void Serve() {
    bool leaving = false;
    const SteadyTime give_up_at = Clock::Real().SteadyNow() + options_.first_job_within;
    while (true) {
      if (options_.one_job && Clock::Real().SteadyNow() >= give_up_at && node_->CloseIfUnused()) {
        LOG(WARNING) << "no job came within " << options_.first_job_within
                     << ": whoever started this agent is probably dead";
        return;
      }
      if (node_->Healthy()) WriteBeat(options_.beat_fd, node_->stalled_after());
      pollfd fds[] = {{over_->fd(), POLLIN, 0},
                      {signal_fd_, POLLIN, 0},
                      // Once leaving, the end of the keeper is known and would only spin.
                      {leaving ? -1 : options_.life_fd, POLLIN, 0}};
      poll(fds, 3, PollMilliseconds(kBeatInterval));
      const bool told = ReadSignals();
      if (!leaving && (told || fds[2].revents != 0)) {
        LOG(WARNING) << (told ? "told to end" : "the keeper is dead") << ": ending everything";
        leaving = true;
        node_->OnKeeperGone();
      }
      const bool over = over_->Take();
      if (over && (leaving || options_.one_job)) return;
      if (over) asked_job_ = false;  // of the next one
      if (!leaving && asked_by_ != 0 && HeedRequest()) return;
    }
  }

  void Stop() {
    door_.reset();
    agent_server_.reset();
    // Its handlers ask the node; and the node's last door hands over to it until it is closed.
    if (worker_server_ != nullptr) worker_server_->Shutdown();
    node_.reset();
    worker_server_.reset();
    runner_.reset();
    // The keeper removes the folder; without one it is ours to do.
    std::error_code ignored;
    std::filesystem::remove_all(options_.socket_dir, ignored);
  }

 private:
  // True: the keeper says that everything shall end (KeepersOrder). All other signals are requests.
  bool ReadSignals() {
    bool told = false;
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
      const auto signal = static_cast<int>(info.ssi_signo);
      if (signal == KeepersOrder()) {
        told |= static_cast<pid_t>(info.ssi_pid) == getppid();
      } else if (asked_by_ == 0) {
        LOG(WARNING) << "got signal " << signal << " from process " << info.ssi_pid
                     << ": the job's coordinator decides, else its lease";
        asked_by_ = signal;
        asked_job_ = false;
      }
    }
    return told;
  }

  // Someone wants this agent to end: as soon as it has no job. A running one is told, once. True:
  // that is now. An agent that was started for one job waits for it: whoever started it is asked
  // the same, or will not miss it.
  bool HeedRequest() {
    if (!asked_job_) asked_job_ = node_->OnAskedToStop(asked_by_);
    if (asked_by_ == SIGUSR1 || asked_by_ == SIGUSR2) {
      asked_by_ = 0;  // the job's business and not the agent's
      return false;
    }
    return !options_.one_job && node_->CloseIfIdle();
  }

  void OnJobOver(const JobOver&) { over_->Wake(); }

  const AgentProcessOptions options_;
  const int signal_fd_;
  std::optional<WakeFd> over_;  // from Start on
  // Of Serve.
  int asked_by_ = 0;  // the signal of the first request; 0: none
  bool asked_job_ = false;
  // Destroyed from the last to the first: servers before what they serve, all before the runner.
  std::unique_ptr<PosixProcessRunner> runner_;
  GuestList coordinators_;
  GuestList workers_;
  std::unique_ptr<AgentNode> node_;
  std::unique_ptr<AgentService> agent_service_;
  std::unique_ptr<WorkerHostService> worker_service_;
  std::unique_ptr<RpcServer> worker_server_;
  std::unique_ptr<RpcServer> agent_server_;
  std::unique_ptr<Door> door_;
};

}  // namespace

int RunAgentProcess(const AgentProcessOptions& options) {
  AgentProcess process(options);
  if (const absl::Status status = process.Start(); !status.ok()) {
    LOG(ERROR) << "cannot start: " << status;
    return kExitCannotStart;
  }
  if (process.AnnounceReady() || !options.one_job) {
    process.Serve();
  } else {
    LOG(WARNING) << "whoever started this agent for one job is dead: there will be none";
  }
  process.Stop();
  return kExitOk;
}

}  // namespace dsrun::agent
