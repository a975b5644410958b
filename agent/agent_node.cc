#include "agent/agent_node.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "agent/node_limits.h"
#include "common/base/clock.h"
#include "common/base/file_system.h"
#include "common/base/logging.h"
#include "common/base/patience.h"
#include "common/base/process_user.h"
#include "common/base/status_macros.h"

namespace dsrun::agent {
namespace {

constexpr int kProtocolVersion = 1;

// A network file system may show a new file late.
constexpr Patience::Limits kProbePatience = {
    .first = absl::Milliseconds(50), .most = absl::Milliseconds(500), .total = absl::Seconds(2)};

absl::Status CheckMessage(const proto::Open& open) {
  if (open.protocol_version() != kProtocolVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("Open: expected protocol version ", kProtocolVersion, ", got ",
                     open.protocol_version(), "; dsrun and dsagent must come from one build"));
  }
  if (open.job().job_id().empty() || open.job_token().empty()) {
    return absl::InvalidArgumentError("Open: expected a job id and a job token, got none");
  }
  if (open.job().job_id().find('/') != std::string::npos || open.job().job_id().front() == '.') {
    return absl::InvalidArgumentError(absl::StrCat(
        "Open: expected a job id that can name a folder, got \"", open.job().job_id(), "\""));
  }
  if (open.node() < 0 || open.node() >= open.job().nodes_size()) {
    return absl::InvalidArgumentError(absl::StrCat("Open: expected a node below ",
                                                   open.job().nodes_size(), ", got ", open.node()));
  }
  if (open.job().work_case() == proto::JobSpec::WORK_NOT_SET) {
    return absl::InvalidArgumentError("Open: expected training or a program, got neither");
  }
  return absl::OkStatus();
}

absl::Status CheckProbe(const proto::Open& open) {
  if (open.probe_path().empty()) return absl::OkStatus();
  Patience patience(
      Clock::Real(), [](absl::Duration wait) { return SleepUnless(wait, nullptr); },
      kProbePatience);
  absl::StatusOr<std::string> content;
  do {
    content = ReadFile(FileSystem::Real(), open.probe_path());
    if (content.ok() && *content == open.probe_content()) return absl::OkStatus();
  } while (patience.Again());
  return absl::FailedPreconditionError(absl::StrCat(
      "save folder: expected the file ", open.probe_path(), " that the launcher wrote, got ",
      content.ok() ? "other content" : std::string(content.status().message()), " on node ",
      open.job().nodes(open.node()).host(),
      "; the save folder must be one shared file system on all nodes"));
}

// A slot beyond the hostfile's is the id of a GPU, which only the node itself can confirm.
absl::Status CheckGpus(const proto::NodeSpec& node, int gpus) {
  if (node.hostfile_slots() == 0) return absl::OkStatus();
  for (const int32_t slot : node.slots()) {
    if (slot < node.hostfile_slots() || slot < gpus) continue;
    const std::string got = gpus == 0   ? "no GPU"
                            : gpus == 1 ? "GPU 0 alone"
                                        : absl::StrCat("GPUs 0-", gpus - 1);
    return absl::FailedPreconditionError(absl::StrCat(
        "--include: expected GPU ", slot, " on node ", node.host(), ", because slot ", slot,
        " is none of the ", node.hostfile_slots(), " that the hostfile gives it, but the node has ",
        got, "; name a slot that is there, or give the node more slots in the hostfile"));
  }
  return absl::OkStatus();
}

// A job that could save nothing would train for nothing.
absl::Status CheckUserMaySave(const proto::Open& open, const ProcessUser& user) {
  if (open.job().has_program()) return absl::OkStatus();
  const absl::Status status = CheckMayWrite(user, open.job().train().save_dir());
  if (status.ok()) return status;
  return absl::FailedPreconditionError(
      absl::StrCat("run_as_user: expected a save folder that \"", open.job().run_as_user(),
                   "\" may write to on node ", open.job().nodes(open.node()).host(), ", but ",
                   status.message(), "; give the folder to that user, or another one with --save"));
}

absl::Status CheckWorkerBinary(const proto::JobSpec& job, const std::string& path,
                               const ProcessUser& user) {
  if (job.has_program()) return absl::OkStatus();
  if (access(path.c_str(), X_OK) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("dsworker: expected an executable at ", path,
                     ", got none; install it beside dsagent or give --worker-binary"));
  }
  const absl::Status status = CheckMayExecute(user, path);
  if (status.ok()) return status;
  return absl::FailedPreconditionError(absl::StrCat(
      "run_as_user: expected a dsworker that \"", job.run_as_user(), "\" may start, but ",
      status.message(), "; install the programs where every user may read, as in /usr/local/bin"));
}

