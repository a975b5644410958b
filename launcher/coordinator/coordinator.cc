#include "launcher/coordinator/coordinator.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "launcher/coordinator/exit_words.h"
#include "launcher/coordinator/generation_planner.h"
#include "launcher/coordinator/root_cause.h"
#include "launcher/coordinator/stop_words.h"

namespace dsrun::launcher {

const char* StateName(Coordinator::State state) {
  switch (state) {
    case Coordinator::State::kIdle:
      return "idle";
    case Coordinator::State::kOpening:
      return "opening";
    case Coordinator::State::kPreparing:
      return "preparing";
    case Coordinator::State::kStarting:
      return "starting";
    case Coordinator::State::kRunning:
      return "running";
    case Coordinator::State::kDraining:
      return "draining";
    case Coordinator::State::kStopping:
      return "stopping";
    case Coordinator::State::kEnding:
      return "ending";
    case Coordinator::State::kEnded:
      return "ended";
  }
  return "?";
}

Coordinator::Coordinator(CoordinatorConfig config)
    : config_(std::move(config)), s_(config_.nodes.size()) {}

std::vector<Action> Coordinator::Step(absl::Duration now, const Event& event) {
  now_ = now;
  actions_.clear();
  if (s_.phase != State::kEnded) {
    std::visit([this](const auto& kind) { On(kind); }, event);
  }
  return std::move(actions_);
}

Report Coordinator::CurrentReport(absl::Duration now) const {
  Report report = s_.history.ToldReport();
  report.exit_code = s_.exit_code;
  report.restarts = s_.restarts;
  report.ended_at = now;
  return report;
}

void Coordinator::On(const Start&) {
  if (s_.phase != State::kIdle) return;
  s_.history.report().started_at = now_;
  Enter(State::kOpening, config_.join_timeout);
  for (const NodeId node : s_.members.WithState(Membership::NodeState::kUnopened)) {
    Emit(OpenAgent{node});
  }
}

void Coordinator::On(const AgentSpoke& event) {
  const NodeId node = event.node;
  const proto::AgentMessage& message = event.message;
  if (!s_.members.Contains(node)) return;
  if (message.has_opened()) return OnOpened(node, message);
  if (!s_.members.IsOpen(node)) return;
  if (message.incarnation() != s_.members.incarnation(node).value()) return;
  s_.members.Heard(node, now_);
  const Generation generation(message.generation());
  switch (message.body_case()) {
    case proto::AgentMessage::kPrepared:
      return OnPrepared(node, generation, message.prepared());
    case proto::AgentMessage::kWorkerStarted:
      return OnWorkerStarted({node, Slot(message.worker_started().slot())}, generation);
    case proto::AgentMessage::kWorkerExited:
      return OnWorkerExited({node, Slot(message.worker_exited().slot())}, generation,
                            message.worker_exited());
    case proto::AgentMessage::kWorkerReport:
      return OnReport({node, Slot(message.worker_report().slot())},
                      message.worker_report().message());
    case proto::AgentMessage::kJobEnded:
      return OnJobEnded(node);
    case proto::AgentMessage::kOpened:     // handled above
    case proto::AgentMessage::kHeartbeat:  // folded into Tick
    case proto::AgentMessage::kLogChunk:   // the console's
    case proto::AgentMessage::BODY_NOT_SET:
      return;
  }
}

void Coordinator::OnOpened(NodeId node, const proto::AgentMessage& message) {
  if (s_.phase != State::kOpening) return;
  if (s_.members.state(node) != Membership::NodeState::kUnopened) return;
  s_.members.Open(node, Incarnation(message.incarnation()), now_);
  NoteMemory(node, message.opened().memory());
  if (s_.members.AllOpen()) {
    int slots = 0;
    for (const CoordinatorConfig::Node& each : config_.nodes) {
      slots += static_cast<int>(each.slots.size());
    }
    Emit(Tell{AgentsOpened{static_cast<int>(s_.members.size()), slots}});
    return Claim("first start");
  }
  // Some other agent could not be opened, and this was the last answer to wait for.
  if (s_.members.CountOf(Membership::NodeState::kUnopened) == 0) EndLaunch();
}

void Coordinator::OnPrepared(NodeId node, Generation generation, const proto::Prepared& prepared) {
  if (s_.phase != State::kPreparing || generation != s_.generation) return;
  if (!config_.is_train && node == NodeId(0) && !TakeMasterPort(prepared)) return;
  if (!s_.prepared.insert(node).second) return;
  NoteMemory(node, prepared.memory());
  if (s_.prepared.size() == s_.members.LiveCount()) BeginIfItFits();
}

// False: there is none, and the job ends. Rank 0 of a program is always on node 0.
bool Coordinator::TakeMasterPort(const proto::Prepared& prepared) {
  constexpr int kMost = 65535;
  std::string why = prepared.port_error();
  if (why.empty() && (prepared.master_port() < 0 || prepared.master_port() > kMost)) {
    why = absl::StrCat("its agent says that port ", prepared.master_port(), " is reserved");
  }
  s_.master_port = prepared.master_port();
  if (why.empty()) return true;
  BeginEnding(kExitPreflight,
              absl::StrCat("rank 0 has no MASTER_PORT on ", HostOf(NodeId(0)), ": ", why), true);
  return false;
}

void Coordinator::OnJobEnded(NodeId node) {
  if (s_.phase == State::kEnding) {
    s_.members.Done(node);
    return EndIfAllGone();
  }
  // Nobody told it to: its lease ran out (it has not heard us), or its keeper died.
  LoseNodes({node}, "its agent ended the job by itself; its log says why");
}

void Coordinator::On(const AgentGone& event) {
  if (!s_.members.Contains(event.node)) return;
  switch (s_.members.state(event.node)) {
    case Membership::NodeState::kDone:
    case Membership::NodeState::kLost:
      return;
    case Membership::NodeState::kOpen:
      return LoseNodes({event.node}, absl::StrCat("its agent is gone: ", event.why.message()));
    case Membership::NodeState::kUnopened:
      break;
  }
  if (s_.phase != State::kOpening) return;
  s_.members.Lose(event.node);
  Failure failure = NodeFailure(event.node, Failure::Kind::kNodeNotOpened,
                                absl::StrCat("could not be opened: ", event.why.message()));
  switch (event.why.code()) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kResourceExhausted:
      failure.exit_code = kExitPreflight;  // it answers, and refuses
      break;
    default:
      failure.exit_code = kExitUnreachable;
  }
  LaunchFailed(std::move(failure));
}

