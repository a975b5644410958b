// NodeCore: everything an agent decides for one job, as a pure function of what it is told.
//
//   NodeCore core({.incarnation = Incarnation(7), .inventory = opened});
//   for (NodeAction& action : core.Step(now, event)) perform(action);
//
// No clock, process, socket, log or random number inside; `now` is steady time and never goes back.
// The same events give the same actions, byte for byte. One core lives from Open to JobOver.
//
// What it does:
//   Open           -> Opened with the inventory.
//   Prepare(g)     -> Prepared(g) with the slots whose worker lives. Nothing is torn down. On node
//   0,
//                     where rank 0 of a program always is, its port for g is reserved first.
//   Begin(plan g)  -> refused if a member of ours is in a slot that the job does not have here, or
//                     the members are not placed by the rules (an agent of another version): its
//                     ranks here are reported as ended, with the reason, and nothing else changes.
//                     Else everything older than g is fenced. Engine: the plan goes to every live
//                     worker that is a member, missing members are spawned, other workers are
//                     killed. Programs: the old generation is stopped whole (ladder); when the last
//                     is dead and the node is clear of what it started, the new one is spawned.
//                     What cannot be cleared within some seconds is told to the operator.
//   worker reports -> relayed if they belong to the present generation, dropped otherwise;
//                     notices and what became of saves always.
//                     Beats are folded into AgentHeartbeat.
//   a silent worker (no message for worker_silent_after; three times that before its hello)
//                  -> killed, reported like any other end.
//   a worker that beats without a move for progress_timeout and for its own patience
//                  -> asked what it is doing, then the same. A new plan is no excuse: only a move
//                  is. What it hung in says whether it was its own doing (`stuck`) or a disk's.
//   a worker that is dead and does not end (a thread of it waits in the kernel for a disk)
//                  -> reported like any other end, with what it waits in, also to the operator; it
//                  is left behind, and its slot is free for the next process. What it had sent and
//                  nobody has read yet is dropped with it.
//   TakeStacks     -> every local worker of that generation is asked what it is doing; for one that
//                     is stopped the agent answers with what the kernel says.
//   ExchangeTable  -> every local worker of that generation, or those in its group.
//   CommitSaveAt   -> the worker in that slot; DropSave -> every local worker; whatever generation.
//   StopWorkers    -> workers are asked (and killed after stop_grace, unless they may checkpoint
//                     first); programs get the ladder, and KILL when asked again without a
//                     checkpoint. Nothing is spawned until the next Begin, but what the present
//                     generation still waits for when its workers may checkpoint first.
//   PassSignal     -> every rank of a program (USR1 and USR2 only).
//   EndJob         -> all stopped, swept, JobEnded, JobOver.
//   AskedToStop    -> the coordinator decides; its StopWorkers or EndJob is often on the way, for
//                     the signal was sent to everybody. Engine: the workers are asked to save and
//                     stop meanwhile, also those of later generations; the other ranks learn it in
//                     the same step. Programs: if nothing has been decided within a second, this
//                     node leaves by itself: ladder, swept, JobOver, and the coordinator loses a
//                     node. (USR1 and USR2 are the program's own business.)
//   No word from the coordinator for `lease`, or the keeper gone -> all stopped, swept, JobOver.
//                     Looked at before anything that is heard: a word that comes later than that
//                     renews nothing, for the coordinator may have given the ranks to others. A
//                     program's lease counts from when the last heartbeat would have come if it had
//                     been as fast as the fastest of the last ones: one that was kept back in a
//                     network or a socket renews no more than it should.
//   Slept(t)       -> programs: t counts for the lease, and for the grace behind it, which other
//                     machines have waited for; what is due is done before anything else. Engine:
//                     nothing, its generations fence it, and whoever slept with it goes on.
//   Stream gone and nothing left alive -> JobOver at once.
//
// Invariants, checked after every step: a slot that is not alive has no pid; a worker is never of a
// newer generation than the node; after JobOver nothing is alive and Step returns nothing.
//
// Single-threaded: the caller serialises.

#ifndef DSRUN_AGENT_NODE_CORE_H_
#define DSRUN_AGENT_NODE_CORE_H_

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/node_events.h"
#include "agent/node_limits.h"
#include "agent/worker_state.h"
#include "common/base/ids.h"
#include "proto/agent.pb.h"
#include "proto/job.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::agent {

class NodeCore {
 public:
  struct Options {
    Incarnation incarnation;  // of this agent process, not 0
    proto::Opened inventory;  // sent back as it is
  };

  explicit NodeCore(Options options);

  // Takes one event, returns what to do, in order. Never fails: a message that makes no sense here
  // (stale, repeated, out of order) is dropped.
  std::vector<NodeAction> Step(absl::Duration now, const NodeEvent& event);

  // For tests, logs and the shell's decisions.
  bool over() const { return phase_ == Phase::kOver; }
  Generation generation() const { return generation_; }
  // kEmpty for a slot that was never used.
  WorkerState state(Slot slot) const;
  // The slot's record, or nullptr when it was never used.
  const WorkerSlot* worker(Slot slot) const;
  const proto::JobSpec& job() const { return job_; }

 private:
  // kNew --Open--> kRunning --EndJob, lease, keeper gone, stream gone with nothing alive-->
  // kEnding --last worker ended--> kOver
  enum class Phase { kNew, kRunning, kEnding, kOver };

