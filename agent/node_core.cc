#include "agent/node_core.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/topology/plan_places.h"
#include "common/topology/process_group.h"

namespace dsrun::agent {
namespace {

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToDoubleSeconds(duration), " s");
}

// Whether every member that `plan` has on `node` is in a slot that the job has there.
bool HasSlotsFor(const proto::JobSpec& job, int node, const proto::GenerationPlan& plan) {
  if (node < 0 || node >= job.nodes_size()) return false;
  const auto& slots = job.nodes(node).slots();
  return std::all_of(plan.members().begin(), plan.members().end(), [&](const auto& member) {
    return member.node() != node ||
           std::find(slots.begin(), slots.end(), member.slot()) != slots.end();
  });
}

// Whose table it is; one without a group is of all ranks.
absl::StatusOr<ProcessGroup> GroupOfTable(const proto::GenerationPlan& plan,
                                          const std::string& group) {
  if (group.empty()) return WorldGroup(plan.members_size());
  ASSIGN_OR_RETURN(const Mesh mesh, MeshOf(plan));
  return GroupNamed(mesh, group);
}

constexpr int kUsr1 = 10;  // Linux, x86-64 and arm64
constexpr int kUsr2 = 12;

bool IsUserSignal(int signal) { return signal == kUsr1 || signal == kUsr2; }

constexpr int kNotExecuted = 126;  // what a shell would say

// For the coordinator to decide, when a signal may have reached it, too.
constexpr absl::Duration kDecideWithin = absl::Seconds(1);

}  // namespace

NodeCore::NodeCore(Options options) : options_(std::move(options)) {
  assert(options_.incarnation.value() != 0);
}

std::vector<NodeAction> NodeCore::Step(absl::Duration now, const NodeEvent& event) {
  if (phase_ == Phase::kOver) return {};
  now_ = now;
  actions_.clear();
  CheckLease();
  std::visit([this](const auto& e) { On(e); }, event);
  EndIfQuiet();
  CheckInvariants();
  return std::exchange(actions_, {});
}

WorkerState NodeCore::state(Slot slot) const {
  const WorkerSlot* record = worker(slot);
  return record == nullptr ? WorkerState::kEmpty : record->state;
}

const WorkerSlot* NodeCore::worker(Slot slot) const {
  const auto it = workers_.find(slot);
  return it == workers_.end() ? nullptr : &it->second;
}

// ---- The coordinator

void NodeCore::On(const CoordinatorReceived& event) {
  const proto::CoordinatorMessage& message = event.message;
  if (phase_ == Phase::kNew) {
    if (message.has_open()) OnOpen(message);
    return;
  }
  if (message.job_id() != job_.job_id()) return;
  // 0 is only right in Open, but names nobody else either.
  if (message.incarnation() != 0 && message.incarnation() != options_.incarnation.value()) return;
  NoteWord(message);
  if (phase_ != Phase::kRunning) return;
  const Generation generation(message.generation());
  switch (message.body_case()) {
    case proto::CoordinatorMessage::kPrepare:
      return OnPrepare(generation);
    case proto::CoordinatorMessage::kBegin:
      return OnBegin(generation, message.begin());
    case proto::CoordinatorMessage::kExchangeTable:
      return OnExchangeTable(generation, message.exchange_table());
    case proto::CoordinatorMessage::kStopWorkers:
      return OnStopWorkers(generation, message.stop_workers());
    case proto::CoordinatorMessage::kKillWorker:
      return OnKillWorker(generation, message.kill_worker());
    case proto::CoordinatorMessage::kTakeStacks:
      return OnTakeStacks(generation);
    case proto::CoordinatorMessage::kEndJob:
      return OnEndJob();
    case proto::CoordinatorMessage::kHeartbeat:
      if (message.heartbeat().has_sent()) echo_ = {FromProto(message.heartbeat().sent()), now_};
      return;
    case proto::CoordinatorMessage::kPassSignal:
      return OnPassSignal(generation, message.pass_signal().signal());
    case proto::CoordinatorMessage::kCommitSave:
      return OnCommitSave(message.commit_save());
    case proto::CoordinatorMessage::kDropSave:
      return OnDropSave(message.drop_save());
    case proto::CoordinatorMessage::kOpen:  // a repeat
    case proto::CoordinatorMessage::BODY_NOT_SET:
      return;
  }
}

