// Everything that goes into the coordinator core and everything that comes out of it. Values only.
//
// The wire's own messages (proto::AgentMessage, proto::CoordinatorMessage) are used as they are:
// they are plain values, the shell stays thin, and there is one vocabulary instead of two that must
// be kept equal. No RPC type comes in with them.
//
// The shell, for every event, in the order in which events came:
//
//   1. actions = coordinator.Step(now, event)
//   2. IsDurable(event): append it to the journal and wait until it is on disk (several events may
//      share one commit)
//   3. perform the actions, in order. A Raise goes through 1 to 3 before any other waiting event.
//
// So nothing leaves before the event that caused it is durable: no agent can have heard of a
// generation that a coordinator restarted from the journal does not know of. Sends to different
// agents may go out in parallel, those to one agent in order. Tell and FenceNode need not wait for
// the disk.

#ifndef DSRUN_LAUNCHER_COORDINATOR_EVENTS_H_
#define DSRUN_LAUNCHER_COORDINATOR_EVENTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "launcher/coordinator/report.h"
#include "proto/agent.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

// ---- Events

// The first event. Answered by OpenAgent for every node.
struct Start {};

// A message on an agent's stream, except AgentHeartbeat (folded into Tick) and LogChunk (for the
// console only); both would be ignored.
struct AgentSpoke {
  NodeId node;
  proto::AgentMessage message;
};

// The stream of a node's agent ended, or there never was one: it could not be reached or started,
// or it refused the job. Exactly once for every OpenAgent that was not fenced before.
struct AgentGone {
  NodeId node;
  absl::Status why;
};

// Time passes; every 20 to 100 ms. `heard_from`: nodes of which any message, heartbeats included,
// came since the last tick. Never changes durable state itself: what is due comes out as Raise.
struct Tick {
  std::vector<NodeId> heard_from;
};

// Ctrl-C or SIGTERM at dsrun. The second one means "now".
struct OperatorStop {};

// A signal that the operator sent to dsrun and that is meant for the ranks of a program (USR1,
// USR2). Changes no state.
struct OperatorSignal {
  int signal = 0;
};

// Raised by the core, never invented by the shell: decisions that rest on time or on progress, made
// into events so that a replay, which has no ticks, decides the same.
struct NodeSilent {
  NodeId node;
};
struct DeadlinePassed {
  enum class Kind {
    kPhase = 1,  // the current state has lasted too long
    kCause = 2,  // nobody told the cause of what a rank reported
  };
  Kind kind = Kind::kPhase;
  Generation generation;
  uint64_t number = 0;  // which deadline; one that has been set anew since is ignored
};
// The generation finished its first step beyond everything finished before it.
struct ProgressMade {
  Generation generation;
  int64_t step = 0;
};

using Event = std::variant<Start, AgentSpoke, AgentGone, Tick, OperatorStop, OperatorSignal,
                           NodeSilent, DeadlinePassed, ProgressMade>;

// Whether the event may change durable state and must be journalled before its actions are
// performed. Not durable: ticks, heartbeats, log output, notices, progress (StepDone), signals that
// are only passed on.
bool IsDurable(const Event& event);

// ---- What the operator is told, on the console and in metrics

struct AgentsOpened {
  int nodes = 0;
  int slots = 0;
};
struct GenerationStarted {  // the plan went out
  Generation generation;
  std::vector<WorkerId> ranks;  // index = rank
  std::string reason;           // "first start", or why the one before ended
  int width() const { return static_cast<int>(ranks.size()); }
};
struct GenerationRunning {  // all ranks have joined
  Generation generation;
  int64_t from_step = 0;
  std::string loaded_from;  // manifest; empty: fresh initialisation
};
struct Progress {  // rank 0 finished a step
  Generation generation;
  proto::StepDone done;
};
struct CheckpointDone {
  Generation generation;
  int64_t step = 0;
  std::string manifest;
  double seconds = 0;
};
struct Lost {  // something failed
  Failure failure;
};
struct Recovered {  // the first step finished after a failure
  Generation generation;
  absl::Duration since_failure;
  int64_t next_step = 0;
  int64_t lost_steps = 0;
};
struct NoticeText {
  bool warning = false;
  std::string text;
  std::optional<WorkerId> from;  // absent: the coordinator itself
  std::optional<Rank> rank;
};
struct Sample {  // the continuation of the prompt
  std::string text;
};
using OperatorEvent = std::variant<AgentsOpened, GenerationStarted, GenerationRunning, Progress,
                                   CheckpointDone, Lost, Recovered, NoticeText, Sample>;

// ---- Actions

// Make sure the node's agent runs, open its stream, send proto::Open (the shell fills in keys, job
// and probe). The answer is AgentSpoke(Opened) or AgentGone.
struct OpenAgent {
  NodeId node;
};
// In two parts: what is the node's own (job, incarnation, generation), and what is said. The latter
// may name every rank of the job, so all nodes that are told the same share one.
struct SendToAgent {
  NodeId node;
  proto::CoordinatorMessage head;
  std::shared_ptr<const proto::CoordinatorMessage> body;  // never null
  // As the agent gets it.
  proto::CoordinatorMessage Message() const;
};
// Cancel the stream (or the attempt to open it); nothing from this node is heard again, also no
// AgentGone. An agent of our own is killed.
struct FenceNode {
  NodeId node;
  std::string reason;
};
struct Tell {
  OperatorEvent event;
};
// Step this event next, before any other that waits.
struct Raise {
  std::variant<NodeSilent, DeadlinePassed, ProgressMade> event;
};
// The last action: close everything and return this exit code.
struct EndJob {
  int exit_code = 0;
  Report report;
};

using Action = std::variant<OpenAgent, SendToAgent, FenceNode, Tell, Raise, EndJob>;

// Exit codes of dsrun (docs/errors.md); a rank's own code and 128 + signal are passed on as they
// are.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUnreachable = 91;
inline constexpr int kExitPreflight = 92;
inline constexpr int kExitNoProgress = 93;
inline constexpr int kExitRestartsExhausted = 94;
inline constexpr int kExitNoNodesLeft = 95;
inline constexpr int kExitCancelled = 96;
inline constexpr int kExitOutputLost = 99;  // of dsrun itself, in place of kExitOk

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_EVENTS_H_