void Coordinator::On(const Tick& event) {
  const Membership::TickResult tick =
      s_.members.OnTick(now_, event.heard_from, config_.node_silent_after);
  if (tick.late) return;  // What came meanwhile may still wait behind this tick.
  for (const NodeId node : tick.silent) Emit(Raise{NodeSilent{node}});
  if (now_ >= s_.phase_deadline.at) {
    Emit(Raise{
        DeadlinePassed{DeadlinePassed::Kind::kPhase, s_.generation, s_.phase_deadline.number}});
  }
  if (now_ >= s_.cause_deadline.at) {
    Emit(Raise{
        DeadlinePassed{DeadlinePassed::Kind::kCause, s_.generation, s_.cause_deadline.number}});
  }
}

void Coordinator::On(const NodeSilent& event) {
  if (!s_.members.Contains(event.node) || !s_.members.IsOpen(event.node)) return;
  LoseNodes({event.node},
            absl::StrCat("has been silent for ", absl::FormatDuration(config_.node_silent_after)),
            config_.node_silent_after);
}

void Coordinator::On(const DeadlinePassed& event) {
  switch (event.kind) {
    case DeadlinePassed::Kind::kPhase:
      if (event.number == s_.phase_deadline.number && s_.phase_deadline.is_set()) OnPhaseDeadline();
      return;
    case DeadlinePassed::Kind::kCause:
      if (event.number == s_.cause_deadline.number && s_.cause_deadline.is_set()) OnCauseDeadline();
      return;
  }
}

void Coordinator::On(const ProgressMade& event) {
  if (event.generation.value() != s_.plan.generation()) return;
  if (event.step > s_.high_step) {
    s_.high_step = event.step;
    s_.progressed = true;
  }
  if (s_.first_step || (!RanksRun() && s_.phase != State::kStopping)) return;
  s_.first_step = true;
  if (const auto recovery = s_.history.FirstStep(now_)) {
    Emit(Tell{
        Recovered{event.generation, recovery->since_failure, event.step, recovery->lost_steps}});
  }
}

void Coordinator::On(const OperatorStop&) {
  ++s_.stops;
  switch (s_.phase) {
    case State::kIdle:
      s_.exit_code = kExitCancelled;
      s_.history.report().verdict = "stopped by the operator before anything was started";
      return Finish();
    case State::kOpening:
    case State::kDraining:
      return BeginEnding(kExitCancelled, "stopped by the operator while no generation was running",
                         true);
    case State::kPreparing:
    case State::kStarting:
    case State::kRunning:
      return StopRanks();
    case State::kStopping:
      if (s_.stops == 1) {  // a rank's or an agent's signal asked before
        return Notice(false, "the ranks save and stop already; once more to stop at once");
      }
      return BeginEnding(kExitCancelled, "stopped at once by the operator", true);
    case State::kEnding:
      if (s_.end_waits) return EndEverywhere(/*now=*/true);
      if (s_.stops >= 2) Finish();
      return;
    case State::kEnded:
      return;
  }
}

void Coordinator::On(const OperatorSignal& event) {
  if (config_.is_train) return;
  const std::string name = SignalName(event.signal);
  if (!RanksRun() && s_.phase != State::kStopping) {
    return Notice(false, absl::StrCat(name, " is not passed on: no rank is running"));
  }
  proto::CoordinatorMessage message;
  message.mutable_pass_signal()->set_signal(event.signal);
  SendToLive(message);
  Notice(false, absl::StrCat(name, " is passed on to ", Counted(width(), "rank")));
}

