#include "agent/supervisor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/node_limits.h"
#include "agent/worker_command.h"
#include "common/base/counted.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/rpc/constant_time.h"
#include "common/topology/rank_files.h"

namespace dsrun::agent {
namespace {

constexpr int kProtocolVersion = 1;

// What is less is noise of the clocks, and counts when there is more of it.
constexpr absl::Duration kShortestSleep = absl::Milliseconds(100);
// What the disks get for the logs before the end of the job is told.
constexpr absl::Duration kFlushLimit = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(
    Options options, const proto::CoordinatorMessage& open,
    std::shared_ptr<CoordinatorPeer> coordinator) {
  std::unique_ptr<Supervisor> supervisor(
      new Supervisor(std::move(options), open, std::move(coordinator)));
  ASSIGN_OR_RETURN(
      supervisor->logs_,
      LogPump::Create([s = supervisor.get()](LogLines lines) { return s->ForwardLog(lines); },
                      supervisor->options_.clock,
                      [s = supervisor.get()](Slot slot, const std::string& text) {
                        s->TellOperator(slot, text);
                      }));
  ASSIGN_OR_RETURN(supervisor->starter_, SideThread::Create("the starts of ranks"));
  // The secret stays here; the core has no use for it.
  proto::CoordinatorMessage first = open;
  first.mutable_open()->clear_job_token();
  supervisor->Enqueue(CoordinatorReceived{std::move(first)});
  ASSIGN_OR_RETURN(supervisor->thread_,
                   StartThread("a job", [s = supervisor.get()] { s->Loop(); }));
  return supervisor;
}

Supervisor::Supervisor(Options options, const proto::CoordinatorMessage& open,
                       std::shared_ptr<CoordinatorPeer> coordinator)
    : options_(std::move(options)),
      job_(open.open().job()),
      node_(open.open().node()),
      token_(open.open().job_token()),
      coordinator_(std::move(coordinator)),
      core_({.incarnation = options_.incarnation, .inventory = options_.inventory}) {
  {
    MutexLock lock(ends_->mu);
    ends_->supervisor = this;
  }
  slept_ = options_.clock->Slept();
  last_round_ns_ = absl::ToInt64Nanoseconds(options_.clock->SteadyNow());
}

Supervisor::~Supervisor() {
  if (thread_.joinable()) {
    OnKeeperGone();  // a job still running is ended like one whose keeper is gone
    thread_.join();
  }
  MutexLock lock(ends_->mu);
  ends_->supervisor = nullptr;
}

// ---- Events in

void Supervisor::OnCoordinatorMessage(const proto::CoordinatorMessage& message) {
  Enqueue(CoordinatorReceived{message});
}

void Supervisor::OnCoordinatorGone(const std::string& why) { Enqueue(CoordinatorGone{why}); }

absl::Status Supervisor::CheckWorker(int32_t pid, uint32_t uid) const {
  // Of another pid namespace; and no slot's process has such a number, started or not.
  if (pid <= 0) return absl::PermissionDeniedError("is a process that has no number here");
  const uint32_t expected = options_.user.change ? options_.user.uid : geteuid();
  if (uid != expected) {
    return absl::PermissionDeniedError(
        absl::StrCat("is of another user than the ranks, who are uid ", expected));
  }
  const auto is = [&](const auto& entry) { return entry.second == pid; };
  const auto is_starting = [](const auto& entry) { return entry.second == 0; };
  const bool may_wait = options_.may_be_child(pid);
  const SteadyTime deadline = Clock::Real().SteadyNow() + options_.door_waits;
  MutexLock lock(mu_);
  while (may_wait && std::ranges::none_of(pids_, is) && std::ranges::any_of(pids_, is_starting)) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) break;
    pids_changed_.WaitFor(mu_, left);
  }
  if (std::ranges::any_of(pids_, is)) return absl::OkStatus();
  return absl::PermissionDeniedError("is no rank of the job that runs here");
}

void Supervisor::ForgetPid(Slot slot) {
  pids_.erase(slot);
  pids_changed_.NotifyAll();
}

