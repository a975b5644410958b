// NodeCore, second part: what time decides, how workers are killed, and how the job ends here.

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "agent/node_core.h"
#include "common/base/operation_class.h"
#include "common/base/proto_duration.h"

namespace dsrun::agent {
namespace {

// A worker that is still loading has no beat thread yet: it is given this many times longer.
constexpr int kStartPatience = 3;
// What a worker that hangs gets for saying where, before it is killed.
constexpr absl::Duration kStackTime = absl::Seconds(1);

std::string NameOf(int signal) {
  switch (signal) {
    case 1:
      return "SIGHUP";
    case 2:
      return "SIGINT";
    case 3:
      return "SIGQUIT";
    case 10:
      return "SIGUSR1";
    case 12:
      return "SIGUSR2";
    case 15:
      return "SIGTERM";
    default:
      return absl::StrCat("signal ", signal);
  }
}

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToDoubleSeconds(duration), " s");
}

}  // namespace

// ---- Time

void NodeCore::On(const Tick&) {
  if (phase_ == Phase::kNew) return;
  ForgiveOwnPause();
  CheckDeadlines();
  HeedSignal();
  if (spawn_when_empty_ && clear_by_ != absl::InfiniteDuration() && phase_ == Phase::kRunning &&
      !AnyAlive()) {
    ClearThenSpawn();
  }
  SendHeartbeatIfDue();
}

// When this process itself did not run, silence of the workers proves nothing: what they sent in
// the meantime is still queued behind this tick. The lease is not forgiven: it protects others.
void NodeCore::ForgiveOwnPause() {
  const absl::Duration gap =
      ticked_at_ == absl::InfiniteDuration() ? absl::ZeroDuration() : now_ - ticked_at_;
  ticked_at_ = now_;
  if (gap < 2 * limits_.heartbeat_interval) return;
  for (auto& [slot, worker] : workers_) {
    worker.heard_at += gap;
    worker.moved_at += gap;
  }
}

// Nobody has decided what a signal to this node means: then it is decided here.
void NodeCore::HeedSignal() {
  if (now_ < decided_by_) return;
  decided_by_ = absl::InfiniteDuration();
  if (phase_ != Phase::kRunning || coordinator_stops_) return;
  TellOfSignal();
  if (IsProgram()) Abandon(absl::StrCat("dsagent was asked to stop by ", NameOf(asked_by_)));
}

// As a line of the node's first rank: agents have no voice of their own.
void NodeCore::TellOfSignal() {
  if (asked_by_ == 0 || coordinator_stops_ || std::exchange(told_of_signal_, true)) return;
  if (node_ >= job_.nodes_size() || job_.nodes(node_).slots().empty()) return;
  Notice(Slot(job_.nodes(node_).slots(0)),
         absl::StrCat("the dsagent of its node got ", NameOf(asked_by_),
                      IsProgram() ? ": it stops its ranks and leaves the job"
                                  : ": the job's ranks finish their step, save and stop"),
         /*warning=*/false);
}

// A line for people, as one of the worker in that slot.
void NodeCore::Notice(Slot slot, const std::string& text, bool warning) {
  proto::AgentMessage report;
  report.mutable_worker_report()->set_slot(slot.value());
  proto::WorkerMessage& message = *report.mutable_worker_report()->mutable_message();
  message.set_job_id(job_.job_id());
  message.set_generation(generation_.value());
  message.mutable_notice()->set_text(text);
  message.mutable_notice()->set_warning(warning);
  Send(std::move(report), generation_);
}

void NodeCore::CheckDeadlines() {
  for (auto& [slot, worker] : workers_) {
    if (!worker.alive() || worker.state == WorkerState::kStopping) continue;
    if (now_ >= worker.kill_at) {
      Kill(slot, worker.kill_at_reason);
      continue;
    }
    if (IsProgram() || worker.state == WorkerState::kFinished) continue;
    const absl::Duration silence = now_ - worker.heard_at;
    if (worker.state == WorkerState::kConnected && silence >= limits_.worker_silent_after) {
      Kill(slot,
           absl::StrCat("silent for ", Seconds(limits_.worker_silent_after), ", probably stopped"));
      worker.silent_for = silence;
    } else if (worker.state != WorkerState::kConnected &&
               silence >= kStartPatience * limits_.worker_silent_after) {
      Kill(slot, absl::StrCat("did not say hello within ",
                              Seconds(kStartPatience * limits_.worker_silent_after)));
    } else {
      CheckProgress(slot, worker);
    }
  }
}

