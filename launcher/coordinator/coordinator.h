// The coordinator of one job, as a pure function of its events: no clock, thread, I/O, log or
// random number inside. It decides on every failure; the shell (launcher/runner) queues events,
// journals them and performs the actions (see events.h for the order).
//
//   kIdle -Start-> kOpening -all Opened-> kPreparing(1) -all Prepared-> kStarting(1)
//        -all Joined-> kRunning(1) -all Finished-> kEnding -all JobEnded-> kEnded
//
//   kStarting, kRunning (g) -a failure-> kPreparing(g')         train: survivors stay
//                           -a failure-> kDraining(g)           programs: all ranks are stopped
//                           first,
//                                                               or the lease of a lost node runs
//                                                               out
//   kPreparing (g)  -all Prepared, but it lacks memory-> kPreparing(g), and looks again; after
//                           kMemoryLooks narrower, if that fits and is not the first generation,
//                           else kEnding
//   kPreparing (g)  -a node lost or silent-> kPreparing(g')     a new number, the old claim is void
//   kDraining (g)   -all ranks gone-> kPreparing(g')
//   kRunning (g)    -OperatorStop-> kStopping(g) -all Finished-> kEnding
//   kStopping(g)    -failure, train job that has made a step-> kPreparing(g') and kStopping again
//                   -any other failure-> kEnding
//   kPreparing, kStarting, or a failure whose cause is not known yet, in a train job that has made
//   a step          -OperatorStop-> the recovery goes on; then kStopping: the ranks are asked to
//                           save and stop as soon as they have the new plan. Again: kEnding
//   kStopping(g), after a signal to a rank or an agent -the first OperatorStop-> nothing: they save
//   any other state -OperatorStop-> kEnding (nothing is lost: there was no step to save)
//   kPreparing, a program, node 0 cannot reserve the port of rank 0-> kEnding
//   kRunning (g)    -a rank of a program ends by TERM, INT, HUP, QUIT, USR1 or USR2 from outside->
//                           for cause_grace nothing: if an OperatorStop comes, the signal was sent
//                           to every process, and the rank's end belongs to the stop
//   kPreparing (g)  -all Prepared, but they have fewer slots than a replica needs-> kEnding
//   any state       -cannot go on-> kEnding. A train job's save that is written, or is being
//                           written, and can be committed yet, is waited for, for stop_grace at
//                           most, before the ranks are stopped
//
// g' > g: every attempt has a new number. Every state but kIdle, kRunning and kEnded has a
// deadline, so none waits for ever; in kRunning the ranks' own liveness is watched by the agents,
// the agents' by Tick. In kStarting a train job's ranks have join_timeout until all have connected;
// from then on each has limits of its own for loading, which its agent watches, and the deadline
// only backs them.
//
// Which messages count (everything else is dropped, and repeats are harmless):
//   any message             from a node that is not fenced, of the incarnation that said Opened
//   Prepared                of the generation being prepared
//   WorkerStarted           of the generation begun
//   WorkerExited            of the generation begun (its agent's, when the process ended): a
//                           failure. Of a process that had joined an older generation and not yet
//                           this one: still the last incident, a new number costs no restart.
//                           Of the generation that failed last: Begin has respawned the slot since;
//                           kept in the report only
//   WorkerReport            whose inner message is of the generation begun, and whose slot has a
//                           rank in it. ShardWritten and CommitDone carry the generation of their
//                           save and count whatever has begun since: save_ledger.h
//
// Invariants, which hold after every step; CheckInvariants looks (core_sampling.h says when):
//   - the generation number never falls; the plan in force has this number, no member on a lost
//     node, at most max_width replicas, its ranks in order of node, then slot
//   - kRunning: every rank has joined; kStarting, kRunning: not every rank has finished
//   - a state that waits has a deadline
//   - restarts within restart_window <= max_restarts; exactly one EndJob, and nothing after it
//   - a name of the rendezvous is answered at most once in a generation and group
//   - no save waits for a part that will never come, or for a committer that has ended
//
// Not thread-safe; the shell's one thread calls it. Copyable.
//
// What is durable, and what is not. A replay of the journalled events gives the durable state, the
// one that decides and that Digest covers. Heartbeats and progress are folded into Tick and not
// journalled, because they come hundreds of times a second and a coordinator that is started again
// asks anew: when a node was heard last, the highest step heard of, and the report's numbers that
// come from them are not durable. What would follow from them (a silent node, a deadline, progress
// that counts) comes out as Raise and is journalled itself. A Snapshot, on the other hand, is the
// whole state, so that the restored core goes on exactly as the one it was taken from.