absl::Status Supervisor::OnWorkerHello(const proto::WorkerMessage& hello, int32_t pid,
                                       std::shared_ptr<WorkerPeer> peer) {
  if (!SecretsEqual(token_, hello.hello().token())) {
    return absl::UnauthenticatedError("worker session: not the token of the job that runs here");
  }
  if (hello.hello().protocol_version() != kProtocolVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "worker session: expected protocol version ", kProtocolVersion, ", got ",
        hello.hello().protocol_version(), "; dsworker and dsagent must come from one build"));
  }
  const Slot slot(hello.hello().slot());
  const Incarnation incarnation(hello.incarnation());
  std::shared_ptr<WorkerPeer> replaced;
  {
    MutexLock lock(mu_);
    const auto own = pids_.find(slot);
    if (own == pids_.end() || own->second != pid) {
      return absl::AbortedError(absl::StrCat("worker session: expected the process of slot ",
                                             slot.value(), " (pid ",
                                             own == pids_.end() ? 0 : own->second, "), got pid ",
                                             pid, "; it has been replaced and must exit"));
    }
    Session& session = sessions_[slot];
    replaced = std::exchange(session.peer, std::move(peer));
    session.incarnation = incarnation;
    queue_.push_back(WorkerHello{slot, incarnation});
  }
  changed_.NotifyOne();
  if (replaced != nullptr) replaced->Close(absl::AbortedError("a newer session took this slot"));
  return absl::OkStatus();
}

void Supervisor::OnWorkerMessage(Slot slot, const proto::WorkerMessage& message) {
  Enqueue(WorkerReceived{slot, message});
}

void Supervisor::OnWorkerGone(Slot slot, Incarnation incarnation) {
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(slot);
    if (it != sessions_.end() && it->second.incarnation == incarnation) sessions_.erase(it);
  }
  Enqueue(WorkerSessionClosed{slot, incarnation});
}

void Supervisor::OnKeeperGone() { Enqueue(KeeperGone{}); }

void Supervisor::OnAskedToStop(int signal) { Enqueue(AskedToStop{signal}); }

void Supervisor::Tick() { Enqueue(agent::Tick{}); }

void Supervisor::Enqueue(NodeEvent event) {
  {
    MutexLock lock(mu_);
    queue_.push_back(std::move(event));
  }
  changed_.NotifyOne();
}

absl::Duration Supervisor::last_round() const { return absl::Nanoseconds(last_round_ns_.load()); }

absl::Duration Supervisor::stalled_after() const {
  return ResolveLimits(job_.limits()).agent_stalled_after;
}

// ---- The core's thread

void Supervisor::Loop() {
  absl::Duration next_tick = options_.clock->SteadyNow() + options_.tick_period;
  while (!core_.over()) {
    std::deque<NodeEvent> events;
    std::vector<Started> started;
    {
      MutexLock lock(mu_);
      const absl::Duration left = next_tick - options_.clock->SteadyNow();
      const bool idle = queue_.empty() && started_.empty();
      if (idle && options_.tick_period == absl::InfiniteDuration()) {
        changed_.Wait(mu_);
      } else if (idle && left > absl::ZeroDuration()) {
        changed_.WaitFor(mu_, left);
      }
      events.swap(queue_);
      started.swap(started_);
    }
    const absl::Duration now = options_.clock->SteadyNow();
    last_round_ns_ = absl::ToInt64Nanoseconds(now);
    if (now >= next_tick) {
      // Behind what was queued: silence is judged after the messages that break it.
      events.push_back(agent::Tick{});
      next_tick = now + options_.tick_period;
    }
    for (const Started& each : started) FinishStart(each);
    for (NodeEvent& event : events) StepAll(std::move(event));
  }
  KillLateStarts();
}

void Supervisor::StepAll(NodeEvent event) {
  own_events_.push_back(std::move(event));
  while (!own_events_.empty()) {
    NoteSleep();
    const NodeEvent next = std::move(own_events_.front());
    own_events_.pop_front();
    if (std::holds_alternative<agent::Tick>(next)) {
      LookForDying();
      LookAtStarts();
    }
    const std::vector<NodeAction> actions = core_.Step(options_.clock->SteadyNow(), next);
    generation_ = core_.generation().value();
    for (const NodeAction& action : actions) {
      std::visit([this](const auto& a) { Do(a); }, action);
    }
  }
}

void Supervisor::NoteSleep() {
  const absl::Duration slept = options_.clock->Slept();
  if (slept - slept_ < kShortestSleep) return;
  LOG(WARNING) << "this machine was suspended for " << slept - slept_;
  own_events_.push_front(Slept{slept - slept_});
  slept_ = slept;
}