void NodeCore::OnOpen(const proto::CoordinatorMessage& message) {
  job_ = message.open().job();
  node_ = message.open().node();
  limits_ = ResolveLimits(job_.limits());
  coordinator_heard_at_ = now_;
  heartbeat_at_ = now_;
  phase_ = Phase::kRunning;
  proto::AgentMessage reply;
  *reply.mutable_opened() = options_.inventory;
  Send(std::move(reply), generation_);
}

void NodeCore::OnPrepare(Generation generation) {
  // A repeat of the same claim is answered again: the first answer may be what was lost.
  if (generation <= generation_ || generation < prepared_) return;
  prepared_ = generation;
  if (IsProgram() && node_ == 0 && port_.generation != generation) {
    actions_.push_back(ReservePort{generation});
  } else {
    SendPrepared();
  }
}

void NodeCore::On(const PortReserved& event) {
  if (phase_ != Phase::kRunning) return;
  if (event.generation != prepared_ || event.generation == generation_) return;
  port_ = event;
  SendPrepared();
}

void NodeCore::SendPrepared() {
  proto::AgentMessage reply;
  proto::Prepared& prepared = *reply.mutable_prepared();
  for (const auto& [slot, worker] : workers_) {
    if (worker.state == WorkerState::kConnected) prepared.add_live_slots(slot.value());
  }
  if (port_.generation == prepared_) {
    prepared.set_master_port(port_.port);
    prepared.set_port_error(port_.error);
  }
  Send(std::move(reply), prepared_);
}

void NodeCore::OnBegin(Generation generation, const proto::Begin& begin) {
  if (generation <= generation_ || generation < prepared_) return;
  if (!HasSlotsFor(job_, node_, begin.plan())) {
    return RefusePlan(generation, begin.plan(),
                      "it has a rank in a slot that the job does not have on this node; "
                      "coordinator and agent must be of one version");
  }
  if (const absl::Status places = PlacesOf(begin.plan()).status(); !places.ok()) {
    return RefusePlan(generation, begin.plan(), std::string(places.message()));
  }
  generation_ = generation;
  prepared_ = generation;
  plan_ = begin.plan();
  coordinator_stops_ = false;
  // Whoever sent a signal does not send it again to every new generation.
  stop_requested_ = stop_checkpoint_ = asked_by_ != 0 && !IsProgram();
  if (IsProgram()) {
    BeginPrograms();
  } else {
    BeginEngine();
  }
}

// Its ranks here have failed before they were started: said at once and with the reason, not found
// out by the coordinator when they do not join.
void NodeCore::RefusePlan(Generation generation, const proto::GenerationPlan& plan,
                          const std::string& why) {
  const std::string words = absl::StrCat("its agent cannot follow the plan of generation ",
                                         generation.value(), ": ", why);
  std::set<int32_t> slots;
  for (const proto::Member& member : plan.members()) {
    if (member.node() == node_) slots.insert(member.slot());
  }
  for (const int32_t slot : slots) {
    WorkerSlot refused;
    refused.generation = generation;
    proto::WorkerExited exited;
    exited.set_exit_code(kNotExecuted);
    exited.set_reason(words);
    *exited.mutable_steady_time() = ToProto(now_);
    ReportEnd(Slot(slot), refused, std::move(exited));
  }
}

void NodeCore::BeginEngine() {
  for (auto& [slot, worker] : workers_) {
    if (!worker.alive() || worker.state == WorkerState::kStopping) continue;
    if (RankOf(slot) >= 0) {
      TakeMember(slot, worker);
    } else {
      Kill(slot, absl::StrCat("not a member of generation ", generation_.value()));
    }
  }
  SpawnMissing();
}

