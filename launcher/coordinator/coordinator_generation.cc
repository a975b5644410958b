// From one generation to the next, and to the end of the job.

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  s_.generation = Generation(s_.generation.value() + 1);
  s_.prepared.clear();
  s_.memory_looks = 0;
  s_.drain_for_lease = false;
  s_.history.Claimed(s_.generation, std::move(reason), now_);
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
    const bool joined = s_.joined.contains(Rank(i)) || s_.survivors.contains(Rank(i));
    if (joined && !s_.exited.contains(Rank(i))) survivors.insert(WorkerOf(s_.plan, Rank(i)));
  }
  return survivors;
}

void Coordinator::Begin(const std::vector<PlannedNode>& nodes) {
  const std::set<WorkerId> survivors = Survivors();
  absl::StatusOr<proto::GenerationPlan> plan =
      PlanGeneration(s_.generation, nodes, config_.is_train ? config_.max_width : 0);
  if (!plan.ok()) return EndForPlaces(plan.status());
  s_.plan = *std::move(plan);
  groups_ = {};
  // Whoever finds less does not begin: what is committed is not given up because it cannot be read.
  s_.plan.set_floor_step(s_.newest_checkpoint.second);
  s_.plan.set_floor_manifest(s_.newest_manifest);
  s_.plan.set_master_port(s_.master_port);
  s_.survivors.clear();
  for (const WorkerId& worker : survivors) {
    if (const auto rank = RankOf(s_.plan, worker)) s_.survivors.insert(*rank);
  }
  s_.joined.clear();
  s_.finished.clear();
  s_.exited.clear();
  s_.suspects.TakeAll();
  s_.stopped_early = false;
  s_.stopped.clear();
  s_.progressed = false;
  s_.first_step = false;
  s_.heard_step = 0;
  s_.told_step = 0;
  s_.stacks_asked = false;
  s_.memory_told = false;
  s_.stacks.clear();
  s_.rendezvous.Reset(width());
  std::vector<WorkerId> ranks;
  for (int i = 0; i < width(); ++i) ranks.push_back(WorkerOf(s_.plan, Rank(i)));
  const std::string reason = s_.history.report().generations.back().reason;
  s_.history.Began(ranks, now_);
  Enter(State::kStarting, TimeToJoin());
  proto::CoordinatorMessage message;
  *message.mutable_begin()->mutable_plan() = s_.plan;
  SendToLive(std::move(message));
  const std::vector<WorkerId> planned = ranks;
  Emit(Tell{GenerationStarted{s_.generation, std::move(ranks), reason}});
  if (config_.is_train) SavesBegan(planned);
  if (s_.stop_waits) StopAfterCheckpoint(/*joining=*/true);
}

void Coordinator::EndForPlaces(const absl::Status& why) {
  const bool first = s_.plan.generation() == 0;
  std::string words =
      absl::StrCat(first ? "no rank was started, because " : "it cannot go on: ", why.message());
  if (first) return BeginEnding(kExitPreflight, std::move(words), true);
  if (s_.stop_waits) {
    return BeginEnding(
        kExitCancelled,
        absl::StrCat("stopped by the operator; no checkpoint at the end, because ", words), true);
  }
  absl::StrAppend(&words, "; after ", FailureSentence(s_.history.Cause()));
  BeginEnding(kExitNoNodesLeft, std::move(words), true);
}

void Coordinator::Fail(Failure failure) {
  Emit(Tell{Lost{failure}});
  s_.history.AddFailure(std::move(failure), Generation(s_.plan.generation()));
  NextGeneration();
}

// Several died together, and the new plan was faster than the news of all of them: this generation
// is none that failed. Each process has one such death, so this comes to an end by itself.
void Coordinator::FailAgain(Failure failure) {
  failure.generation = s_.history.report().incidents.back().failed;
  Emit(Tell{Lost{failure}});
  s_.history.Reopen();
  s_.history.AddLate(std::move(failure));
  RecordSuspects();
  s_.cause_deadline.at = absl::InfiniteDuration();
  Claim(FailureSentence(s_.history.Cause()));
}

// Nobody can finish a step together any more. The operator was promised a checkpoint: a generation
// that has made steps recovers first, and stops then.
void Coordinator::FailWhileStopping(Failure failure) {
  // It is no suspect any more: what stays among them is recorded beside it, as of this incident.
  if (failure.rank) s_.suspects.Erase(*failure.rank);
  if (HasMadeSteps() && s_.stops <= 1) {
    s_.stop_waits = true;
    return Fail(std::move(failure));
  }
  Emit(Tell{Lost{failure}});
  const std::string verdict = absl::StrCat(
      "stopped by the operator; no checkpoint at the end, because ", FailureSentence(failure));
  s_.history.AddFailure(std::move(failure), Generation(s_.plan.generation()));
  RecordSuspects();
  BeginEnding(kExitCancelled, verdict, true);
}