absl::StatusOr<int> Supervisor::MakeBootstrap(Slot slot) const {
  proto::WorkerBootstrap bootstrap;
  bootstrap.set_agent_socket(options_.agent_socket);
  bootstrap.set_agent_uid(geteuid());
  bootstrap.set_agent_pid(getpid());
  bootstrap.set_job_token(token_);
  bootstrap.set_node(node_);
  bootstrap.set_slot(slot.value());
  bootstrap.set_job_id(job_.job_id());
  bootstrap.set_host(job_.nodes(node_).host());
  bootstrap.set_bind_address(job_.nodes(node_).address());
  const std::string bytes = bootstrap.SerializeAsString();
  const int fd = memfd_create("dsrun-bootstrap", MFD_CLOEXEC);
  if (fd < 0 || write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      lseek(fd, 0, SEEK_SET) != 0) {
    const int error = errno;
    const absl::Status status = absl::ResourceExhaustedError(
        absl::StrCat("cannot write the bootstrap of slot ", slot.value(), ": ", strerror(error),
                     BecauseOfLimit(error)));
    if (fd >= 0) close(fd);
    return status;
  }
  return fd;
}

std::string Supervisor::LogPath(const SpawnWorker& action) const {
  return FilesOfRank(options_.run_dir, job_.nodes(node_).host(), action.rank,
                     action.plan.generation())
      .log;
}

void Supervisor::Do(const ReservePort& action) {
  const int32_t given = job_.master_port();
  absl::Status status;
  if (given != 0 && port_.port() == given) {
    status = port_.StillFree(job_.master_addr());  // the generation before is gone
  } else {
    absl::StatusOr<PortLease> lease = given != 0 ? PortLease::Take(given, job_.master_addr())
                                                 : PortLease::TakeAny(/*after=*/port_.port());
    status = lease.status();
    if (lease.ok()) port_ = *std::move(lease);
  }
  LOG(INFO) << "generation " << action.generation << ": MASTER_PORT "
            << (status.ok() ? absl::StrCat(port_.port()) : status.ToString());
  own_events_.push_back(PortReserved{action.generation, status.ok() ? port_.port() : 0,
                                     status.ok() ? "" : WhyNoPort(status)});
}

std::string Supervisor::WhyNoPort(const absl::Status& status) const {
  if (job_.master_port() == 0) return std::string(status.message());
  return absl::StrCat("expected a free port in --master_port, but ", std::string(status.message()),
                      "; end that, or leave --master_port out: every generation then gets a port "
                      "that is free");
}

void Supervisor::Do(const InspectWorker& action) {
  const auto it = processes_.find(action.slot);
  if (it == processes_.end()) return;
  const KernelState kernel = options_.inspect(it->second.pid);
  LOG(INFO) << "slot " << action.slot << ": asked what it is doing; pid " << it->second.pid
            << " is in state " << kernel.state << (kernel.wait_channel.empty() ? "" : ", in ")
            << kernel.wait_channel;
  own_events_.push_back(WorkerInspected{action.slot, kernel.state, kernel.wait_channel});
}

void Supervisor::Do(const KillWorker& action) {
  if (StopStart(action.slot, absl::ZeroDuration())) return;
  const auto it = processes_.find(action.slot);
  if (it == processes_.end()) return;
  LOG(INFO) << "slot " << action.slot << ": pid " << it->second.pid << " killed: " << action.reason;
  {
    MutexLock lock(mu_);
    it->second.fate->killed = true;
  }
  options_.runner->SignalGroup(it->second.pid, SIGKILL);
}

void Supervisor::Do(const StopLadder& action) {
  std::vector<int32_t> pids;
  for (const Slot slot : action.slots) {
    if (StopStart(slot, action.grace)) continue;
    const auto it = processes_.find(slot);
    if (it != processes_.end()) pids.push_back(it->second.pid);
  }
  LOG(INFO) << "SIGTERM to " << Counted(pids.size(), "rank") << ", SIGKILL after " << action.grace;
  options_.runner->StopGroups(pids, action.grace);
}

void Supervisor::Do(const SignalWorkers& action) {
  LOG(INFO) << "signal " << action.signal << " to " << Counted(action.slots.size(), "rank");
  for (const Slot slot : action.slots) {
    const auto it = processes_.find(slot);
    if (it != processes_.end()) options_.runner->SignalGroup(it->second.pid, action.signal);
  }
}

proto::NodeMemory Supervisor::Memory() const {
  std::vector<int32_t> pids;
  for (const auto& [slot, process] : processes_) {
    // What a dying one holds is nobody's to use again, for as long as it holds it.
    if (process.dying.since() == absl::InfiniteDuration()) pids.push_back(process.pid);
  }
  return options_.memory(job_.job_id(), pids);
}

