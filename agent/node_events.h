// What the core of an agent hears and what it wants done: plain data, no behaviour. The shell
// (supervisor.h) and the simulation speak this vocabulary; nothing here knows processes, sockets or
// clocks.
//
// A slot holds at most one process at a time: the core asks for a new one only after WorkerEnded or
// WorkerCannotEnd of the old one, so a slot names a process without ambiguity. The shell must
// deliver, for each SpawnWorker, exactly one WorkerSpawned or WorkerSpawnFailed, and after
// WorkerSpawned exactly one WorkerEnded or WorkerCannotEnd, in this order. Of a process that cannot
// end nothing is told any more but, once, LeftoverEnded, if it ends before the job.

#ifndef DSRUN_AGENT_NODE_EVENTS_H_
#define DSRUN_AGENT_NODE_EVENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "proto/agent.pb.h"
#include "proto/job.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::agent {

// ---- Events

// A message of the coordinator. The first is `open`, already admitted by the shell: key, user and
// save folder are checked there.
struct CoordinatorReceived {
  proto::CoordinatorMessage message;
};
// The coordinator's stream is over; nothing can be sent to it any more. Never resumed.
struct CoordinatorGone {
  std::string why;
};
struct WorkerSpawned {
  Slot slot;
  int32_t pid = 0;
};
// No process came into being. `exit_code` is what a shell would say: 127 not found, 126 otherwise.
// `node_lacked`: for want of something of the node's (descriptors, processes, memory, the answer of
// a disk), which is no fault of the rank's.
struct WorkerSpawnFailed {
  Slot slot;
  int32_t exit_code = 126;
  std::string why;
  bool node_lacked = false;
};
// The process has ended and is reaped.
struct WorkerEnded {
  Slot slot;
  int32_t exit_code = 0;    // when it exited
  int32_t term_signal = 0;  // when a signal ended it, else 0
  bool core_dumped = false;
  std::vector<std::string> last_lines;  // of its log, at most 20
  absl::Time wall_time;                 // when, for people
  absl::Duration steady_time;           // the same moment on this agent's steady clock
  std::string cause = {};               // of its signal, as far as it is known; else empty
};
// The process is dead, and does not end: a thread of it waits in the kernel for a disk that does
// not answer (common/base/dying_process.h). No code of it runs any more, so nothing that it still
// holds can do harm; its descriptors stay open and its memory stays held.
struct WorkerCannotEnd {
  WorkerEnded end;    // as good as the kernel tells; the moment is when it was seen first
  std::string cause;  // for people: why it does not end, as the end of a sentence
  std::string words;  // the same with all that is known: which process waits in what
};
// A process that could not end has ended, and is reaped. Its slot may have another by now.
struct LeftoverEnded {
  Slot slot;
  int32_t pid = 0;
  absl::Duration after;  // since it was seen dying
};
// The worker in `slot` has opened its session and proved the job's token. A second hello from a
// slot replaces the first session (the shell closes the older stream).
struct WorkerHello {
  Slot slot;
  Incarnation incarnation;
};
// Any later message of that session.
struct WorkerReceived {
  Slot slot;
  proto::WorkerMessage message;
};
struct WorkerSessionClosed {
  Slot slot;
  Incarnation incarnation;
};
// What the kernel says of a worker's process: the answer to InspectWorker.
struct WorkerInspected {
  Slot slot;
  char state = '?';          // of /proc/PID/stat: R, S, D, T (stopped), t (traced) ...
  std::string wait_channel;  // where it sleeps in the kernel; empty: not known
};
// The answer to ReservePort.
struct PortReserved {
  Generation generation;
  int32_t port = 0;
  std::string error;  // why there is none
};
// The answer to ClearNode.
struct NodeCleared {
  Generation generation;
  std::string left;  // for people: what is still there; empty: nothing
};
// The machine was suspended for so long, in which steady time stood still. Told before anything
// else that is heard after it.
struct Slept {
  absl::Duration time;
};
// The keeper is dead: nobody would clean up after us.
struct KeeperGone {};
// A signal that asks for an end (TERM, INT, HUP, QUIT, USR1, USR2) has reached the agent or its
// keeper, and not from whoever decides.
struct AskedToStop {
  int signal = 0;
};
// Time has passed; at least every heartbeat_interval / 2.
struct Tick {};

using NodeEvent = std::variant<CoordinatorReceived, CoordinatorGone, WorkerSpawned,
                               WorkerSpawnFailed, WorkerEnded, WorkerCannotEnd, LeftoverEnded,
                               WorkerHello, WorkerReceived, WorkerSessionClosed, WorkerInspected,
                               PortReserved, NodeCleared, Slept, KeeperGone, AskedToStop, Tick>;

// ---- Actions, to be performed in the order given

// Start the process of `slot`. A dsworker gets the plan later through its session; a program gets
// it as environment variables, now.
struct SpawnWorker {
  Slot slot;
  Rank rank;
  proto::GenerationPlan plan;
};
// Reserve the port of a program's rank 0 (port_lease.h): the job's, if it names one, else another
// than that of the generation before. Held until the next is reserved, or the job is over here.
// Answered by PortReserved.
struct ReservePort {
  Generation generation;
};
// Look what state the kernel says its process is in; answered by WorkerInspected.
struct InspectWorker {
  Slot slot;
};
// SIGKILL to the process group, now.
struct KillWorker {
  Slot slot;
  std::string reason;
};
// SIGTERM to all these groups now, SIGKILL to what is left after one common grace.
struct StopLadder {
  std::vector<Slot> slots;
  absl::Duration grace;
};
// This signal to all these groups.
struct SignalWorkers {
  std::vector<Slot> slots;
  int signal = 0;
};
struct SendToCoordinator {
  proto::AgentMessage message;
};
struct SendToWorker {
  Slot slot;
  proto::HostMessage message;
};
// Kill processes that outlived their worker: those that the last process of `slot` left behind, or
// everything of this job when there is no slot.
struct SweepOrphans {
  std::optional<Slot> slot;
};
// Kill everything that is still below this agent, whatever it did to get lost: no slot has a
// process now. Answered by NodeCleared of the same generation.
struct ClearNode {
  Generation generation;
};
// The process of `slot` will be reaped whenever it ends, and the slot is free: KILL to its group,
// so that nothing but the end is left for it to do, its session is closed, and processes that it
// left behind are killed. Its memory is not the job's to count on.
struct LeaveBehind {
  Slot slot;
};
// Every worker is gone, the job is over on this node; always the last action of a core's life. The
// coordinator's stream is closed after what was sent. `abandoned`: not by EndJob (lease, keeper).
struct JobOver {
  std::string reason;
  bool abandoned = false;
};

using NodeAction =
    std::variant<SpawnWorker, ReservePort, InspectWorker, KillWorker, StopLadder, SignalWorkers,
                 SendToCoordinator, SendToWorker, SweepOrphans, ClearNode, LeaveBehind, JobOver>;

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_NODE_EVENTS_H_