void Coordinator::TakeSuspectsAsStopped() {
  for (const auto& [rank, failure] : s_.suspects.TakeAll()) s_.stopped[rank] = failure.what;
  s_.cause_deadline.at = absl::InfiniteDuration();
}

void Coordinator::StopRanks() {
  if (s_.stop_waits && s_.stops == 1) return;  // a rank's or an agent's signal asked before
  if (s_.stop_waits) {
    return BeginEnding(kExitCancelled, "stopped at once by the operator", true);
  }
  if (!config_.is_train && s_.phase == State::kRunning) TakeSuspectsAsStopped();
  // With a rank in trouble the generation cannot finish a step together, but the next one can.
  const bool recovering = s_.phase == State::kPreparing || !s_.suspects.empty();
  if ((recovering || s_.phase == State::kStarting) && !HasMadeSteps()) {
    return BeginEnding(kExitCancelled,
                       config_.is_train
                           ? "stopped by the operator before the first step, so nothing was lost"
                           : "stopped by the operator while no generation was running",
                       true);
  }
  if (recovering) {
    Notice(false,
           "stopping after the recovery in progress and a checkpoint; once more to stop at once");
    s_.stop_waits = true;
    return;
  }
  Notice(false, config_.is_train ? "stopping after a checkpoint; once more to stop at once"
                                 : "stopping the ranks; once more to stop at once");
  StopAfterCheckpoint(/*joining=*/s_.phase == State::kStarting);
  if (!config_.is_train) EndIfStopped();
}

void Coordinator::EndIfStopped() {
  if (s_.exited.size() < AllRanks()) return;
  BeginEnding(kExitCancelled, absl::StrCat("stopped by the operator", StopWords(s_.stopped)),
              false);
}

void Coordinator::OnCauseDeadline() {
  s_.cause_deadline.at = absl::InfiniteDuration();
  if (s_.phase == State::kOpening) return EndLaunch();
  if (s_.suspects.empty()) return;
  if (s_.phase == State::kStopping) return FailWhileStopping(s_.suspects.by_rank().begin()->second);
  if (!RanksRun()) return;
  // Nobody named a cause: the reports are all there is. The rank that all wait for would not join
  // the next generation either, or as late as it is for this one: it is replaced.
  if (std::optional<Failure> missed = MissedRank()) {
    KillWorker(WorkerOf(s_.plan, *missed->rank), missed->what);
    return Fail(*std::move(missed));
  }
  RecordSuspects();
  Emit(Tell{Lost{s_.history.Cause()}});
  NextGeneration();
}

std::string Coordinator::StoppedTooLate() const {
  std::set<Rank> late;
  for (int i = 0; i < width(); ++i) {
    const Rank rank(i);
    if (!s_.finished.contains(rank) && !s_.exited.contains(rank)) late.insert(rank);
  }
  return absl::StrCat("stopped by the operator",
                      config_.is_train ? "; no checkpoint at the end, because " : "; ",
                      RankWords(late), " did not finish in time", StopWords(s_.stopped));
}

void Coordinator::OnPhaseDeadline() {
  s_.phase_deadline.at = absl::InfiniteDuration();
  switch (s_.phase) {
    case State::kIdle:
    case State::kRunning:
    case State::kEnded:
      return;
    case State::kOpening:
      for (const NodeId node : s_.members.WithState(Membership::NodeState::kUnopened)) {
        s_.members.Lose(node);
        Emit(FenceNode{node, "it did not answer"});
        Failure failure = NodeFailure(node, Failure::Kind::kNodeNotOpened,
                                      absl::StrCat("its agent did not answer for ",
                                                   absl::FormatDuration(config_.join_timeout)));
        failure.exit_code = kExitUnreachable;
        s_.history.report().launch_failures.push_back(std::move(failure));
      }
      return EndLaunch();
    case State::kPreparing: {
      std::vector<NodeId> late;
      for (const NodeId node : s_.members.Live()) {
        if (!s_.prepared.contains(node)) late.push_back(node);
      }
      if (late.empty()) return LookAgainForMemory();
      return LoseNodes(late,
                       absl::StrCat("did not acknowledge generation ", s_.generation.value()));
    }
    case State::kStarting:
      return LoseRanksThatDidNotJoin();
    case State::kDraining:
      if (s_.exited.size() < AllRanks() && HasUndrainedLiveNode()) {
        return BeginEnding(kExitFailed, "old ranks could not be stopped, so none was restarted",
                           true);
      }
      return Claim(FailureSentence(s_.history.Cause()));
    case State::kStopping:
      return BeginEnding(kExitCancelled, StoppedTooLate(), true);
    case State::kEnding:
      if (s_.end_waits) return EndEverywhere(/*now=*/true);
      for (const NodeId node : s_.members.Live()) {
        s_.members.Lose(node);
        Emit(FenceNode{node, "it did not end the job in time"});
      }
      return Finish();
  }
}

}  // namespace dsrun::launcher
