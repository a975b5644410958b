// NodeCore, third part: how processes begin and end.

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "agent/node_core.h"
#include "common/base/proto_duration.h"

namespace dsrun::agent {
namespace {

// For what a generation has left behind to end, from the first look.
constexpr absl::Duration kClearWithin = absl::Seconds(5);

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToDoubleSeconds(duration), " s");
}

proto::WorkerExited ExitedOf(const WorkerEnded& event) {
  proto::WorkerExited exited;
  exited.set_exit_code(event.exit_code);
  exited.set_term_signal(event.term_signal);
  exited.set_core_dumped(event.core_dumped);
  for (const std::string& line : event.last_lines) exited.add_last_lines(line);
  *exited.mutable_wall_time() = ToProto(event.wall_time - absl::UnixEpoch());
  *exited.mutable_steady_time() = ToProto(event.steady_time);
  exited.set_reason(event.cause);
  return exited;
}

}  // namespace

void NodeCore::On(const WorkerSpawned& event) {
  WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr || worker->pid != 0) return;
  worker->pid = event.pid;
  if (worker->state != WorkerState::kStarting) return;
  worker->state = WorkerState::kUp;
  worker->heard_at = now_;
  if (IsProgram()) ReportStarted(event.slot, *worker);
}

void NodeCore::On(const WorkerSpawnFailed& event) {
  WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr || worker->pid != 0) return;
  proto::WorkerExited exited;
  exited.set_exit_code(event.exit_code);
  exited.set_reason(event.why);
  exited.set_node_lacked(event.node_lacked);
  *exited.mutable_steady_time() = ToProto(now_);
  const WorkerSlot failed = std::exchange(*worker, {});
  ReportEnd(event.slot, failed, std::move(exited));
  FillAgain(event.slot, failed);
}

void NodeCore::On(const WorkerEnded& event) {
  WorkerSlot* worker = Find(event.slot);
  if (worker == nullptr) return;
  const WorkerSlot ended = std::exchange(*worker, {});
  ReportEnd(event.slot, ended, ExitedOf(event));
  if (ended.pid != 0) actions_.push_back(SweepOrphans{event.slot});
  FillAgain(event.slot, ended);
}

void NodeCore::On(const WorkerCannotEnd& event) {
  const Slot slot = event.end.slot;
  WorkerSlot* worker = Find(slot);
  if (worker == nullptr || worker->pid == 0) return;
  const WorkerSlot left = std::exchange(*worker, {});
  proto::WorkerExited exited = ExitedOf(event.end);
  exited.set_reason(event.cause);
  ReportEnd(slot, left, std::move(exited));
  Notice(slot,
         absl::StrCat(event.words,
                      "; its slot is free, its memory is not; look at the disk or "
                      "file server"),
         /*warning=*/true);
  actions_.push_back(LeaveBehind{slot});
  FillAgain(slot, left);
}

void NodeCore::On(const LeftoverEnded& event) {
  if (phase_ != Phase::kRunning) return;
  Notice(event.slot,
         absl::StrCat("process ", event.pid, " has ended at last, ",
                      Seconds(absl::Trunc(event.after, absl::Milliseconds(100))),
                      " after its death: its memory is free"),
         /*warning=*/false);
}

void NodeCore::ReportEnd(Slot slot, const WorkerSlot& worker, proto::WorkerExited exited) {
  exited.set_slot(slot.value());
  exited.set_pid(worker.pid);
  exited.set_killed_by_agent(worker.killed);
  exited.set_stuck(worker.killed && worker.stuck);
  if (worker.killed) {
    exited.set_reason(exited.reason().empty()
                          ? worker.kill_reason
                          : absl::StrCat(worker.kill_reason, "; ", exited.reason()));
  }
  if (worker.silent_for > absl::ZeroDuration()) {
    *exited.mutable_silent_for() = ToProto(worker.silent_for);
  }
  proto::AgentMessage message;
  *message.mutable_worker_exited() = std::move(exited);
  Send(std::move(message), worker.generation);
}

// The old generation's ranks are dead; what they started may have cleared its environment and left
// its session, and nothing but being below this agent tells that it is theirs.
void NodeCore::ClearThenSpawn() {
  if (clear_by_ == absl::InfiniteDuration()) clear_by_ = now_ + kClearWithin;
  actions_.push_back(ClearNode{generation_});
}

void NodeCore::On(const NodeCleared& event) {
  if (phase_ != Phase::kRunning || event.generation != generation_) return;
  if (!spawn_when_empty_ || AnyAlive()) return;
  if (!event.left.empty()) {
    if (now_ < clear_by_) return;  // again at the next tick
    if (!job_.nodes(node_).slots().empty()) {
      Notice(Slot(job_.nodes(node_).slots(0)),
             absl::StrCat("what an older generation left behind does not end within ",
                          Seconds(kClearWithin), " of SIGKILL, and generation ",
                          generation_.value(), " begins beside it: ", event.left),
             /*warning=*/true);
    }
  }
  clear_by_ = absl::InfiniteDuration();
  SpawnMissing();
}

// The slot is empty now, and may be one that the present generation waits for.
void NodeCore::FillAgain(Slot slot, const WorkerSlot& worker) {
  if (phase_ != Phase::kRunning) return;
  // A stop with a checkpoint needs every member of the present generation to come to its end
  // together: a slot that its plan waits for is still filled.
  if (stop_requested_ && (IsProgram() || !stop_checkpoint_)) return;
  if (IsProgram()) {
    if (spawn_when_empty_ && !AnyAlive()) ClearThenSpawn();
  } else if (worker.generation < generation_ && RankOf(slot) >= 0) {
    Spawn(slot, Rank(RankOf(slot)));
  }
}

void NodeCore::ReportStarted(Slot slot, const WorkerSlot& worker) {
  proto::AgentMessage message;
  proto::WorkerStarted& started = *message.mutable_worker_started();
  started.set_slot(slot.value());
  started.set_pid(worker.pid);
  started.set_incarnation(worker.incarnation.value());
  Send(std::move(message), worker.generation);
}

}  // namespace dsrun::agent