void NodeCore::NoteBeat(WorkerSlot& worker, const proto::Beat& beat) {
  if (beat.moves() != worker.moves || !beat.has_patience()) worker.moved_at = now_;
  worker.step = beat.step();
  worker.phase = beat.phase();
  worker.moves = beat.moves();
  worker.patience = beat.has_patience() ? FromProto(beat.patience()) : absl::InfiniteDuration();
}

// Its beat thread lives, so it is not stopped; its engine does nothing that it would tell of.
void NodeCore::CheckProgress(Slot slot, WorkerSlot& worker) {
  const absl::Duration stuck = now_ - worker.moved_at;
  if (stuck < std::max(limits_.progress_timeout, worker.patience)) return;
  if (worker.kill_at != absl::InfiniteDuration()) return;  // asked already, or leaving
  worker.kill_at = now_ + kStackTime;
  const std::optional<OperationFacts> operation = FactsOfPhase(worker.phase);
  const bool storage = operation && operation->storage;
  worker.kill_at_reason = absl::StrCat(
      "made no progress for ", Seconds(absl::Trunc(stuck, absl::Seconds(1))), " in '", worker.phase,
      "' after step ", worker.step, ", although it is alive",
      storage ? absl::StrCat("; look at the disk or file server, or raise ", operation->flag) : "");
  worker.silent_for = stuck;
  worker.stuck = !storage;  // a disk that does not answer is not the program's doing
  TakeStacks(slot);
}

void NodeCore::SendHeartbeatIfDue() {
  if (now_ - heartbeat_at_ < limits_.heartbeat_interval) return;
  heartbeat_at_ = now_;
  proto::AgentMessage message;
  message.mutable_heartbeat();
  if (echo_) {
    proto::AgentHeartbeat::Echo& echo = *message.mutable_heartbeat()->mutable_echo();
    *echo.mutable_sent() = ToProto(echo_->sent);
    *echo.mutable_heard() = ToProto(echo_->heard);
    *echo.mutable_answered() = ToProto(now_);
    echo_.reset();
  }
  for (const auto& [slot, worker] : workers_) {
    if (worker.state != WorkerState::kConnected) continue;
    proto::WorkerBeat& beat = *message.mutable_heartbeat()->add_beats();
    beat.set_slot(slot.value());
    beat.set_step(worker.step);
    beat.set_phase(worker.phase);
  }
  Send(std::move(message), generation_);
}

// ---- Ends

void NodeCore::Kill(Slot slot, const std::string& reason) {
  WorkerSlot* worker = Find(slot);
  if (worker == nullptr) return;
  // A second KILL is harmless, and right when the first order was the ladder; the first reason
  // stays.
  if (!worker->killed) worker->kill_reason = reason;
  worker->killed = true;
  worker->kill_at = absl::InfiniteDuration();
  worker->state = WorkerState::kStopping;
  actions_.push_back(KillWorker{slot, reason});
}

void NodeCore::LadderAll(const std::string& reason) { LadderAll(reason, limits_.stop_grace); }

void NodeCore::LadderAll(const std::string& reason, absl::Duration grace) {
  StopLadder ladder{.slots = {}, .grace = grace};
  for (auto& [slot, worker] : workers_) {
    if (!worker.alive() || worker.state == WorkerState::kStopping) continue;
    worker.state = WorkerState::kStopping;
    worker.killed = true;
    worker.kill_reason = reason;
    ladder.slots.push_back(slot);
  }
  if (!ladder.slots.empty()) actions_.push_back(std::move(ladder));
}

void NodeCore::KillAll(const std::string& reason) {
  for (auto& [slot, worker] : workers_) Kill(slot, reason);
}

void NodeCore::Abandon(const std::string& reason) {
  abandoned_ = true;
  phase_ = Phase::kEnding;
  end_reason_ = reason;
  if (!IsProgram()) return KillAll(reason);
  // The coordinator waits for lease and grace since it was heard, not since we noticed.
  const absl::Duration late =
      std::max(now_ - coordinator_heard_at_ - limits_.lease, absl::ZeroDuration());
  LadderAll(reason, std::max(limits_.stop_grace - late, absl::ZeroDuration()));
}

void NodeCore::EndIfQuiet() {
  if (AnyAlive()) return;
  if (phase_ == Phase::kRunning && coordinator_gone_) {
    Abandon("the coordinator's stream is gone and no worker is left");
  }
  if (phase_ != Phase::kEnding) return;
  actions_.push_back(SweepOrphans{std::nullopt});
  if (!abandoned_) {
    proto::AgentMessage message;
    message.mutable_job_ended();
    Send(std::move(message), generation_);
  }
  actions_.push_back(JobOver{end_reason_, abandoned_});
  phase_ = Phase::kOver;
}

}  // namespace dsrun::agent
