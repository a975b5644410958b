// What the ranks of the generation begun do. See coordinator.h for which messages count.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_planner.h"
#include "launcher/coordinator/root_cause.h"

namespace dsrun::launcher {
namespace {

// For asking ranks what they are doing, and for the answers.
constexpr absl::Duration kStackTime = absl::Seconds(1);
// Kept of one rank; two threads say less.
constexpr size_t kMostStackLines = 100;

}  // namespace

void Coordinator::OnWorkerStarted(WorkerId worker, Generation generation) {
  // A dsworker that has started has not joined; it will say so itself.
  if (config_.is_train || generation.value() != plan_.generation()) return;
  const auto rank = RankOf(plan_, worker);
  if (rank && state_ == State::kStarting) RankJoined(*rank);
}

void Coordinator::OnWorkerExited(WorkerId worker, Generation generation,
                                 const proto::WorkerExited& exited) {
  if (generation.value() != plan_.generation()) return OnOldExit(worker, generation, exited);
  const auto rank = RankOf(plan_, worker);
  if (!rank || !exited_.insert(*rank).second) return;
  Failure failure = ExitOf(worker, rank, generation, exited);
  if (const auto stack = stacks_.find(*rank); stack != stacks_.end()) failure.stack = stack->second;
  if (config_.is_train) {
    OnTrainRankExited(*rank, exited, std::move(failure));
  } else {
    OnProgramRankExited(*rank, exited, std::move(failure));
  }
}

Failure Coordinator::ExitOf(WorkerId worker, std::optional<Rank> rank, Generation generation,
                            const proto::WorkerExited& exited) const {
  Failure failure = FailureFromExit(exited);
  failure.node = worker.node;
  failure.host = HostOf(worker.node);
  failure.rank = rank;
  failure.generation = generation;
  failure.noticed_at = now_;
  return failure;
}

// The news and Begin have crossed; its agent has started another process for this generation.
void Coordinator::OnOldExit(WorkerId worker, Generation generation,
                            const proto::WorkerExited& exited) {
  if (!config_.is_train || state_ != State::kStarting || !history_.HasIncident()) return;
  // The incident goes on until a generation makes steps; each of its restarts may be crossed.
  if (generation < history_.report().incidents.back().failed) return;
  const auto rank = RankOf(plan_, worker);
  if (!rank || survivors_.erase(*rank) == 0) return;
  Failure failure = ExitOf(worker, rank, generation, exited);
  if (failure.exit_code != 0 && !failure.killed_by_agent) history_.AddLate(std::move(failure));
}

void Coordinator::OnTrainRankExited(Rank rank, const proto::WorkerExited& exited, Failure failure) {
  if (finished_.contains(rank)) {
    if (failure.exit_code != 0 && !failure.killed_by_agent) {
      Notice(true, absl::StrCat("after it had finished, ", FailureSentence(failure)));
    }
    return;
  }
  const bool clean = failure.exit_code == 0 && !failure.killed_by_agent;
  if (clean && (RanksRun() || state_ == State::kStopping)) {
    // Its Finished may still be on the way: it took another road to the agent.
    failure.what = "exited with code 0 before it had finished";
    suspects_.insert_or_assign(rank, std::move(failure));
    return SetCauseDeadline();
  }
  switch (state_) {
    case State::kStarting:
    case State::kRunning:
      suspects_.erase(rank);
      if (survivors_.contains(rank) && !joined_.contains(rank) && history_.HasIncident()) {
        return FailAgain(std::move(failure));
      }
      return Fail(std::move(failure));
    case State::kPreparing:
      if (history_.Collecting()) history_.AddFailure(std::move(failure), generation_);
      return;
    case State::kStopping:
      return FailWhileStopping(std::move(failure));
    case State::kIdle:
    case State::kOpening:
    case State::kDraining:
    case State::kEnding:
    case State::kEnded:
      return;
  }
}

void Coordinator::OnProgramRankExited(Rank rank, const proto::WorkerExited& exited,
                                      Failure failure) {
  switch (state_) {
    case State::kStarting:
    case State::kRunning:
      if (failure.exit_code != 0 || failure.killed_by_agent) return Fail(std::move(failure));
      return RankFinished(rank);
    case State::kDraining:
      history_.AddFailure(std::move(failure), generation_);
      return DrainIfDone();
    case State::kStopping:
      if (exited_.size() == AllRanks()) {
        BeginEnding(kExitCancelled, "stopped by the operator", false);
      }
      return;
    case State::kEnding:
      if (failure.exit_code != 0 && !failure.killed_by_agent) AddLateFailure(std::move(failure));
      return;
    case State::kIdle:
    case State::kOpening:
    case State::kPreparing:
    case State::kEnded:
      return;
  }
}

// What ended the job may have been heard of after what it caused.
void Coordinator::AddLateFailure(Failure failure) {
  if (!history_.Collecting()) return;
  Report& report = history_.report();
  const bool was_the_reason = report.verdict == FailureSentence(history_.Cause());
  history_.AddFailure(std::move(failure), Generation(plan_.generation()));
  if (!was_the_reason) return;
  report.verdict = FailureSentence(history_.Cause());
  exit_code_ = history_.Cause().exit_code;
}

void Coordinator::OnReport(WorkerId worker, const proto::WorkerMessage& message) {
  const Generation generation(message.generation());
  const auto rank = RankOf(plan_, worker);
  if (message.has_notice()) return OnNotice(worker, rank, message.notice());
  if (!config_.is_train) return;  // Programs have no voice but their exit.
  if (message.has_checkpoint_committed() && generation <= generation_) {
    return OnCheckpoint(generation, message.checkpoint_committed());
  }
  if (generation.value() != plan_.generation() || !rank) return;
  if (!RanksRun() && state_ != State::kStopping) return;
  switch (message.body_case()) {
    case proto::WorkerMessage::kExchangePut:
      return OnExchangePut(*rank, message.exchange_put());
    case proto::WorkerMessage::kJoined:
      return OnJoined(*rank, message.joined());
    case proto::WorkerMessage::kStepDone:
      return OnStepDone(*rank, message.step_done());
    case proto::WorkerMessage::kFailed:
      return OnFailed(*rank, message.failed());
    case proto::WorkerMessage::kFinished:
      return OnFinished(*rank, message.finished());
    case proto::WorkerMessage::kStacks:
      return OnStacks(*rank, message.stacks());
    case proto::WorkerMessage::kCheckpointCommitted:  // handled above
    case proto::WorkerMessage::kNotice:               // handled above
    case proto::WorkerMessage::kHello:                // the agent's
    case proto::WorkerMessage::kBeat:                 // the agent's
    case proto::WorkerMessage::BODY_NOT_SET:
      return;
  }
}

void Coordinator::OnExchangePut(Rank rank, const proto::ExchangePut& put) {
  // The rank is the place's, not what the message claims: a rank can only put its own value.
  if (put.rank() != rank.value()) return;
  auto table = rendezvous_.Put(rank, put.name(), put.value());
  if (!table) return;
  proto::CoordinatorMessage message;
  *message.mutable_exchange_table() = *std::move(table);
  NodeId last(-1);
  for (const proto::Member& member : plan_.members()) {  // sorted by node
    if (NodeId(member.node()) == last) continue;
    last = NodeId(member.node());
    if (members_.IsOpen(last)) SendTo(last, message);
  }
}

void Coordinator::OnJoined(Rank rank, const proto::Joined& joined) {
  history_.Joined(joined.start_step(), joined.loaded_from());
  if (state_ == State::kStarting) RankJoined(rank);
}

void Coordinator::RankJoined(Rank rank) {
  joined_.insert(rank);
  if (joined_.size() < AllRanks()) return;
  history_.AllJoined(now_);
  state_ = State::kRunning;
  phase_deadline_.at = absl::InfiniteDuration();
  const GenerationRecord& record = history_.report().generations.back();
  Emit(Tell{
      GenerationRunning{Generation(plan_.generation()), record.start_step, record.loaded_from}});
}

void Coordinator::OnStepDone(Rank rank, const proto::StepDone& done) {
  const Generation generation(plan_.generation());
  heard_step_ = std::max(heard_step_, done.step());
  history_.StepFinished(done.step());
  if (!first_step_ || (!progressed_ && done.step() > high_step_)) {
    Emit(Raise{ProgressMade{generation, done.step()}});
  }
  if (rank.value() != 0 || done.step() <= told_step_) return;
  told_step_ = done.step();
  Emit(Tell{Progress{generation, done}});
}

void Coordinator::OnCheckpoint(Generation generation,
                               const proto::CheckpointCommitted& checkpoint) {
  const std::pair<int64_t, int64_t> found(generation.value(), checkpoint.step());
  if (found <= newest_checkpoint_) return;
  if (checkpoint.step() > newest_checkpoint_.second && generation.value() == plan_.generation()) {
    progressed_ = true;
  }
  newest_checkpoint_ = found;
  history_.report().manifest = checkpoint.manifest();
  history_.report().checkpoint_step = checkpoint.step();
  Emit(Tell{
      CheckpointDone{generation, checkpoint.step(), checkpoint.manifest(), checkpoint.seconds()}});
}

void Coordinator::OnFailed(Rank rank, const proto::Failed& failed) {
  if (finished_.contains(rank) || exited_.contains(rank)) return;
  Failure failure = FailureFromReport(failed);
  const WorkerId worker = WorkerOf(plan_, rank);
  failure.node = worker.node;
  failure.host = HostOf(worker.node);
  failure.slot = worker.slot;
  failure.rank = rank;
  failure.generation = Generation(plan_.generation());
  failure.noticed_at = now_;
  if (failed.fatal()) {
    const std::string verdict = FailureSentence(failure);
    Emit(Tell{Lost{failure}});
    history_.AddFailure(std::move(failure), generation_);
    return BeginEnding(kExitFailed, verdict, true);
  }
  if (state_ == State::kStopping) {
    return FailWhileStopping(std::move(failure));
  }
  const bool first_timeout = failure.timed_out && RanksRun() && !AnyTimedOut();
  suspects_.try_emplace(rank, std::move(failure));
  SetCauseDeadline();
  if (!first_timeout) return;
  // Somebody does not answer, and may not be able to: everybody is asked what they are doing, and
  // gets the time to say it.
  cause_deadline_.at = now_ + std::max(config_.cause_grace, kStackTime);
  ++cause_deadline_.number;
  TakeStacks();
}

bool Coordinator::AnyTimedOut() const {
  return std::any_of(suspects_.begin(), suspects_.end(),
                     [](const auto& suspect) { return suspect.second.timed_out; });
}

void Coordinator::TakeStacks() {
  if (stacks_asked_) return;
  stacks_asked_ = true;
  proto::CoordinatorMessage message;
  message.mutable_take_stacks();
  SendToLive(message);
}

// An agent asks by itself a rank that makes no progress: then the others are asked, too.
void Coordinator::OnStacks(Rank rank, const proto::Stacks& stacks) {
  std::vector<std::string>& stack = stacks_[rank];
  stack.clear();
  if (!stacks.state().empty()) stack.push_back(stacks.state());
  for (const std::string& line : stacks.lines()) {
    if (stack.size() < kMostStackLines) stack.push_back(line);
  }
  if (RanksRun()) TakeStacks();
}

std::optional<Failure> Coordinator::MissedRank() const {
  const std::optional<Rank> odd = AwaitedRank(suspects_);
  if (!odd || odd->value() >= width() || finished_.contains(*odd) || exited_.contains(*odd)) {
    return std::nullopt;
  }
  const WorkerId worker = WorkerOf(plan_, *odd);
  if (!members_.IsOpen(worker.node)) return std::nullopt;
  Failure failure = NodeFailure(worker.node, Failure::Kind::kWorkerMissed, "");
  failure.slot = worker.slot;
  failure.rank = odd;
  const auto stack = stacks_.find(*odd);
  if (stack != stacks_.end()) failure.stack = stack->second;
  const std::string doing = failure.stack.empty()       ? ", and does not say what it is doing"
                            : failure.stack.size() == 1 ? ": it is " + failure.stack.front()
                                                        : ": it is alive, its stack says where";
  for (const auto& [rank, report] : suspects_) {
    if (!report.timed_out) continue;
    failure.what =
        absl::StrCat("kept the others waiting", doing, "; rank ", rank.value(), " ", report.what);
    break;
  }
  return failure;
}

void Coordinator::OnFinished(Rank rank, const proto::Finished& finished) {
  suspects_.erase(rank);
  stopped_early_ |= finished.stopped_early();
  if (rank.value() == 0) {
    Report& report = history_.report();
    report.final_step = finished.step();
    report.final_loss = finished.loss();
    report.stopped_early = finished.stopped_early();
    if (!finished.manifest().empty()) report.manifest = finished.manifest();
    report.sample = finished.sample();
  }
  RankFinished(rank);
  // What looked like a failure was none: the stop that waited for its recovery waits no more.
  if (stop_waits_ && RanksRun() && suspects_.empty()) {
    StopAfterCheckpoint(/*joining=*/state_ == State::kStarting);
  }
}

void Coordinator::RankFinished(Rank rank) {
  if (state_ == State::kStarting) RankJoined(rank);
  finished_.insert(rank);
  if (!AllRanksFinished()) return;
  // A generation may have had no step left to do: the end is then what it went on to.
  if (!first_step_) history_.FirstStep(now_);
  const Report& report = history_.report();
  if (!report.sample.empty()) Emit(Tell{Sample{report.sample}});
  if (state_ == State::kStopping && !config_.is_train) {
    return BeginEnding(kExitCancelled, "stopped by the operator", false);
  }
  if (stopped_early_) {
    return BeginEnding(
        kExitCancelled,
        absl::StrCat("stopped by the operator after step ", report.final_step,
                     report.manifest.empty() ? "" : ", checkpoint ", report.manifest),
        false);
  }
  BeginEnding(kExitOk, "all ranks finished", false);
}

void Coordinator::OnNotice(WorkerId worker, std::optional<Rank> rank, const proto::Notice& notice) {
  Emit(Tell{NoticeText{notice.warning(), notice.text(), worker, rank}});
}

}  // namespace dsrun::launcher
