// What the ranks of the generation begun do. See coordinator.h for which messages count.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/operation_class.h"
#include "common/format/save_outcome.h"
#include "common/topology/plan_places.h"
#include "common/topology/process_group.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_memory.h"
#include "launcher/coordinator/generation_planner.h"
#include "launcher/coordinator/root_cause.h"
#include "launcher/coordinator/stop_words.h"

namespace dsrun::launcher {
namespace {

// For asking ranks what they are doing, and for the answers.
constexpr absl::Duration kStackTime = absl::Seconds(1);
// Kept of one rank; two threads say less.
constexpr size_t kMostStackLines = 100;

}  // namespace

void Coordinator::OnWorkerStarted(WorkerId worker, Generation generation) {
  // A dsworker that has started has not joined; it will say so itself.
  if (config_.is_train || generation.value() != s_.plan.generation()) return;
  const auto rank = RankOf(s_.plan, worker);
  if (rank && s_.phase == State::kStarting) RankJoined(*rank);
}

void Coordinator::OnWorkerExited(WorkerId worker, Generation generation,
                                 const proto::WorkerExited& exited) {
  if (config_.is_train) Perform(s_.saves.ProcessEnded(worker, generation));
  if (generation.value() != s_.plan.generation()) return OnOldExit(worker, generation, exited);
  const auto rank = RankOf(s_.plan, worker);
  if (!rank || !s_.exited.insert(*rank).second) return;
  Failure failure = ExitOf(worker, rank, generation, exited);
  if (const auto stack = s_.stacks.find(*rank); stack != s_.stacks.end())
    failure.stack = stack->second;
  if (config_.is_train) {
    OnTrainRankExited(*rank, exited, std::move(failure));
  } else {
    OnProgramRankExited(*rank, exited, std::move(failure));
  }
}

Failure Coordinator::ExitOf(WorkerId worker, std::optional<Rank> rank, Generation generation,
                            const proto::WorkerExited& exited) {
  Failure failure = FailureFromExit(exited);
  failure.node = worker.node;
  failure.host = HostOf(worker.node);
  failure.rank = rank;
  failure.generation = generation;
  failure.noticed_at = now_;
  if (SaysOutOfMemory(exited)) AddMemoryWords(rank, failure.what);
  return failure;
}

// The news and Begin have crossed; its agent has started another process for this generation.
void Coordinator::OnOldExit(WorkerId worker, Generation generation,
                            const proto::WorkerExited& exited) {
  if (!config_.is_train || s_.phase != State::kStarting || !s_.history.HasIncident()) return;
  // The incident goes on until a generation makes steps; each of its restarts may be crossed.
  if (generation < s_.history.report().incidents.back().failed) return;
  const auto rank = RankOf(s_.plan, worker);
  if (!rank || s_.survivors.erase(*rank) == 0) return;
  Failure failure = ExitOf(worker, rank, generation, exited);
  if (failure.exit_code != 0 && !failure.killed_by_agent) s_.history.AddLate(std::move(failure));
}

void Coordinator::OnTrainRankExited(Rank rank, const proto::WorkerExited& exited, Failure failure) {
  if (s_.finished.contains(rank)) {
    if (failure.exit_code != 0 && !failure.killed_by_agent) {
      Notice(true, absl::StrCat("after it had finished, ", FailureSentence(failure)));
    }
    return;
  }
  const bool clean = failure.exit_code == 0 && !failure.killed_by_agent;
  if (clean && (RanksRun() || s_.phase == State::kStopping)) {
    // Its Finished may still be on the way: it took another road to the agent.
    failure.what = "exited with code 0 before it had finished";
    s_.suspects.Put(rank, std::move(failure));
    return SetCauseDeadline();
  }
  switch (s_.phase) {
    case State::kStarting:
    case State::kRunning:
      s_.suspects.Erase(rank);
      if (s_.survivors.contains(rank) && !s_.joined.contains(rank) && s_.history.HasIncident()) {
        return FailAgain(std::move(failure));
      }
      return Fail(std::move(failure));
    case State::kPreparing:
      if (s_.history.Collecting()) s_.history.AddFailure(std::move(failure), s_.generation);
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
  switch (s_.phase) {
    case State::kStarting:
    case State::kRunning:
      if (s_.phase == State::kRunning && EndedByStopSignal(exited)) {
        // Who sent it may have sent it to dsrun, too.
        s_.suspects.Put(rank, std::move(failure));
        return SetCauseDeadline();
      }
      if (failure.exit_code != 0 || failure.killed_by_agent) return Fail(std::move(failure));
      return RankFinished(rank);
    case State::kDraining:
      s_.history.AddFailure(std::move(failure), s_.generation);
      return DrainIfDone();
    case State::kStopping:
      s_.stopped[rank] = HowItStopped(exited, config_.stop_grace);
      return EndIfStopped();
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
  if (!s_.history.Collecting()) return;
  Report& report = s_.history.report();
  const std::string reason = FailureSentence(s_.history.Cause());
  const bool was_the_reason = report.verdict.starts_with(reason);
  s_.history.AddFailure(std::move(failure), Generation(s_.plan.generation()));
  if (!was_the_reason) return;
  report.verdict.replace(0, reason.size(), FailureSentence(s_.history.Cause()));
  s_.exit_code = s_.history.Cause().exit_code;
}

void Coordinator::OnReport(WorkerId worker, const proto::WorkerMessage& message) {
  const Generation generation(message.generation());
  const auto rank = RankOf(s_.plan, worker);
  if (message.has_notice()) return OnNotice(worker, rank, message.notice());
  if (!config_.is_train) return;  // Programs have no voice but their exit.
  if (message.has_shard_written()) return OnShardWritten(worker, message.shard_written());
  if (message.has_commit_done()) return OnCommitDone(worker, message.commit_done());
  if (generation.value() != s_.plan.generation() || !rank) return;
  if (s_.phase == State::kPreparing && message.has_failed()) {
    return OnFailed(*rank, message.failed());
  }
  if (!RanksRun() && s_.phase != State::kStopping) return;
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
    case proto::WorkerMessage::kNotice:        // handled above
    case proto::WorkerMessage::kHello:         // the agent's
    case proto::WorkerMessage::kBeat:          // the agent's
    case proto::WorkerMessage::kShardWritten:  // handled above
    case proto::WorkerMessage::kCommitDone:    // handled above
    case proto::WorkerMessage::BODY_NOT_SET:
      return;
  }
}

void Coordinator::OnExchangePut(Rank rank, const proto::ExchangePut& put) {
  // The rank is the place's, not what the message claims: a rank can only put its own value.
  if (put.rank() != rank.value() || put.name().starts_with(kSaveOutcomePrefix)) return;
  if (!put.group().empty()) return OnGroupPut(rank, put);
  const bool had_connected = AllConnected();
  auto table = s_.rendezvous.Put(rank, put.name(), put.value());
  if (!table) return;
  if (!had_connected && s_.phase == State::kStarting) Enter(State::kStarting, TimeToJoin());
  if (!had_connected && s_.phase == State::kStopping) {
    Enter(State::kStopping, TimeToStop(/*joining=*/true));
  }
  proto::CoordinatorMessage message;
  *message.mutable_exchange_table() = *std::move(table);
  SendToPlanned(std::move(message));
}

// Every member asks once for each table, so its ranks are found once and not for each of them.
const ProcessGroup* Coordinator::GroupOfMember(const std::string& name, Rank rank) {
  if (!groups_.mesh) {
    absl::StatusOr<Mesh> mesh = MeshOf(s_.plan);
    if (!mesh.ok()) return nullptr;  // never of a plan that was made here
    groups_.mesh = *std::move(mesh);
  }
  auto found = groups_.by_name.find(name);
  if (found == groups_.by_name.end()) {
    absl::StatusOr<ProcessGroup> group = GroupNamed(*groups_.mesh, name);
    // Who is no member leaves nothing here: a rank is in few groups, and could name many.
    if (!group.ok() || !group->RankIn(rank)) return nullptr;
    found = groups_.by_name.emplace(name, *std::move(group)).first;
  }
  return found->second.RankIn(rank) ? &found->second : nullptr;
}

// Only the nodes of the group's ranks hear of it: a job has as many groups as ranks, and more.
void Coordinator::OnGroupPut(Rank rank, const proto::ExchangePut& put) {
  const ProcessGroup* const group = GroupOfMember(put.group(), rank);
  if (group == nullptr) return;
  auto table = s_.rendezvous.Put(put.group(), group->size(), rank, put.name(), put.value());
  if (!table) return;
  proto::CoordinatorMessage message;
  *message.mutable_exchange_table() = *std::move(table);
  const Body body = Shared(std::move(message));
  NodeId last(-1);
  for (const Rank member : group->ranks) {  // sorted by node, as ranks are
    const NodeId node = WorkerOf(s_.plan, member).node;
    if (node == last) continue;
    last = node;
    if (s_.members.IsOpen(node)) SendTo(node, s_.generation, body);
  }
}

void Coordinator::OnJoined(Rank rank, const proto::Joined& joined) {
  s_.history.Joined(joined.start_step(), joined.loaded_from());
  if (s_.phase == State::kStarting) RankJoined(rank);
}

void Coordinator::LoseRanksThatDidNotJoin() {
  std::vector<Rank> late;
  std::vector<Rank> at_fault;  // who has connected waits for who has not
  for (int i = 0; i < width(); ++i) {
    if (s_.joined.contains(Rank(i)) || s_.finished.contains(Rank(i))) continue;
    late.push_back(Rank(i));
    if (AllConnected() || !s_.rendezvous.HasPut(Rank(i), kConnectedTable)) {
      at_fault.push_back(Rank(i));
    }
  }
  std::string what = absl::StrCat("did not join within ", absl::FormatDuration(TimeToJoin()));
  if (AllConnected()) {
    absl::StrAppend(&what, ", although it had connected: look at what it loads from, or raise ",
                    FactsOf(OperationClass::kLoad).flag);
  }
  for (const Rank rank : at_fault.empty() ? late : at_fault) {
    const WorkerId worker = WorkerOf(s_.plan, rank);
    Failure failure = NodeFailure(worker.node, Failure::Kind::kWorkerNotJoined, what);
    failure.slot = worker.slot;
    failure.rank = rank;
    // Had it stood still, its agent would have killed it: it moves, and its disk is slow.
    failure.from_outside = AllConnected();
    KillWorker(worker, failure.what);
    Emit(Tell{Lost{failure}});
    s_.history.AddFailure(std::move(failure), Generation(s_.plan.generation()));
  }
  NextGeneration();
}

void Coordinator::RankJoined(Rank rank) {
  s_.joined.insert(rank);
  if (config_.is_train) Perform(s_.saves.Joined(WorkerOf(s_.plan, rank)));
  if (s_.joined.size() < AllRanks()) return;
  s_.history.AllJoined(now_);
  s_.phase = State::kRunning;
  s_.phase_deadline.at = absl::InfiniteDuration();
  const GenerationRecord& record = s_.history.report().generations.back();
  Emit(Tell{
      GenerationRunning{Generation(s_.plan.generation()), record.start_step, record.loaded_from}});
}

void Coordinator::OnStepDone(Rank rank, const proto::StepDone& done) {
  const Generation generation(s_.plan.generation());
  s_.heard_step = std::max(s_.heard_step, done.step());
  s_.history.StepFinished(done.step());
  if (!s_.first_step || (!s_.progressed && done.step() > s_.high_step)) {
    Emit(Raise{ProgressMade{generation, done.step()}});
  }
  if (rank.value() != 0 || done.step() <= s_.told_step) return;
  s_.told_step = done.step();
  Emit(Tell{Progress{generation, done}});
}

void Coordinator::OnFailed(Rank rank, const proto::Failed& failed) {
  if (s_.finished.contains(rank) || s_.exited.contains(rank)) return;
  Failure failure = FailureFromReport(failed);
  const WorkerId worker = WorkerOf(s_.plan, rank);
  failure.node = worker.node;
  failure.host = HostOf(worker.node);
  failure.slot = worker.slot;
  failure.rank = rank;
  failure.generation = Generation(s_.plan.generation());
  failure.noticed_at = now_;
  if (SaysOutOfMemory(failed)) AddMemoryWords(rank, failure.what);
  if (failure.replace_process) return Replace(rank, std::move(failure));
  if (s_.phase == State::kPreparing) return;  // a consequence of what the recovery is for
  if (failure.fatal) {
    const std::string verdict = FailureSentence(failure);
    Emit(Tell{Lost{failure}});
    s_.history.AddFailure(std::move(failure), s_.generation);
    return BeginEnding(kExitFailed, verdict, true);
  }
  if (s_.phase == State::kStopping) {
    return FailWhileStopping(std::move(failure));
  }
  const bool first_timeout = failure.timed_out && RanksRun() && !s_.suspects.AnyTimedOut();
  s_.suspects.PutFirst(rank, std::move(failure));
  SetCauseDeadline();
  if (!first_timeout) return;
  // Somebody does not answer, and may not be able to: everybody is asked what they are doing, and
  // gets the time to say it.
  s_.cause_deadline.at = now_ + std::max(config_.cause_grace, kStackTime);
  ++s_.cause_deadline.number;
  TakeStacks();
}

// An own fault, so nobody's consequence. The order to kill is at its agent before the next plan:
// the process counts as ended from here on.
void Coordinator::Replace(Rank rank, Failure failure) {
  s_.exited.insert(rank);
  KillWorker(WorkerOf(s_.plan, rank), absl::StrCat("only a new process helps: it ", failure.what));
  switch (s_.phase) {
    case State::kPreparing:
      if (s_.history.Collecting()) s_.history.AddFailure(std::move(failure), s_.generation);
      return;
    case State::kStopping:
      return FailWhileStopping(std::move(failure));
    default:
      s_.suspects.Erase(rank);
      return Fail(std::move(failure));
  }
}

void Coordinator::TakeStacks() {
  if (s_.stacks_asked) return;
  s_.stacks_asked = true;
  proto::CoordinatorMessage message;
  message.mutable_take_stacks();
  SendToLive(message);
}

// An agent asks by itself a rank that makes no progress: then the others are asked, too.
void Coordinator::OnStacks(Rank rank, const proto::Stacks& stacks) {
  std::vector<std::string>& stack = s_.stacks[rank];
  stack.clear();
  if (!stacks.state().empty()) stack.push_back(stacks.state());
  for (const std::string& line : stacks.lines()) {
    if (stack.size() < kMostStackLines) stack.push_back(line);
  }
  if (RanksRun()) TakeStacks();
}

std::optional<Failure> Coordinator::MissedRank() const {
  const std::optional<Rank> odd = AwaitedRank(s_.suspects.by_rank());
  if (!odd || odd->value() >= width() || s_.finished.contains(*odd) || s_.exited.contains(*odd)) {
    return std::nullopt;
  }
  const WorkerId worker = WorkerOf(s_.plan, *odd);
  if (!s_.members.IsOpen(worker.node)) return std::nullopt;
  Failure failure = NodeFailure(worker.node, Failure::Kind::kWorkerMissed, "");
  failure.slot = worker.slot;
  failure.rank = odd;
  const auto stack = s_.stacks.find(*odd);
  if (stack != s_.stacks.end()) failure.stack = stack->second;
  const std::string doing = failure.stack.empty()       ? ", and does not say what it is doing"
                            : failure.stack.size() == 1 ? ": it is " + failure.stack.front()
                                                        : ": it is alive, its stack says where";
  for (const auto& [rank, report] : s_.suspects.by_rank()) {
    if (!report.timed_out) continue;
    failure.what =
        absl::StrCat("kept the others waiting", doing, "; rank ", rank.value(), " ", report.what);
    break;
  }
  return failure;
}

void Coordinator::OnFinished(Rank rank, const proto::Finished& finished) {
  s_.suspects.Erase(rank);
  s_.stopped_early |= finished.stopped_early();
  if (rank.value() == 0) {
    Report& report = s_.history.report();
    report.final_step = finished.step();
    report.final_loss = finished.loss();
    report.stopped_early = finished.stopped_early();
    if (!finished.manifest().empty()) {  // of the step that it has finished
      report.manifest = finished.manifest();
      report.checkpoint_step = finished.step();
    }
    report.sample = finished.sample();
  }
  RankFinished(rank);
  // What looked like a failure was none: the stop that waited for its recovery waits no more.
  if (s_.stop_waits && RanksRun() && s_.suspects.empty()) {
    StopAfterCheckpoint(/*joining=*/s_.phase == State::kStarting);
  }
}

void Coordinator::RankFinished(Rank rank) {
  if (s_.phase == State::kStarting) RankJoined(rank);
  s_.finished.insert(rank);
  if (!AllRanksFinished()) return;
  // A generation may have had no step left to do: the end is then what it went on to.
  if (!s_.first_step) s_.history.FirstStep(now_);
  const Report& report = s_.history.report();
  if (!report.sample.empty()) Emit(Tell{Sample{report.sample}});
  if (s_.stopped_early) {
    return BeginEnding(
        kExitCancelled,
        absl::StrCat("stopped by ",
                     s_.stops > 0 ? "the operator" : "a signal to one of its ranks or agents",
                     " after step ", report.final_step,
                     report.manifest.empty() ? "" : ", checkpoint ", report.manifest),
        false);
  }
  BeginEnding(kExitOk, "all ranks finished", false);
}

void Coordinator::OnNotice(WorkerId worker, std::optional<Rank> rank, const proto::Notice& notice) {
  Emit(Tell{NoticeText{notice.warning(), notice.text(), worker, rank}});
}

}  // namespace dsrun::launcher