// What ranks reported belongs to the incident that they waited for.
void Coordinator::RecordSuspects() {
  for (auto& [rank, failure] : s_.suspects.TakeAll()) {
    s_.history.AddFailure(std::move(failure), Generation(s_.plan.generation()));
  }
}

void Coordinator::RecordNodeLost(NodeId node, const std::string& why, absl::Duration silent_for,
                                 bool needed) {
  s_.members.Lose(node);
  Emit(FenceNode{node, why});
  Perform(s_.saves.NodeLost(node));
  Failure failure = NodeFailure(node, Failure::Kind::kNodeLost, why);
  failure.exit_code = kExitFailed;
  failure.silent_for = silent_for;
  Emit(Tell{Lost{failure}});
  if (needed) s_.history.AddFailure(std::move(failure), Generation(s_.plan.generation()));
}

void Coordinator::LoseNodes(const std::vector<NodeId>& nodes, const std::string& why,
                            absl::Duration silent_for) {
  if (nodes.empty()) return;
  if (s_.phase == State::kEnding) {
    for (const NodeId node : nodes) {
      s_.members.Lose(node);
      Emit(FenceNode{node, why});
      Perform(s_.saves.NodeLost(node));
    }
    return EndIfAllGone();
  }
  if (s_.phase == State::kOpening) {
    for (const NodeId node : nodes) {
      s_.members.Lose(node);
      Emit(FenceNode{node, why});
      Failure failure = NodeFailure(node, Failure::Kind::kNodeNotOpened, why);
      failure.exit_code = kExitUnreachable;
      LaunchFailed(std::move(failure));
    }
    return;
  }
  // A node whose ranks have all finished, or that has none, is not needed any more.
  const bool ranks_run = RanksRun() || s_.phase == State::kStopping;
  const bool needed = !ranks_run || std::any_of(nodes.begin(), nodes.end(), [this](NodeId node) {
    return HasUnfinishedRank(node);
  });
  for (const NodeId node : nodes) RecordNodeLost(node, why, silent_for, needed);
  if (!needed) return;
  switch (s_.phase) {
    case State::kPreparing:
      // The claim is void, whoever acknowledged it. Losing a node costs no restart twice.
      if (s_.members.LiveCount() == 0) {
        return BeginEnding(kExitNoNodesLeft, "no node is left to go on with", true);
      }
      if (!config_.is_train) return NextGeneration();
      return Claim(FailureSentence(s_.history.Cause()));
    case State::kDraining:
      if (!s_.members.IsOpen(NodeId(0))) {
        return BeginEnding(kExitFailed, FailureSentence(s_.history.Cause()), true);
      }
      s_.drain_for_lease = true;
      return Enter(State::kDraining, config_.lease + config_.stop_grace + kSweepTime);
    case State::kStopping:
      if (HasMadeSteps() && s_.stops <= 1 && s_.members.LiveCount() > 0) {
        s_.stop_waits = true;
        return NextGeneration();
      }
      return BeginEnding(kExitCancelled,
                         absl::StrCat("stopped by the operator; no checkpoint at the end, because ",
                                      FailureSentence(s_.history.Cause())),
                         true);
    case State::kStarting:
    case State::kRunning:
      s_.drain_for_lease = true;
      return NextGeneration();
    case State::kIdle:
    case State::kOpening:
    case State::kEnding:
    case State::kEnded:
      return;
  }
}