// A live worker carries over into the present generation, unless it is on its way out: then it is
// killed, and its end makes room for a new one.
void NodeCore::TakeMember(Slot slot, WorkerSlot& worker) {
  const bool leaving =
      worker.state == WorkerState::kFinished || worker.kill_at != absl::InfiniteDuration();
  if (leaving) {
    return Kill(slot, absl::StrCat("was leaving when generation ", generation_.value(), " began"));
  }
  worker.generation = generation_;
  worker.rank = Rank(RankOf(slot));
  if (worker.state != WorkerState::kConnected) return;  // it gets the plan with its welcome
  proto::HostMessage message = ToWorker();
  *message.mutable_plan() = plan_;
  actions_.push_back(SendToWorker{slot, std::move(message)});
}

void NodeCore::BeginPrograms() {
  spawn_when_empty_ = true;
  clear_by_ = absl::InfiniteDuration();
  if (AnyAlive()) {
    LadderAll(absl::StrCat("generation ", generation_.value(), " begins"));
  } else {
    ClearThenSpawn();
  }
}

void NodeCore::SpawnMissing() {
  spawn_when_empty_ = false;
  for (int rank = 0; rank < plan_.members_size(); ++rank) {
    const proto::Member& member = plan_.members(rank);
    if (member.node() == node_ && state(Slot(member.slot())) == WorkerState::kEmpty) {
      Spawn(Slot(member.slot()), Rank(rank));
    }
  }
}

void NodeCore::Spawn(Slot slot, Rank rank) {
  WorkerSlot& worker = workers_[slot];
  worker = {};
  worker.state = WorkerState::kStarting;
  worker.generation = generation_;
  worker.rank = rank;
  worker.heard_at = now_;
  actions_.push_back(SpawnWorker{slot, rank, plan_});
}

void NodeCore::OnExchangeTable(Generation generation, const proto::ExchangeTable& table) {
  if (generation != generation_) return;
  const absl::StatusOr<ProcessGroup> group = GroupOfTable(plan_, table.group());
  if (!group.ok()) return;
  for (const auto& [slot, worker] : workers_) {
    if (worker.state != WorkerState::kConnected || worker.generation != generation_) continue;
    if (!group->RankIn(worker.rank)) continue;
    proto::HostMessage message = ToWorker();
    *message.mutable_exchange_table() = table;
    actions_.push_back(SendToWorker{slot, std::move(message)});
  }
}

// Neither is fenced: a save may be of an older generation than the one in force, and its grant is
// for the process in this slot, whatever it does now.
void NodeCore::OnCommitSave(const proto::CommitSaveAt& commit) {
  const WorkerSlot* worker = Find(Slot(commit.slot()));
  // One that is gone, or not there yet: the coordinator hears of that and asks another.
  if (worker == nullptr || worker->state != WorkerState::kConnected) return;
  proto::HostMessage message = ToWorker();
  *message.mutable_commit_save() = commit.commit();
  actions_.push_back(SendToWorker{Slot(commit.slot()), std::move(message)});
}

void NodeCore::OnDropSave(const proto::DropSave& drop) {
  for (const auto& [slot, worker] : workers_) {
    if (worker.state != WorkerState::kConnected) continue;
    proto::HostMessage message = ToWorker();
    *message.mutable_drop_save() = drop;
    actions_.push_back(SendToWorker{slot, std::move(message)});
  }
}

void NodeCore::OnStopWorkers(Generation generation, const proto::StopWorkers& stop) {
  if (generation < generation_) return;
  // A program cannot be told more than TERM: asked again, the coordinator has no more patience.
  const bool impatient = stop_requested_ && !stop.checkpoint_first();
  stop_requested_ = true;
  coordinator_stops_ = true;
  stop_checkpoint_ = stop.checkpoint_first();
  spawn_when_empty_ = false;
  if (IsProgram()) return impatient ? KillAll("stopped at once") : LadderAll("stopped");
  AskAllToStop();
}

void NodeCore::AskAllToStop() {
  for (auto& [slot, worker] : workers_) {
    if (worker.state == WorkerState::kConnected) {
      AskToStop(slot, worker);
    } else if (!stop_checkpoint_ &&
               (worker.state == WorkerState::kStarting || worker.state == WorkerState::kUp)) {
      Kill(slot, "stopped before it joined");
    }
  }
}