#ifndef DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_H_
#define DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/operation_class.h"
#include "common/plan/memory_plan.h"
#include "common/topology/mesh.h"
#include "common/topology/process_group.h"
#include "launcher/coordinator/coordinator_state.h"
#include "launcher/coordinator/events.h"
#include "launcher/coordinator/generation_memory.h"
#include "launcher/coordinator/generation_planner.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// What the core must know of a job. Durations: see proto/job.proto, Limits.
struct CoordinatorConfig {
  struct Node {
    std::string host;
    std::vector<Slot> slots;  // ascending
  };
  std::string job_id;
  std::vector<Node> nodes;  // index = NodeId
  bool is_train = true;     // false: a user's program; nothing can be reassigned under it
  int64_t max_width = 0;    // train: the most replicas that a generation can have
  absl::Duration node_silent_after = absl::Seconds(3);
  absl::Duration lease = absl::Seconds(30);
  absl::Duration stop_grace = absl::Seconds(15);
  absl::Duration join_timeout = absl::Seconds(60);
  absl::Duration cause_grace = absl::Milliseconds(250);
  absl::Duration collective_timeout = absl::Seconds(10);
  // What connected ranks get for loading or initialising, and a stop for saving, committing and
  // pruning; the ranks' own limits for these (worker/engine/deadlines.h) are shorter.
  absl::Duration loading_timeout = absl::Minutes(40);
  absl::Duration saving_timeout = absl::Minutes(50);
  // Restarts of the last restart_window, or of the whole job if that is zero.
  int max_restarts = 100;
  absl::Duration restart_window = absl::Hours(24);
  int max_restarts_without_progress = 3;
  // Train: what its ranks' memory is planned from. Absent: no generation is checked for memory, as
  // where check_memory is false.
  std::optional<MemoryInput> memory;
  bool check_memory = true;
  bool goes_on = false;  // it was started from a checkpoint
};

// A generation that does not fit is asked for again so often before it is given up: memory of
// processes that were just killed, of this job or another, takes its time to come back.
inline constexpr int kMemoryLooks = 3;
inline constexpr absl::Duration kBetweenMemoryLooks = absl::Seconds(1);

// A generation that its ranks end by their own doing (an exit code, SIGSEGV, an endless loop) and
// that made no progress, a step or checkpoint beyond all before, counts towards
// max_restarts_without_progress; progress starts the count again. One that is ended from outside
// (kill -9, a stopped process, a lost node) says nothing about the program: such ends have their
// own, larger limit, and count only if the generation finished no step at all.
inline constexpr int kMostEndsFromOutside = 20;  // or max_restarts_without_progress, if larger

// Durations of `job.limits` that are not set get the defaults above. The two restart limits and a
// window that is set are taken as they are: 0 restarts is a wish, as is a window of 0; 0 restarts
// without progress means no such limit, nor that of ends from outside.
CoordinatorConfig ConfigFromJob(const proto::JobSpec& job);

// Of proto/snapshot.proto; grows with every change of it.
inline constexpr int kSnapshotSchemaVersion = 12;

class Coordinator {
 public:
  using State = CoordinatorState::Phase;

  explicit Coordinator(CoordinatorConfig config);

  // `now`: steady time, never less than at the call before.
  std::vector<Action> Step(absl::Duration now, const Event& event);

  State state() const { return s_.phase; }
  // The highest number claimed. 0 before the first.
  Generation generation() const { return s_.generation; }
  const CoordinatorConfig& config() const { return config_; }
  // Of the generation begun last: its ranks, and where they are. No members before the first.
  const proto::GenerationPlan& plan() const { return s_.plan; }
  // The whole state, as bytes (proto/snapshot.proto) without the config. Between two steps; equal
  // states have equal bytes.
  std::string Snapshot() const;
  // The core that `snapshot` was taken from: it does the same with the same events from here on.
  // `config`: that core's. Its times are those of the clock that was given to Step, so the next
  // `now` must come from the same clock, or from one that is never behind it.
  // Errors: FAILED_PRECONDITION: of another schema version. DATA_LOSS: no snapshot of such a job,
  // or one that breaks an invariant.
  static absl::StatusOr<Coordinator> Restore(CoordinatorConfig config, std::string_view snapshot);

  // As it stands; EndJob carries the final one.
  Report CurrentReport(absl::Duration now) const;

