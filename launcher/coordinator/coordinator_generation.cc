// From one generation to the next, and to the end of the job.

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_planner.h"
#include "launcher/coordinator/root_cause.h"

namespace dsrun::launcher {
namespace {

// What an agent gets for stopping and sweeping, on top of the ranks' grace.
constexpr absl::Duration kSweepTime = absl::Seconds(5);

}  // namespace

void Coordinator::Claim(std::string reason) {
  generation_ = Generation(generation_.value() + 1);
  prepared_.clear();
  drain_for_lease_ = false;
  history_.Claimed(generation_, std::move(reason), now_);
  // Twice the silence limit: an agent that beats but does not answer is as lost as a silent one.
  Enter(State::kPreparing, 2 * config_.node_silent_after);
  proto::CoordinatorMessage message;
  message.mutable_prepare();
  SendToLive(message);
}

std::set<WorkerId> Coordinator::Survivors() const {
  std::set<WorkerId> survivors;
  if (!config_.is_train) return survivors;
  for (int i = 0; i < width(); ++i) {
    const bool joined = joined_.contains(Rank(i)) || survivors_.contains(Rank(i));
    if (joined && !exited_.contains(Rank(i))) survivors.insert(WorkerOf(plan_, Rank(i)));
  }
  return survivors;
}

void Coordinator::Begin() {
  std::vector<PlannedNode> nodes;
  for (const NodeId id : members_.Live()) {
    const CoordinatorConfig::Node& node = config_.nodes[static_cast<size_t>(id.value())];
    nodes.push_back({id, node.host, node.slots});
  }
  const std::set<WorkerId> survivors = Survivors();
  plan_ = PlanGeneration(generation_, nodes, config_.is_train ? config_.canonical_blocks : 0);
  survivors_.clear();
  for (const WorkerId& worker : survivors) {
    if (const auto rank = RankOf(plan_, worker)) survivors_.insert(*rank);
  }
  joined_.clear();
  finished_.clear();
  exited_.clear();
  suspects_.clear();
  stopped_early_ = false;
  progressed_ = false;
  first_step_ = false;
  heard_step_ = 0;
  told_step_ = 0;
  stacks_asked_ = false;
  stacks_.clear();
  rendezvous_.Reset(width());
  std::vector<WorkerId> ranks;
  for (int i = 0; i < width(); ++i) ranks.push_back(WorkerOf(plan_, Rank(i)));
  const std::string reason = history_.report().generations.back().reason;
  history_.Began(ranks, now_);
  Enter(State::kStarting, config_.join_timeout);
  proto::CoordinatorMessage message;
  *message.mutable_begin()->mutable_plan() = plan_;
  SendToLive(message);
  Emit(Tell{GenerationStarted{generation_, std::move(ranks), reason}});
  if (stop_waits_) StopAfterCheckpoint(/*joining=*/true);
}

void Coordinator::Fail(Failure failure) {
  Emit(Tell{Lost{failure}});
  history_.AddFailure(std::move(failure), Generation(plan_.generation()));
  NextGeneration();
}

// Several died together, and the new plan was faster than the news of all of them: this generation
// is none that failed. Each process has one such death, so this comes to an end by itself.
void Coordinator::FailAgain(Failure failure) {
  failure.generation = history_.report().incidents.back().failed;
  Emit(Tell{Lost{failure}});
  history_.Reopen();
  history_.AddLate(std::move(failure));
  for (auto& [rank, suspect] : std::exchange(suspects_, {})) {
    history_.AddFailure(std::move(suspect), Generation(plan_.generation()));
  }
  cause_deadline_.at = absl::InfiniteDuration();
  Claim(FailureSentence(history_.Cause()));
}

// Nobody can finish a step together any more. The operator was promised a checkpoint: a generation
// that has made steps recovers first, and stops then.
void Coordinator::FailWhileStopping(Failure failure) {
  if (HasMadeSteps() && stops_ == 1) {
    stop_waits_ = true;
    return Fail(std::move(failure));
  }
  Emit(Tell{Lost{failure}});
  const std::string verdict = absl::StrCat(
      "stopped by the operator; no checkpoint at the end, because ", FailureSentence(failure));
  history_.AddFailure(std::move(failure), Generation(plan_.generation()));
  BeginEnding(kExitCancelled, verdict, true);
}

void Coordinator::RecordNodeLost(NodeId node, const std::string& why, absl::Duration silent_for,
                                 bool needed) {
  members_.Lose(node);
  Emit(FenceNode{node, why});
  Failure failure = NodeFailure(node, Failure::Kind::kNodeLost, why);
  failure.exit_code = kExitFailed;
  failure.silent_for = silent_for;
  Emit(Tell{Lost{failure}});
  if (needed) history_.AddFailure(std::move(failure), Generation(plan_.generation()));
}

void Coordinator::LoseNodes(const std::vector<NodeId>& nodes, const std::string& why,
                            absl::Duration silent_for) {
  if (nodes.empty()) return;
  if (state_ == State::kEnding) {
    for (const NodeId node : nodes) {
      members_.Lose(node);
      Emit(FenceNode{node, why});
    }
    return EndIfAllGone();
  }
  if (state_ == State::kOpening) {
    for (const NodeId node : nodes) {
      members_.Lose(node);
      Emit(FenceNode{node, why});
      Failure failure = NodeFailure(node, Failure::Kind::kNodeNotOpened, why);
      failure.exit_code = kExitUnreachable;
      LaunchFailed(std::move(failure));
    }
    return;
  }
  // A node whose ranks have all finished, or that has none, is not needed any more.
  const bool ranks_run = RanksRun() || state_ == State::kStopping;
  const bool needed = !ranks_run || std::any_of(nodes.begin(), nodes.end(), [this](NodeId node) {
    return HasUnfinishedRank(node);
  });
  for (const NodeId node : nodes) RecordNodeLost(node, why, silent_for, needed);
  if (!needed) return;
  switch (state_) {
    case State::kPreparing:
      // The claim is void, whoever acknowledged it. Losing a node costs no restart twice.
      if (members_.Live().empty()) {
        return BeginEnding(kExitNoNodesLeft, "no node is left to go on with", true);
      }
      if (!config_.is_train) return NextGeneration();
      return Claim(FailureSentence(history_.Cause()));
    case State::kDraining:
      if (!members_.IsOpen(NodeId(0))) {
        return BeginEnding(kExitFailed, FailureSentence(history_.Cause()), true);
      }
      drain_for_lease_ = true;
      return Enter(State::kDraining, config_.lease + config_.stop_grace + kSweepTime);
    case State::kStopping:
      if (HasMadeSteps() && stops_ == 1 && !members_.Live().empty()) {
        stop_waits_ = true;
        return NextGeneration();
      }
      return BeginEnding(kExitCancelled,
                         absl::StrCat("stopped by the operator; no checkpoint at the end, because ",
                                      FailureSentence(history_.Cause())),
                         true);
    case State::kStarting:
    case State::kRunning:
      drain_for_lease_ = true;
      return NextGeneration();
    case State::kIdle:
    case State::kOpening:
    case State::kEnding:
    case State::kEnded:
      return;
  }
}

void Coordinator::NextGeneration() {
  // What the survivors reported belongs to the same incident.
  for (auto& [rank, failure] : std::exchange(suspects_, {})) {
    history_.AddFailure(std::move(failure), Generation(plan_.generation()));
  }
  cause_deadline_.at = absl::InfiniteDuration();
  const std::string reason = FailureSentence(history_.Cause());
  if (members_.Live().empty()) {
    return BeginEnding(kExitNoNodesLeft, absl::StrCat("no node is left to go on with; ", reason),
                       true);
  }
  if (config_.is_train) {
    NextTrainGeneration(reason);
  } else {
    NextProgramGeneration(reason);
  }
}

void Coordinator::NextTrainGeneration(const std::string& reason) {
  // The next generation must get beyond this step to have made progress; a replay has to know it.
  if (heard_step_ > high_step_) {
    Emit(Raise{ProgressMade{Generation(plan_.generation()), heard_step_}});
  }
  if (std::optional<std::string> why = CrashLoopReason(reason)) {
    return BeginEnding(kExitNoProgress, *std::move(why), true);
  }
  if (restarts_ >= config_.max_restarts) {
    return BeginEnding(
        kExitRestartsExhausted,
        absl::StrCat(Counted(config_.max_restarts, "restart"), " allowed and used up; ", reason),
        true);
  }
  ++restarts_;
  Claim(reason);
}

std::optional<std::string> Coordinator::CrashLoopReason(const std::string& reason) {
  if (progressed_) failed_without_progress_ = 0;
  if (first_step_) ended_from_outside_ = 0;
  const int most = config_.max_restarts_without_progress;
  if (!history_.Cause().from_outside) {
    if (progressed_ || ++failed_without_progress_ < most || most <= 0) return std::nullopt;
    if (failed_without_progress_ == 1) {
      return absl::StrCat("1 generation failed by itself without progress, because ", reason);
    }
    return absl::StrCat(failed_without_progress_,
                        " generations failed by themselves without progress in between; the last "
                        "ended because ",
                        reason);
  }
  if (first_step_ || ++ended_from_outside_ < std::max(most, kMostEndsFromOutside) || most <= 0) {
    return std::nullopt;
  }
  return absl::StrCat(ended_from_outside_,
                      " generations were ended from outside before their first step; the last "
                      "because ",
                      reason);
}

void Coordinator::NextProgramGeneration(const std::string& reason) {
  const Failure& cause = history_.Cause();
  // MASTER_ADDR is the first node's: without it the ranks have no meeting point.
  const bool master_lost = !members_.IsOpen(NodeId(0));
  if (restarts_ >= config_.max_restarts || master_lost) {
    return BeginEnding(cause.exit_code, reason, true);
  }
  ++restarts_;
  // A program fences nothing: nobody may run twice, so all stop before any starts again.
  StopWorkers(/*checkpoint_first=*/false);
  const absl::Duration stop = config_.stop_grace + kSweepTime;
  Enter(State::kDraining, drain_for_lease_ ? config_.lease + stop : stop);
  DrainIfDone();
}

void Coordinator::DrainIfDone() {
  if (drain_for_lease_) return;  // until the deadline
  if (exited_.size() == AllRanks()) Claim(FailureSentence(history_.Cause()));
}

bool Coordinator::HasUndrainedLiveNode() const {
  for (int i = 0; i < width(); ++i) {
    if (!exited_.contains(Rank(i)) && members_.IsOpen(WorkerOf(plan_, Rank(i)).node)) return true;
  }
  return false;
}

bool Coordinator::HasUnfinishedRank(NodeId node) const {
  for (int i = 0; i < width(); ++i) {
    if (NodeId(plan_.members(i).node()) == node && !finished_.contains(Rank(i))) return true;
  }
  return false;
}

void Coordinator::LaunchFailed(Failure failure) {
  history_.report().launch_failures.push_back(std::move(failure));
  // A little longer, so that one message names every node that cannot be had.
  SetCauseDeadline();
  if (members_.WithState(Membership::NodeState::kUnopened).empty()) EndLaunch();
}

void Coordinator::EndLaunch() {
  const std::vector<Failure>& failures = history_.report().launch_failures;
  if (state_ != State::kOpening || failures.empty()) return;
  int exit_code = kExitPreflight;
  for (const Failure& failure : failures) {
    if (failure.exit_code != kExitPreflight) exit_code = failure.exit_code;
  }
  constexpr size_t kShown = 3;
  std::vector<std::string> shown;
  for (const Failure& failure : failures) {
    if (shown.size() < kShown) shown.push_back(FailureSentence(failure));
  }
  std::string verdict = absl::StrCat(failures.size(), " of ", Counted(members_.size(), "node"),
                                     " cannot be used: ", absl::StrJoin(shown, "; "));
  if (failures.size() > kShown) absl::StrAppend(&verdict, "; ", kShown, " shown");
  BeginEnding(exit_code, std::move(verdict), true);
}

void Coordinator::BeginEnding(int exit_code, std::string verdict, bool now) {
  exit_code_ = exit_code;
  history_.report().verdict = std::move(verdict);
  cause_deadline_.at = absl::InfiniteDuration();
  Enter(State::kEnding, config_.stop_grace + kSweepTime);
  for (const NodeId node : members_.WithState(Membership::NodeState::kUnopened)) {
    members_.Lose(node);
    Emit(FenceNode{node, "the job ends"});
  }
  if (now) StopWorkers(/*checkpoint_first=*/false);
  proto::CoordinatorMessage end;
  end.mutable_end_job();
  SendToLive(end);
  EndIfAllGone();
}

void Coordinator::EndIfAllGone() {
  if (members_.Live().empty()) Finish();
}

void Coordinator::Finish() {
  state_ = State::kEnded;
  phase_deadline_.at = absl::InfiniteDuration();
  cause_deadline_.at = absl::InfiniteDuration();
  ended_ = true;
  Emit(EndJob{exit_code_, CurrentReport(now_)});
}

void Coordinator::Enter(State state, absl::Duration deadline_after) {
  state_ = state;
  phase_deadline_.at = now_ + deadline_after;
  ++phase_deadline_.number;
}

void Coordinator::SetCauseDeadline() {
  if (cause_deadline_.is_set()) return;
  cause_deadline_.at = now_ + config_.cause_grace;
  ++cause_deadline_.number;
}

void Coordinator::KillWorker(WorkerId worker, const std::string& reason) {
  proto::CoordinatorMessage kill;
  kill.mutable_kill_worker()->set_slot(worker.slot.value());
  kill.mutable_kill_worker()->set_reason(reason);
  SendTo(worker.node, std::move(kill));
}

void Coordinator::SendTo(NodeId node, proto::CoordinatorMessage message) {
  message.set_job_id(config_.job_id);
  message.set_incarnation(members_.incarnation(node).value());
  message.set_generation(generation_.value());
  Emit(SendToAgent{node, std::move(message)});
}

void Coordinator::SendToLive(const proto::CoordinatorMessage& message) {
  for (const NodeId node : members_.Live()) SendTo(node, message);
}

void Coordinator::StopWorkers(bool checkpoint_first) {
  proto::CoordinatorMessage message;
  message.mutable_stop_workers()->set_checkpoint_first(checkpoint_first);
  SendToLive(message);
}

void Coordinator::StopAfterCheckpoint(bool joining) {
  stop_waits_ = false;
  StopWorkers(/*checkpoint_first=*/true);
  const absl::Duration stop = config_.stop_grace + config_.collective_timeout;
  Enter(State::kStopping, joining ? config_.join_timeout + stop : stop);
}

void Coordinator::Notice(bool warning, std::string text) {
  Emit(Tell{NoticeText{warning, std::move(text), std::nullopt, std::nullopt}});
}

Failure Coordinator::NodeFailure(NodeId node, Failure::Kind kind, std::string what) const {
  Failure failure;
  failure.kind = kind;
  failure.node = node;
  failure.host = HostOf(node);
  failure.generation = generation_;
  failure.from_outside = kind == Failure::Kind::kNodeLost;
  failure.what = std::move(what);
  failure.exit_code = kExitFailed;
  failure.noticed_at = now_;
  return failure;
}

std::string Coordinator::HostOf(NodeId node) const {
  return config_.nodes[static_cast<size_t>(node.value())].host;
}

}  // namespace dsrun::launcher