// A stop with a checkpoint may take as long as the save takes; the coordinator loses patience with
// a second StopWorkers. A plain stop has the grace.
void NodeCore::AskToStop(Slot slot, WorkerSlot& worker) {
  proto::HostMessage message = ToWorker();
  message.mutable_stop()->set_checkpoint_first(stop_checkpoint_);
  actions_.push_back(SendToWorker{slot, std::move(message)});
  if (stop_checkpoint_) return;
  worker.kill_at = now_ + limits_.stop_grace;
  worker.kill_at_reason = absl::StrCat("did not stop within ", Seconds(limits_.stop_grace));
}

void NodeCore::OnTakeStacks(Generation generation) {
  if (generation != generation_ || IsProgram()) return;
  for (const auto& [slot, worker] : workers_) {
    if (worker.state == WorkerState::kConnected && worker.generation == generation_) {
      TakeStacks(slot);
    }
  }
}

// Both ways at once: a process that lives answers by itself, one that is stopped cannot.
void NodeCore::TakeStacks(Slot slot) {
  actions_.push_back(InspectWorker{slot});
  proto::HostMessage message = ToWorker();
  message.mutable_take_stacks();
  actions_.push_back(SendToWorker{slot, std::move(message)});
}

void NodeCore::On(const WorkerInspected& event) {
  const WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr || worker->generation != generation_) return;
  if (event.state != 'T' && event.state != 't') return;
  proto::AgentMessage report;
  report.mutable_worker_report()->set_slot(event.slot.value());
  proto::WorkerMessage& message = *report.mutable_worker_report()->mutable_message();
  message.set_job_id(job_.job_id());
  message.set_incarnation(worker->incarnation.value());
  message.set_generation(generation_.value());
  message.mutable_stacks()->set_state(absl::StrCat(
      event.state == 'T' ? "stopped" : "held by a debugger", " (state ",
      std::string(1, event.state),
      event.wait_channel.empty() ? "" : absl::StrCat(", in ", event.wait_channel), ")"));
  Send(std::move(report), generation_);
}

void NodeCore::OnKillWorker(Generation generation, const proto::KillWorker& kill) {
  if (generation == generation_) Kill(Slot(kill.slot()), kill.reason());
}

// The other signals are the agent's to send, or nobody's.
void NodeCore::OnPassSignal(Generation generation, int signal) {
  if (!IsProgram() || generation < generation_ || !IsUserSignal(signal)) return;
  SignalWorkers action{.slots = {}, .signal = signal};
  for (const auto& [slot, worker] : workers_) {
    if (worker.alive() && worker.pid != 0) action.slots.push_back(slot);
  }
  if (!action.slots.empty()) actions_.push_back(std::move(action));
}

void NodeCore::OnEndJob() {
  phase_ = Phase::kEnding;
  end_reason_ = "ended by the coordinator";
  if (IsProgram()) return LadderAll("the job ended");
  for (auto& [slot, worker] : workers_) {
    // A finished worker leaves by itself; its kill_at is set already.
    if (worker.state != WorkerState::kFinished) Kill(slot, "the job ended");
  }
}

void NodeCore::On(const CoordinatorGone& event) {
  coordinator_gone_ = true;
  if (phase_ == Phase::kNew) Abandon(event.why);
}

void NodeCore::On(const KeeperGone&) {
  abandoned_ = true;
  phase_ = Phase::kEnding;
  end_reason_ = "the keeper of this agent is dead";
  KillAll(end_reason_);
}

void NodeCore::On(const AskedToStop& event) {
  if (phase_ != Phase::kRunning || asked_by_ != 0) return;
  if (IsProgram() && IsUserSignal(event.signal)) return;
  asked_by_ = event.signal;
  decided_by_ = now_ + kDecideWithin;
  if (IsProgram() || coordinator_stops_) return;
  stop_requested_ = true;
  stop_checkpoint_ = true;
  AskAllToStop();
}

// ---- Sessions of our own workers