  // OK, or INTERNAL with the invariant that does not hold: our bug, the shell stops the job. Looks
  // at everything, as Digest does: whoever asks after every event samples (core_sampling.h).
  absl::Status CheckInvariants() const;
  // How much there is to look at: nodes, ranks, and what they have reported.
  size_t Size() const;
  // Equal as long as neither state, plan, nor membership changes.
  struct Milestone {
    State state = State::kIdle;
    int64_t claimed = 0;
    int64_t begun = 0;
    size_t live_nodes = 0;
    friend bool operator==(const Milestone&, const Milestone&) = default;
  };
  Milestone milestone() const {
    return {s_.phase, s_.generation.value(), s_.plan.generation(), s_.members.LiveCount()};
  }

  // A hash of the durable state: equal after a live run and after a replay of its journal.
  uint64_t Digest() const;
  // The state that Digest hashes, as text, for people: one fact a line.
  std::string DebugString() const;

 private:
  // ---- coordinator.cc: events
  void On(const Start& event);
  void On(const AgentSpoke& event);
  void On(const AgentGone& event);
  void On(const Tick& event);
  void On(const OperatorStop& event);
  void On(const OperatorSignal& event);
  void On(const NodeSilent& event);
  void On(const DeadlinePassed& event);
  void On(const ProgressMade& event);
  void OnOpened(NodeId node, const proto::AgentMessage& message);
  void OnPrepared(NodeId node, Generation generation, const proto::Prepared& prepared);
  bool TakeMasterPort(const proto::Prepared& prepared);
  void OnJobEnded(NodeId node);
  void StopRanks();
  // Ranks of a program that ended by a signal that asks for an end: they were stopped, too.
  void TakeSuspectsAsStopped();
  void EndIfStopped();
  std::string StoppedTooLate() const;
  void OnPhaseDeadline();
  void OnCauseDeadline();

  // ---- coordinator_ranks.cc: what ranks do in the generation begun
  void OnWorkerStarted(WorkerId worker, Generation generation);
  void OnWorkerExited(WorkerId worker, Generation generation, const proto::WorkerExited& exited);
  void OnTrainRankExited(Rank rank, const proto::WorkerExited& exited, Failure failure);
  void OnProgramRankExited(Rank rank, const proto::WorkerExited& exited, Failure failure);
  void OnOldExit(WorkerId worker, Generation generation, const proto::WorkerExited& exited);
  Failure ExitOf(WorkerId worker, std::optional<Rank> rank, Generation generation,
                 const proto::WorkerExited& exited);
  void AddLateFailure(Failure failure);
  void OnReport(WorkerId worker, const proto::WorkerMessage& message);
  void OnExchangePut(Rank rank, const proto::ExchangePut& put);
  void OnGroupPut(Rank rank, const proto::ExchangePut& put);
  // The group of that name in the generation begun; null where `rank` is not in it.
  const ProcessGroup* GroupOfMember(const std::string& name, Rank rank);
  void OnJoined(Rank rank, const proto::Joined& joined);
  void OnStepDone(Rank rank, const proto::StepDone& done);
  void OnFailed(Rank rank, const proto::Failed& failed);
  void OnFinished(Rank rank, const proto::Finished& finished);
  void OnStacks(Rank rank, const proto::Stacks& stacks);
  void OnNotice(WorkerId worker, std::optional<Rank> rank, const proto::Notice& notice);
  // Asks all ranks of the generation begun what they are doing, once.
  void TakeStacks();
  // The rank that the suspects waited for, if there is one.
  std::optional<Failure> MissedRank() const;
  // The deadline of kStarting: those whom the others wait for are killed.
  void LoseRanksThatDidNotJoin();
  void RankJoined(Rank rank);
  void RankFinished(Rank rank);
  // `rank` has said that only a new process helps.
  void Replace(Rank rank, Failure failure);

  // ---- coordinator_saves.cc
  void OnShardWritten(WorkerId worker, const proto::ShardWritten& written);
  void OnCommitDone(WorkerId worker, const proto::CommitDone& done);
  // A plan went out, to `ranks`.
  void SavesBegan(const std::vector<WorkerId>& ranks);
  void Perform(const SaveLedger::Effects& effects);
  void Perform(const SaveLedger::Granted& granted);
  void Perform(const SaveLedger::Dropped& dropped);
  void Perform(const SaveLedger::Committed& committed);
  bool WorkersAreEnded() const;
  void TellOutcome(SaveLedger::Id id, const std::string& manifest, const std::string& error,
                   int code);
  // To the nodes that have a rank in the generation begun.
  void SendToPlanned(proto::CoordinatorMessage message);