void Coordinator::NextGeneration() {
  RecordSuspects();
  s_.cause_deadline.at = absl::InfiniteDuration();
  const std::string reason = FailureSentence(s_.history.Cause());
  if (s_.members.LiveCount() == 0) {
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
  if (s_.heard_step > s_.high_step) {
    Emit(Raise{ProgressMade{Generation(s_.plan.generation()), s_.heard_step}});
  }
  if (std::optional<std::string> why = CrashLoopReason(reason)) {
    return BeginEnding(kExitNoProgress, *std::move(why), true);
  }
  if (!MayRestart()) {
    return BeginEnding(kExitRestartsExhausted, absl::StrCat(RestartsUsedUp(), "; ", reason), true);
  }
  CountRestart();
  // Ranks that had learned of a signal to stop are gone, and it does not come again.
  if (s_.stopped_early) s_.stop_waits = true;
  Claim(reason);
}

std::optional<std::string> Coordinator::CrashLoopReason(const std::string& reason) {
  if (s_.progressed) s_.failed_without_progress = 0;
  if (s_.first_step) s_.ended_from_outside = 0;
  const int most = config_.max_restarts_without_progress;
  if (!s_.history.Cause().from_outside) {
    if (s_.progressed || ++s_.failed_without_progress < most || most <= 0) return std::nullopt;
    if (s_.failed_without_progress == 1) {
      return absl::StrCat("1 generation failed by itself without progress, because ", reason);
    }
    return absl::StrCat(s_.failed_without_progress,
                        " generations failed by themselves without progress in between; the last "
                        "ended because ",
                        reason);
  }
  if (s_.first_step || ++s_.ended_from_outside < std::max(most, kMostEndsFromOutside) ||
      most <= 0) {
    return std::nullopt;
  }
  return absl::StrCat(s_.ended_from_outside,
                      " generations were ended from outside before their first step; the last "
                      "because ",
                      reason);
}

void Coordinator::NextProgramGeneration(const std::string& reason) {
  const Failure& cause = s_.history.Cause();
  // MASTER_ADDR is the first node's: without it the ranks have no meeting point.
  const bool master_lost = !s_.members.IsOpen(NodeId(0));
  if (master_lost) return BeginEnding(cause.exit_code, reason, true);
  if (!MayRestart()) {
    return BeginEnding(
        cause.exit_code,
        config_.max_restarts == 0 ? reason : absl::StrCat(reason, "; ", RestartsUsedUp()), true);
  }
  CountRestart();
  // A program fences nothing: nobody may run twice, so all stop before any starts again.
  StopWorkers(/*checkpoint_first=*/false);
  const absl::Duration stop = config_.stop_grace + kSweepTime;
  Enter(State::kDraining, s_.drain_for_lease ? config_.lease + stop : stop);
  DrainIfDone();
}

// A job of a month on many nodes meets its share of failures: what ends it is that they come too
// often, or without progress.
bool Coordinator::MayRestart() {
  const auto is_over = [this](absl::Duration at) { return now_ - at >= config_.restart_window; };
  if (config_.restart_window > absl::ZeroDuration()) std::erase_if(s_.restarted_at, is_over);
  return static_cast<int64_t>(s_.restarted_at.size()) < config_.max_restarts;
}

void Coordinator::CountRestart() {
  ++s_.restarts;
  s_.restarted_at.push_back(now_);
}

std::string Coordinator::RestartsUsedUp() const {
  const bool forever = config_.restart_window <= absl::ZeroDuration();
  const std::string allowed = absl::StrCat(
      Counted(config_.max_restarts, "restart"),
      forever ? "" : absl::StrCat(" within ", absl::FormatDuration(config_.restart_window)),
      " allowed (--max-restarts", forever ? "" : ", --restart-window", ")");
  if (s_.restarted_at.empty()) return allowed;
  return absl::StrCat(allowed, " and used up in the last ",
                      absl::FormatDuration(now_ - s_.restarted_at.front()));
}

void Coordinator::DrainIfDone() {
  if (s_.drain_for_lease) return;  // until the deadline
  if (s_.exited.size() == AllRanks()) Claim(FailureSentence(s_.history.Cause()));
}

bool Coordinator::HasUndrainedLiveNode() const {
  for (int i = 0; i < width(); ++i) {
    if (!s_.exited.contains(Rank(i)) && s_.members.IsOpen(WorkerOf(s_.plan, Rank(i)).node))
      return true;
  }
  return false;
}

bool Coordinator::HasUnfinishedRank(NodeId node) const {
  // Its ranks stand side by side.
  const auto& members = s_.plan.members();
  const auto first = std::lower_bound(
      members.begin(), members.end(), node.value(),
      [](const proto::Member& member, int32_t wanted) { return member.node() < wanted; });
  for (auto it = first; it != members.end() && it->node() == node.value(); ++it) {
    if (!s_.finished.contains(Rank(static_cast<int32_t>(it - members.begin())))) return true;
  }
  return false;
}

void Coordinator::LaunchFailed(Failure failure) {
  s_.history.report().launch_failures.push_back(std::move(failure));
  // A little longer, so that one message names every node that cannot be had.
  SetCauseDeadline();
  if (s_.members.CountOf(Membership::NodeState::kUnopened) == 0) EndLaunch();
}

void Coordinator::EndLaunch() {
  const std::vector<Failure>& failures = s_.history.report().launch_failures;
  if (s_.phase != State::kOpening || failures.empty()) return;
  int exit_code = kExitPreflight;
  for (const Failure& failure : failures) {
    if (failure.exit_code != kExitPreflight) exit_code = failure.exit_code;
  }
  constexpr size_t kShown = 3;
  std::vector<std::string> shown;
  for (const Failure& failure : failures) {
    if (shown.size() < kShown) shown.push_back(FailureSentence(failure));
  }
  std::string verdict = absl::StrCat(failures.size(), " of ", Counted(s_.members.size(), "node"),
                                     " cannot be used: ", absl::StrJoin(shown, "; "));
  if (failures.size() > kShown) absl::StrAppend(&verdict, "; ", kShown, " shown");
  BeginEnding(exit_code, std::move(verdict), true);
}

void Coordinator::BeginEnding(int exit_code, std::string verdict, bool now) {
  s_.exit_code = exit_code;
  s_.history.report().verdict = std::move(verdict);
  s_.cause_deadline.at = absl::InfiniteDuration();
  Enter(State::kEnding, config_.stop_grace + kSweepTime);
  for (const NodeId node : s_.members.WithState(Membership::NodeState::kUnopened)) {
    s_.members.Lose(node);
    Emit(FenceNode{node, "the job ends"});
  }
  // Nobody trains any more, but what was trained may be on its way to the disk.
  if (now && s_.stops <= 1 && config_.is_train && s_.saves.MayCommit()) {
    s_.end_waits = true;
    return Notice(false,
                  absl::StrCat("the job ends; for ", absl::FormatDuration(config_.stop_grace),
                               " at most it waits for the checkpoint that is being written; "
                               "Ctrl-C ends it at once"));
  }
  EndEverywhere(now);
}

void Coordinator::EndEverywhere(bool now) {
  s_.end_waits = false;
  Enter(State::kEnding, config_.stop_grace + kSweepTime);
  if (now) StopWorkers(/*checkpoint_first=*/false);
  proto::CoordinatorMessage end;
  end.mutable_end_job();
  SendToLive(end);
  EndIfAllGone();
}

void Coordinator::EndIfAllGone() {
  if (s_.members.LiveCount() == 0) Finish();
}

void Coordinator::Finish() {
  s_.phase = State::kEnded;
  s_.phase_deadline.at = absl::InfiniteDuration();
  s_.cause_deadline.at = absl::InfiniteDuration();
  s_.ended = true;
  Emit(EndJob{s_.exit_code, CurrentReport(now_)});
}

void Coordinator::Enter(State state, absl::Duration deadline_after) {
  s_.phase = state;
  s_.phase_deadline.at = now_ + deadline_after;
  ++s_.phase_deadline.number;
}

void Coordinator::SetCauseDeadline() {
  if (s_.cause_deadline.is_set()) return;
  s_.cause_deadline.at = now_ + config_.cause_grace;
  ++s_.cause_deadline.number;
}

// As a member of the generation begun, also while the next one is being prepared.
void Coordinator::KillWorker(WorkerId worker, const std::string& reason) {
  proto::CoordinatorMessage kill;
  kill.mutable_kill_worker()->set_slot(worker.slot.value());
  kill.mutable_kill_worker()->set_reason(reason);
  SendTo(worker.node, Generation(s_.plan.generation()), Shared(std::move(kill)));
}

Coordinator::Body Coordinator::Shared(proto::CoordinatorMessage message) {
  return std::make_shared<const proto::CoordinatorMessage>(std::move(message));
}

void Coordinator::SendTo(NodeId node, Generation generation, Body body) {
  proto::CoordinatorMessage head;
  head.set_job_id(config_.job_id);
  head.set_incarnation(s_.members.incarnation(node).value());
  head.set_generation(generation.value());
  Emit(SendToAgent{node, std::move(head), std::move(body)});
}

void Coordinator::SendTo(NodeId node, proto::CoordinatorMessage message) {
  SendTo(node, s_.generation, Shared(std::move(message)));
}

void Coordinator::SendToLive(proto::CoordinatorMessage message) {
  const Body body = Shared(std::move(message));
  for (const NodeId node : s_.members.Live()) SendTo(node, s_.generation, body);
}

void Coordinator::StopWorkers(bool checkpoint_first) {
  proto::CoordinatorMessage message;
  message.mutable_stop_workers()->set_checkpoint_first(checkpoint_first);
  SendToLive(message);
}

void Coordinator::StopAfterCheckpoint(bool joining) {
  s_.stop_waits = false;
  StopWorkers(/*checkpoint_first=*/true);
  Enter(State::kStopping, TimeToStop(joining));
}

absl::Duration Coordinator::TimeToJoin() const {
  return AllConnected() ? config_.join_timeout + config_.loading_timeout : config_.join_timeout;
}

// A slow disk is no reason to give up a checkpoint that the operator was promised: once more, and
// the job ends at once.
absl::Duration Coordinator::TimeToStop(bool joining) const {
  absl::Duration time = config_.stop_grace + config_.collective_timeout;
  if (joining) time += TimeToJoin();
  if (config_.is_train && (!joining || AllConnected())) time += config_.saving_timeout;
  return time;
}

void Coordinator::Notice(bool warning, std::string text) {
  Emit(Tell{NoticeText{warning, std::move(text), std::nullopt, std::nullopt}});
}

Failure Coordinator::NodeFailure(NodeId node, Failure::Kind kind, std::string what) const {
  Failure failure;
  failure.kind = kind;
  failure.node = node;
  failure.host = HostOf(node);
  failure.generation = s_.generation;
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