void NodeCore::On(const WorkerHello& event) {
  WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr) return;
  if (worker->state != WorkerState::kUp && worker->state != WorkerState::kConnected) return;
  worker->state = WorkerState::kConnected;
  worker->incarnation = event.incarnation;
  worker->heard_at = now_;
  worker->moved_at = now_;
  worker->patience = absl::InfiniteDuration();
  worker->kill_at = absl::InfiniteDuration();
  ReportStarted(event.slot, *worker);
  proto::HostMessage welcome = ToWorker();
  *welcome.mutable_welcome()->mutable_job() = job_;
  actions_.push_back(SendToWorker{event.slot, std::move(welcome)});
  proto::HostMessage plan = ToWorker();
  *plan.mutable_plan() = plan_;
  actions_.push_back(SendToWorker{event.slot, std::move(plan)});
  if (stop_requested_) AskToStop(event.slot, *worker);
}

void NodeCore::On(const WorkerReceived& event) {
  WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr || worker->state != WorkerState::kConnected) return;
  const uint64_t incarnation = event.message.incarnation();
  if (incarnation != 0 && incarnation != worker->incarnation.value()) return;
  worker->heard_at = now_;
  if (event.message.has_beat()) {
    return NoteBeat(*worker, event.message.beat());
  }
  if (!Relayed(*worker, event.message)) return;
  proto::AgentMessage report;
  report.mutable_worker_report()->set_slot(event.slot.value());
  *report.mutable_worker_report()->mutable_message() = event.message;
  Send(std::move(report), generation_);
  if (event.message.has_finished()) {
    if (event.message.finished().stopped_early()) TellOfSignal();
    worker->state = WorkerState::kFinished;
    worker->kill_at = now_ + limits_.stop_grace;
    worker->kill_at_reason =
        absl::StrCat("had finished and did not exit within ", Seconds(limits_.stop_grace));
  }
}

// A line for people is worth having whatever generation it was written in, and a save is written
// behind the generations: it says itself which it is of. Anything else counts only for the
// generation it belongs to.
bool NodeCore::Relayed(const WorkerSlot& worker, const proto::WorkerMessage& message) const {
  if (message.has_notice() || message.has_shard_written() || message.has_commit_done()) return true;
  return Generation(message.generation()) == generation_ && worker.generation == generation_;
}

void NodeCore::On(const WorkerSessionClosed& event) {
  WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr || worker->state != WorkerState::kConnected) return;
  if (worker->incarnation != event.incarnation) return;
  // Usually the first sign of its end, which follows at once.
  worker->state = WorkerState::kUp;
  worker->incarnation = Incarnation();
  worker->kill_at = now_ + limits_.worker_silent_after;
  worker->kill_at_reason = "closed its session and did not exit";
}

// ---- Small things

void NodeCore::Send(proto::AgentMessage message, Generation generation) {
  if (coordinator_gone_) return;
  message.set_job_id(job_.job_id());
  message.set_incarnation(options_.incarnation.value());
  message.set_generation(generation.value());
  actions_.push_back(SendToCoordinator{std::move(message)});
}

proto::HostMessage NodeCore::ToWorker() const {
  proto::HostMessage message;
  message.set_job_id(job_.job_id());
  message.set_generation(generation_.value());
  return message;
}

WorkerSlot* NodeCore::Find(Slot slot) {
  const auto it = workers_.find(slot);
  return it == workers_.end() || !it->second.alive() ? nullptr : &it->second;
}

int NodeCore::RankOf(Slot slot) const {
  for (int rank = 0; rank < plan_.members_size(); ++rank) {
    const proto::Member& member = plan_.members(rank);
    if (member.node() == node_ && member.slot() == slot.value()) return rank;
  }
  return -1;
}

bool NodeCore::AnyAlive() const {
  for (const auto& [slot, worker] : workers_) {
    if (worker.alive()) return true;
  }
  return false;
}

void NodeCore::CheckInvariants() const {
  for (const auto& [slot, worker] : workers_) {
    assert(worker.alive() || worker.pid == 0);
    assert(worker.generation <= generation_);
  }
  assert(phase_ != Phase::kOver || !AnyAlive());
}

}  // namespace dsrun::agent