  void On(const CoordinatorReceived& event);
  void On(const CoordinatorGone& event);
  void On(const WorkerSpawned& event);
  void On(const WorkerSpawnFailed& event);
  void On(const WorkerEnded& event);
  void On(const WorkerCannotEnd& event);
  void On(const LeftoverEnded& event);
  void On(const WorkerHello& event);
  void On(const WorkerReceived& event);
  void On(const WorkerSessionClosed& event);
  void On(const WorkerInspected& event);
  void On(const PortReserved& event);
  void On(const NodeCleared& event);
  void On(const Slept& event);
  void On(const KeeperGone& event);
  void On(const AskedToStop& event);
  void On(const Tick& event);

  void OnOpen(const proto::CoordinatorMessage& message);
  void OnPrepare(Generation generation);
  void SendPrepared();
  void OnBegin(Generation generation, const proto::Begin& begin);
  void RefusePlan(Generation generation, const proto::GenerationPlan& plan, const std::string& why);
  void OnExchangeTable(Generation generation, const proto::ExchangeTable& table);
  void OnTakeStacks(Generation generation);
  void OnCommitSave(const proto::CommitSaveAt& commit);
  void OnDropSave(const proto::DropSave& drop);
  void OnStopWorkers(Generation generation, const proto::StopWorkers& stop);
  void OnKillWorker(Generation generation, const proto::KillWorker& kill);
  void OnPassSignal(Generation generation, int signal);
  void OnEndJob();

  void BeginEngine();
  void BeginPrograms();
  void ClearThenSpawn();
  void TakeMember(Slot slot, WorkerSlot& worker);
  void SpawnMissing();
  void Spawn(Slot slot, Rank rank);
  void Kill(Slot slot, const std::string& reason);
  void TakeStacks(Slot slot);
  void AskToStop(Slot slot, WorkerSlot& worker);
  void AskAllToStop();
  void HeedSignal();
  void TellOfSignal();
  void LadderAll(const std::string& reason);
  void LadderAll(const std::string& reason, absl::Duration grace);
  void KillAll(const std::string& reason);
  void Abandon(const std::string& reason);
  void CheckLease();
  void NoteWord(const proto::CoordinatorMessage& message);
  void EndIfQuiet();
  void CheckDeadlines();
  void NoteBeat(WorkerSlot& worker, const proto::Beat& beat);
  void CheckProgress(Slot slot, WorkerSlot& worker);
  void ForgiveOwnPause();
  bool Relayed(const WorkerSlot& worker, const proto::WorkerMessage& message) const;
  void ReportEnd(Slot slot, const WorkerSlot& worker, proto::WorkerExited exited);
  void FillAgain(Slot slot, const WorkerSlot& worker);
  void Notice(Slot slot, const std::string& text, bool warning);
  void ReportStarted(Slot slot, const WorkerSlot& worker);
  void SendHeartbeatIfDue();
  // To the coordinator, if it still listens.
  void Send(proto::AgentMessage message, Generation generation);
  proto::HostMessage ToWorker() const;
  WorkerSlot* Find(Slot slot);
  // The rank of `slot` in the present plan, or -1.
  int RankOf(Slot slot) const;
  bool IsProgram() const { return job_.has_program(); }
  bool AnyAlive() const;
  void CheckInvariants() const;

  // Constant after construction.
  const Options options_;

  Phase phase_ = Phase::kNew;
  proto::JobSpec job_;
  NodeLimits limits_;
  int node_ = 0;
  Generation generation_;  // of the last Begin
  Generation prepared_;    // highest claim acknowledged
  PortReserved port_;      // programs, node 0: of the last claim that has one
  proto::GenerationPlan plan_;
  std::map<Slot, WorkerSlot> workers_;
  bool spawn_when_empty_ = false;  // programs: the new generation waits for the old one's last exit
  // ... and for a node that is clear: looked at again at every tick until then. Infinite: not now.
  absl::Duration clear_by_ = absl::InfiniteDuration();
  bool stop_requested_ = false;  // since the last Begin
  bool stop_checkpoint_ = false;
  bool coordinator_stops_ = false;  // ... by the coordinator
  int asked_by_ = 0;                // the signal of AskedToStop; 0: none
  bool told_of_signal_ = false;
  // When it is told, or a program's node leaves, if the coordinator has not decided by then.
  absl::Duration decided_by_ = absl::InfiniteDuration();
  bool coordinator_gone_ = false;
  bool abandoned_ = false;
  std::string end_reason_;
  // Of a program: earlier by what was slept since, and by how much later than others it came.
  absl::Duration coordinator_heard_at_;
  absl::Duration slept_;             // since the job began here
  std::deque<absl::Duration> ways_;  // of the last heartbeats, by two clocks that share no zero
  struct Echo {
    absl::Duration sent;   // the coordinator's clock
    absl::Duration heard;  // ours
  };
  std::optional<Echo> echo_;  // the newest heartbeat of the coordinator that was not answered
  absl::Duration heartbeat_at_ = -absl::InfiniteDuration();  // of the last one sent
  absl::Duration ticked_at_ = absl::InfiniteDuration();      // infinite: no tick yet
  // Of the step in progress.
  absl::Duration now_;
  std::vector<NodeAction> actions_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_NODE_CORE_H_