// Every job that this agent serves gets a folder of its own. The agent that dsrun starts for one
// job is told that job's.
std::string RunFolder(const std::string& own, const proto::JobSpec& job) {
  if (own.empty() || own == job.run_dir()) return job.run_dir();
  return absl::StrCat(own, "/", job.job_id());
}

absl::Status MakeLogFolder(const std::string& run_dir, const std::string& host) {
  std::error_code error;
  const std::string path = absl::StrCat(run_dir, "/logs/", host);
  std::filesystem::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("run folder: cannot make ", path, ": ",
                                                    error.message(),
                                                    "; give another one with --run-dir"));
}

}  // namespace

AgentNode::AgentNode(Options options) : options_(std::move(options)) {}

AgentNode::~AgentNode() {
  std::shared_ptr<Supervisor> last;
  std::unique_ptr<WorkerDoor> door;
  {
    MutexLock lock(mu_);
    last = std::move(supervisor_);
    door = std::move(door_);
  }
  door.reset();  // first: its thread may be the last to hold the supervisor
}

absl::StatusOr<std::shared_ptr<Supervisor>> AgentNode::Admit(
    const proto::CoordinatorMessage& first, std::shared_ptr<CoordinatorPeer> coordinator) {
  if (!first.has_open()) {
    return absl::InvalidArgumentError(
        "expected Open first, got another message; dsrun and dsagent must come from one build");
  }
  RETURN_IF_ERROR(CheckMessage(first.open()));
  {
    MutexLock lock(mu_);
    if (closed_) return absl::UnavailableError("this agent is ending");
    if (busy_) {
      return absl::ResourceExhaustedError(
          "another job is running on this node; wait for its end or cancel it");
    }
    busy_ = true;
  }
  // From here on this call is alone: nobody else is admitted while busy_ is set.
  // Its supervisor must be joined first: its last act may still be on its way out.
  {
    std::shared_ptr<Supervisor> previous;
    MutexLock lock(mu_);
    previous.swap(supervisor_);
  }
  absl::StatusOr<std::shared_ptr<Supervisor>> admitted = Start(first, std::move(coordinator));
  std::unique_ptr<WorkerDoor> unused;
  MutexLock lock(mu_);
  if (admitted.ok()) {
    supervisor_ = *admitted;
    used_ = true;
  } else {
    busy_ = false;
    unused = std::move(door_);
  }
  return admitted;
}

absl::StatusOr<std::shared_ptr<Supervisor>> AgentNode::Start(
    const proto::CoordinatorMessage& first, std::shared_ptr<CoordinatorPeer> coordinator) {
  ASSIGN_OR_RETURN(Supervisor::Options options, CheckNode(first.open()));
  RETURN_IF_ERROR(OpenDoor(first.open(), options));
  options.on_over = [this](const JobOver& over) { OnOver(over); };
  ASSIGN_OR_RETURN(std::unique_ptr<Supervisor> supervisor,
                   Supervisor::Create(std::move(options), first, std::move(coordinator)));
  return std::shared_ptr<Supervisor>(std::move(supervisor));
}