  // ---- coordinator_generation.cc: from one generation to the next, and to the end
  void Claim(std::string reason);
  // Or ends the job, where `nodes` hold no replica.
  void Begin(const std::vector<PlannedNode>& nodes);
  void EndForPlaces(const absl::Status& why);
  // Where processes live that have joined the generation begun, or one before it.
  std::set<WorkerId> Survivors() const;
  // Something failed; reports it, and ends the generation if it cannot go on.
  void Fail(Failure failure);
  // The same for what belongs to the incident that is being recovered from.
  void FailAgain(Failure failure);
  void FailWhileStopping(Failure failure);
  void RecordSuspects();
  // The same for nodes, which are fenced. `why`: by node.
  // `silent_for`: how long nothing had been heard of them, if that is why.
  void LoseNodes(const std::vector<NodeId>& nodes, const std::string& why,
                 absl::Duration silent_for = absl::ZeroDuration());
  void RecordNodeLost(NodeId node, const std::string& why, absl::Duration silent_for, bool needed);
  void NextGeneration();
  void NextTrainGeneration(const std::string& reason);
  // Why no further generation is tried, if it is so; counts the one that has just failed.
  std::optional<std::string> CrashLoopReason(const std::string& reason);
  void NextProgramGeneration(const std::string& reason);
  // Forgets the restarts that do not count any more.
  bool MayRestart();
  void CountRestart();
  std::string RestartsUsedUp() const;
  void DrainIfDone();
  bool HasUndrainedLiveNode() const;
  void LaunchFailed(Failure failure);
  void EndLaunch();
  void BeginEnding(int exit_code, std::string verdict, bool now);
  void EndEverywhere(bool now);
  void EndIfAllGone();
  void Finish();

  // ---- coordinator_memory.cc: what is begun must fit
  std::vector<PlannedNode> LiveNodes() const;
  void NoteMemory(NodeId node, const proto::NodeMemory& memory);
  // To what was heard of the generation's first rank that has met the end of memory: what takes it,
  // and what would fit.
  void AddMemoryWords(std::optional<Rank> rank, std::string& what);
  std::vector<PlannedNode> PlannedNodes() const;
  void SayWhoseMemoryIsUnknown();
  // REQUIRES: kPreparing, and every live node has prepared.
  void BeginIfItFits();
  void LookAgainForMemory();
  void EndForMemory(const MemoryAnswer& answer);

  void Enter(State state, absl::Duration deadline_after);
  void SetCauseDeadline();
  void KillWorker(WorkerId worker, const std::string& reason);
  using Body = std::shared_ptr<const proto::CoordinatorMessage>;
  static Body Shared(proto::CoordinatorMessage message);
  void SendTo(NodeId node, Generation generation, Body body);
  void SendTo(NodeId node, proto::CoordinatorMessage message);
  // One for all of them.
  void SendToLive(proto::CoordinatorMessage message);
  void StopWorkers(bool checkpoint_first);
  // Asks the ranks of the generation begun to save and stop. `joining`: they may still have to join
  // it; they remember the request.
  void StopAfterCheckpoint(bool joining);
  // All ranks of the generation begun have connected: what they do next is loading.
  bool AllConnected() const { return s_.rendezvous.Answered(kConnectedTable); }
  absl::Duration TimeToJoin() const;
  absl::Duration TimeToStop(bool joining) const;
  // A train job has made a step, so there is something to save: an operator's stop waits for it.
  bool HasMadeSteps() const { return config_.is_train && s_.high_step > 0; }
  void Emit(Action action) { actions_.push_back(std::move(action)); }
  void Notice(bool warning, std::string text);
  Failure NodeFailure(NodeId node, Failure::Kind kind, std::string what) const;
  std::string HostOf(NodeId node) const;
  int width() const { return s_.plan.members_size(); }
  bool AllRanksFinished() const { return width() > 0 && s_.finished.size() == AllRanks(); }
  size_t AllRanks() const { return static_cast<size_t>(width()); }
  bool HasUnfinishedRank(NodeId node) const;
  bool RanksRun() const { return s_.phase == State::kStarting || s_.phase == State::kRunning; }

  // Constant after construction.
  const CoordinatorConfig config_;

  CoordinatorState s_;
  // Found from s_.plan when it is asked for, so no part of a snapshot; Begin forgets it.
  struct Groups {
    std::optional<Mesh> mesh;
    std::map<std::string, ProcessGroup> by_name;
  };
  Groups groups_;
  // Of the step in progress.
  absl::Duration now_;
  std::vector<Action> actions_;
};

const char* StateName(Coordinator::State state);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_H_
