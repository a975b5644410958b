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
//   kPreparing (g)  -a node lost or silent-> kPreparing(g')     a new number, the old claim is void
//   kDraining (g)   -all ranks gone-> kPreparing(g')
//   kRunning (g)    -OperatorStop-> kStopping(g) -all Finished, or any failure-> kEnding
//   any other state -OperatorStop-> kEnding
//   any state       -cannot go on-> kEnding
//
// g' > g: every attempt has a new number. Every state but kIdle, kRunning and kEnded has a
// deadline, so none waits for ever; in kRunning the ranks' own liveness is watched by the agents,
// the agents' by Tick.
//
// Which messages count (everything else is dropped, and repeats are harmless):
//   any message             from a node that is not fenced, of the incarnation that said Opened
//   Prepared                of the generation being prepared
//   WorkerStarted           of the generation begun
//   WorkerExited            of the generation begun (its agent's, when the process ended): a
//                           failure. Older: Begin has respawned the slot since; kept as a
//                           consequence only
//   WorkerReport            whose inner message is of the generation begun, and whose slot has a
//                           rank in it; CheckpointCommitted also of older ones, if it is newer than
//                           the newest known (the manifest exists, whoever wrote it)
//
// Invariants, checked by CheckInvariants after every step:
//   - the generation number never falls; the plan in force has this number, no member on a lost
//     node, at most canonical_blocks members, in order of node, then slot
//   - kRunning: every rank has joined; kStarting, kRunning: not every rank has finished
//   - a state that waits has a deadline
//   - restarts <= max_restarts; exactly one EndJob, and nothing after it
//   - a name of the rendezvous is answered at most once in a generation
//
// Not thread-safe; the shell's one thread calls it. Copyable: a copy is a snapshot.

#ifndef DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_H_
#define DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "launcher/coordinator/events.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// What the core must know of a job. Durations: see proto/job.proto, Limits.
struct CoordinatorConfig {
  struct Node {
    std::string host;
    std::vector<Slot> slots;  // ascending
  };
  std::string job_id;
  std::vector<Node> nodes;       // index = NodeId
  bool is_train = true;          // false: a user's program; nothing can be reassigned under it
  int64_t canonical_blocks = 0;  // train: the widest a generation can be
  absl::Duration node_silent_after = absl::Seconds(3);
  absl::Duration lease = absl::Seconds(30);
  absl::Duration stop_grace = absl::Seconds(15);
  absl::Duration join_timeout = absl::Seconds(60);
  absl::Duration cause_grace = absl::Milliseconds(250);
  absl::Duration collective_timeout = absl::Seconds(10);
  int max_restarts = 100;
  int max_restarts_without_progress = 3;
};

// Fields of `job.limits` that are not set get the defaults above, max_restarts 0 for programs.
CoordinatorConfig ConfigFromJob(const proto::JobSpec& job);

class Coordinator {
 public:
  enum class State {
    kIdle,
    kOpening,
    kPreparing,
    kStarting,
    kRunning,
    kDraining,
    kStopping,
    kEnding,
    kEnded,
  };

  explicit Coordinator(CoordinatorConfig config);

  // `now`: steady time, never less than at the call before.
  std::vector<Action> Step(absl::Duration now, const Event& event);

  State state() const;
  Generation generation() const;
  const CoordinatorConfig& config() const;
  // As it stands; EndJob carries the final one.
  Report CurrentReport(absl::Duration now) const;

  // OK, or INTERNAL with the invariant that does not hold: our bug, the shell stops the job.
  absl::Status CheckInvariants() const;

  // A hash of the durable state: equal after a live run and after a replay of its journal.
  uint64_t Digest() const;
  // The state that Digest hashes, as text, for people: one fact a line.
  std::string DebugString() const;
};

const char* StateName(Coordinator::State state);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_H_