// A program's ranks have nothing to say to the agent, so there is no door for them.
absl::Status AgentNode::OpenDoor(const proto::Open& open, Supervisor::Options& options) {
  if (open.job().has_program() || !options_.open_worker_door) return absl::OkStatus();
  WorkerDoor::Options door;
  door.uid = options.user.change ? options.user.uid : geteuid();
  door.slots = open.job().nodes(open.node()).slots_size();
  door.judge = [this](int32_t pid, uint32_t uid) -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<Supervisor> supervisor, Running());
    return supervisor->CheckWorker(pid, uid);
  };
  {
    MutexLock lock(mu_);
    door.number = ++jobs_;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<WorkerDoor> opened, options_.open_worker_door(std::move(door)));
  options.agent_socket = opened->socket();
  MutexLock lock(mu_);
  door_ = std::move(opened);
  return absl::OkStatus();
}

void AgentNode::OnOver(const JobOver& over) {
  std::unique_ptr<WorkerDoor> door;
  {
    MutexLock lock(mu_);
    door = std::move(door_);
  }
  door.reset();  // before the next job is let in; its thread may be asking us
  {
    MutexLock lock(mu_);
    busy_ = false;
  }
  if (options_.on_job_over) options_.on_job_over(over);
}

absl::StatusOr<Supervisor::Options> AgentNode::CheckNode(const proto::Open& open) const {
  Supervisor::Options options;
  ASSIGN_OR_RETURN(options.user, ResolveProcessUser(open.job().run_as_user()));
  RETURN_IF_ERROR(CheckGpus(open.job().nodes(open.node()), options_.inventory.gpu_count()));
  RETURN_IF_ERROR(CheckWorkerBinary(open.job(), options_.worker_binary, options.user));
  RETURN_IF_ERROR(CheckProbe(open));
  RETURN_IF_ERROR(CheckUserMaySave(open, options.user));
  options.run_dir = RunFolder(options_.run_dir, open.job());
  RETURN_IF_ERROR(MakeLogFolder(options.run_dir, open.job().nodes(open.node()).host()));
  options.runner = options_.runner;
  options.clock = options_.clock;
  options.incarnation = options_.incarnation;
  options.inventory = options_.inventory;
  options.worker_binary = options_.worker_binary;
  options.tick_period = options_.tick_period;
  options.sweep = options_.sweep;
  options.door_waits = options_.door_waits;
  options.memory = options_.memory;
  options.look_at_dying = options_.look_at_dying;
  options.may_be_child = options_.may_be_child;
  return options;
}

absl::StatusOr<std::shared_ptr<Supervisor>> AgentNode::Running() {
  MutexLock lock(mu_);
  if (supervisor_ == nullptr || !busy_) {
    return absl::UnauthenticatedError("worker session: no job is running on this node");
  }
  return supervisor_;
}

void AgentNode::OnKeeperGone() {
  std::shared_ptr<Supervisor> supervisor;
  {
    MutexLock lock(mu_);
    if (busy_) supervisor = supervisor_;
  }
  if (supervisor != nullptr) {
    supervisor->OnKeeperGone();
  } else if (options_.on_job_over) {
    options_.on_job_over({.reason = "the keeper of this agent is dead", .abandoned = true});
  }
}

bool AgentNode::OnAskedToStop(int signal) {
  std::shared_ptr<Supervisor> supervisor;
  {
    MutexLock lock(mu_);
    if (busy_) supervisor = supervisor_;
  }
  if (supervisor != nullptr) supervisor->OnAskedToStop(signal);
  return supervisor != nullptr;
}

bool AgentNode::CloseIfIdle() {
  MutexLock lock(mu_);
  if (!busy_) closed_ = true;
  return closed_;
}

bool AgentNode::CloseIfUnused() {
  MutexLock lock(mu_);
  if (!busy_ && !used_) closed_ = true;
  return closed_;
}

absl::Duration AgentNode::stalled_after() {
  MutexLock lock(mu_);
  return busy_ && supervisor_ != nullptr ? supervisor_->stalled_after()
                                         : ResolveLimits(proto::Limits()).agent_stalled_after;
}

bool AgentNode::Healthy() {
  MutexLock lock(mu_);
  if (!busy_ || supervisor_ == nullptr) return true;
  return options_.clock->SteadyNow() - supervisor_->last_round() < supervisor_->stalled_after();
}

}  // namespace dsrun::agent