void Supervisor::Do(const SendToCoordinator& action) {
  proto::AgentMessage message = action.message;
  // A measurement, so not the core's: as new as it can be.
  if (message.has_opened()) *message.mutable_opened()->mutable_memory() = Memory();
  if (message.has_prepared()) *message.mutable_prepared()->mutable_memory() = Memory();
  if (message.has_job_ended()) FlushLogs();
  coordinator_->Send(std::move(message));
  if (action.message.has_worker_exited()) {
    const proto::WorkerExited& exited = action.message.worker_exited();
    LOG(INFO) << "slot " << exited.slot() << ": pid " << exited.pid() << " ended, exit code "
              << exited.exit_code() << ", signal " << exited.term_signal()
              << (exited.reason().empty() ? "" : ": ") << exited.reason();
  }
}

void Supervisor::Do(const SendToWorker& action) {
  if (action.message.has_plan()) {
    const WorkerSlot* worker = core_.worker(action.slot);
    const auto it = processes_.find(action.slot);
    if (worker != nullptr && it != processes_.end()) {
      logs_->SetRank(it->second.log_id, worker->rank);
    }
  }
  std::shared_ptr<WorkerPeer> peer;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(action.slot);
    if (it != sessions_.end()) peer = it->second.peer;
  }
  if (peer != nullptr) peer->Send(action.message);
}

// Follows the end of the slot's process, so its records are done with, too.
void Supervisor::Do(const SweepOrphans& action) {
  if (!action.slot.has_value()) {
    const std::string left = options_.sweep("");
    LOG_IF(WARNING, !left.empty()) << "left below this agent: " << left;
    return;
  }
  const auto it = processes_.find(*action.slot);
  if (it == processes_.end()) return;
  const std::string tag = it->second.tag;
  processes_.erase(it);
  {
    MutexLock lock(mu_);
    ForgetPid(*action.slot);
  }
  options_.sweep(tag);
}

void Supervisor::Do(const ClearNode& action) {
  own_events_.push_back(NodeCleared{action.generation, options_.sweep("")});
}

// Whoever hears of the job's end reads its logs.
void Supervisor::FlushLogs() {
  for (const std::string& words : logs_->Flush(std::min(kFlushLimit, stalled_after() / 2))) {
    LOG(WARNING) << words;
    TellOperator(job_.nodes(node_).slots().empty() ? Slot(0) : Slot(job_.nodes(node_).slots(0)),
                 words);
  }
}

void Supervisor::TellOperator(Slot slot, const std::string& text) {
  proto::AgentMessage message;
  message.set_job_id(job_.job_id());
  message.set_incarnation(options_.incarnation.value());
  message.set_generation(generation_);
  message.mutable_worker_report()->set_slot(slot.value());
  proto::WorkerMessage& report = *message.mutable_worker_report()->mutable_message();
  report.set_job_id(job_.job_id());
  report.set_generation(generation_);
  report.mutable_notice()->set_text(text);
  report.mutable_notice()->set_warning(true);
  coordinator_->Send(std::move(message));
}

void Supervisor::Do(const JobOver& action) {
  LOG(INFO) << "job " << job_.job_id() << " is over here: " << action.reason;
  for (const Leftover& leftover : leftovers_) {
    bool ended = false;
    {
      MutexLock lock(mu_);
      ended = leftover.fate->ended;
    }
    if (ended) continue;
    LOG(WARNING) << "left behind by this job: " << ProcessWords(leftover.pid);
  }
  port_ = PortLease();
  // In this order: who sees the end of the stream may open the next job at once.
  if (options_.on_over) options_.on_over(action);
  coordinator_->Close(action.abandoned ? absl::UnavailableError(action.reason) : absl::OkStatus());
}

bool Supervisor::ForwardLog(const LogLines& lines) {
  proto::AgentMessage message;
  message.set_job_id(job_.job_id());
  message.set_incarnation(options_.incarnation.value());
  message.set_generation(generation_);
  proto::LogChunk& chunk = *message.mutable_log_chunk();
  chunk.set_slot(lines.slot.value());
  chunk.set_rank(lines.rank.value());
  chunk.set_text(lines.text);
  chunk.set_dropped_lines(lines.dropped_lines);
  return coordinator_->TrySendBulk(std::move(message));
}

}  // namespace dsrun::agent
