// Runner: the thin shell around the coordinator core. It queues events, and one thread, the one
// that calls Run, takes them in order: Step, make durable, perform the actions (events.h says why
// in this order). Nothing is performed under a lock; callbacks of sessions only queue.
//
//   Runner runner(coordinator, doors, options);
//   RunResult result = runner.Run();       // until the core says EndJob
//   runner.Post(OperatorStop{});           // from any thread, meanwhile
//
// Heartbeats of agents are not events: whoever was heard from is folded into the next Tick. They
// are heard by the sessions' threads, however busy Run's thread is; and a busy one looks at the
// clock after every event, ticks and sends heartbeats between two events, so that its work passes
// as time in which everybody could be heard. Only time in which it did not get to the next event
// (stopped, swapped out, one long step) is a gap, after which the core's clock moves on by
// Options::longest_gap only, so that what lies unread in our sockets is heard before its sender is
// called silent.
//
// The journal may fail (a full disk) or not answer (a hung one). The job goes on without it: what
// happens is recorded all the same, whoever keeps the journal (journal_keeper.h) writes it when
// that is possible again, and the operator hears of the beginning and the end of such a time.

#ifndef DSRUN_LAUNCHER_SHELL_RUNNER_H_
#define DSRUN_LAUNCHER_SHELL_RUNNER_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/heartbeat.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/core_sampling.h"
#include "launcher/coordinator/events.h"
#include "launcher/shell/agent_client.h"
#include "launcher/shell/ask_pool.h"
#include "launcher/shell/node_clocks.h"
#include "launcher/starters/agent_starter.h"
#include "proto/agent.pb.h"

namespace dsrun::launcher {

struct RunResult {
  int exit_code = 0;
  Report report;
  // Of the core's clock, at the end: turns the report's steady times into wall time.
  absl::Duration steady_at_end;
  absl::Time wall_at_end;
};

class Runner {
 public:
  // Everything the shell acts through. All of it outlives the Runner.
  struct Doors {
    Clock* clock = nullptr;
    AgentClient* client = nullptr;
    // The starter of a node's agent.
    std::function<AgentStarter&(NodeId)> starter;
    // Takes an event down; `core`: after it. `commit` makes all that was taken down durable, within
    // a bound of its own; an error says that it is not, and `commit` is asked again at every tick
    // until it is. `announces`: a generation is about to be announced to agents, so that this one
    // is worth another try and its wait. Both called by Run's thread.
    std::function<void(absl::Duration now, const Event& event, const Coordinator& core)> record;
    std::function<absl::Status(bool announces)> commit;
    // For the operator; must not block. `tell` is called by Run's thread, `output` by others.
    std::function<void(const OperatorEvent&)> tell;
    std::function<void(NodeId, const proto::LogChunk&)> output;
  };
  struct Options {
    proto::JobSpec job;
    std::string job_token;  // secret
    std::string probe_content;
    std::string probe_path;
    absl::Duration heartbeat_interval = kDefaultHeartbeatInterval;
    absl::Duration tick_interval = absl::Milliseconds(50);
    absl::Duration longest_gap = absl::Milliseconds(500);
    // For agents of our own, from TERM to KILL. They have nothing to save: the ranks had their own
    // grace before.
    absl::Duration agent_grace = absl::Seconds(5);
    // From the end of a stream to the end of the agent's process, which says more. Less than the
    // core's cause_grace: meanwhile other ranks complain of their lost peer.
    absl::Duration end_words_within = absl::Milliseconds(150);
    // Agents that are started, or asked how they ended, at the same time.
    size_t most_asked_at_once = 64;
  };

  Runner(Coordinator coordinator, Doors doors, Options options);
  // Ends all sessions. Waits for the starts that are under way: with their starter's EndAll first
  // that is a moment, else as long as AgentStarter::Start takes.
  ~Runner();

  // Drives the job from Start to EndJob. When the core breaks an invariant, the agents are told to
  // end the job and the exit code is 1. REQUIRES: called once.
  RunResult Run();

  // No agent is spoken to any more. Run has returned. The destructor does it, too.
  void EndSessions();

  // Thread-safe.
  void Post(Event event);

 private:
  // An agent listens: the next step of opening it, back on Run's thread.
  struct AgentListens {
    NodeId node;
    AgentEndpoint endpoint;
  };
  // An agent's stream has ended: its starter is asked how, and AgentGone follows.
  struct StreamEnded {
    NodeId node;
    absl::Status why;
  };
  using Item = std::variant<Event, AgentListens, StreamEnded>;
  struct Link {
    std::unique_ptr<AgentSession> session;
    uint64_t incarnation = 0;
    bool over = false;    // the stream has ended
    bool fenced = false;  // nothing of it is heard any more
  };

  void PostItem(Item item);
  std::deque<Item> TakeItems(absl::Duration longest_wait);
  void AdvanceTime();
  void HandleBatch(std::deque<Item> items);
  // Makes durable what was recorded, then performs and clears `actions`.
  void Flush(std::vector<Action>& actions);
  void HandleTimers();
  // Steps `event` and all events it raises; appends what is to be performed.
  void StepInto(const Event& event, std::vector<Action>& actions);
  void CheckCore(const Event& event);
  void JournalIs(const absl::Status& status);
  bool Heard(const Event& event);

  void Perform(Action action);
  void Do(const OpenAgent& action);
  void Do(SendToAgent&& action);
  void Do(const FenceNode& action);
  void Do(const Tell& action);
  void Do(const Raise& action);
  void Do(EndJob&& action);
  void OpenSession(const AgentListens& listens);
  void AskHowItEnded(const StreamEnded& ended);
  // Without the job, which is open_rest_.
  proto::CoordinatorMessage OpenMessage(NodeId node) const;
  void SendHeartbeats();
  // The core is broken: end the job without it.
  void StopWithoutCore();

  // Constant after construction.
  const Doors doors_;
  const Options options_;
  const std::shared_ptr<const std::string> open_rest_;  // of every agent's Open: the job

  // Run's thread only.
  Coordinator coordinator_;
  std::map<NodeId, Link> links_;
  absl::Duration now_;  // the core's clock
  SteadyTime real_now_;
  absl::Duration next_tick_;
  absl::Duration next_heartbeat_;
  // Of what several agents are told alike, one behind the other: its bytes.
  std::shared_ptr<const proto::CoordinatorMessage> told_;
  std::shared_ptr<const std::string> told_bytes_;
  bool uncommitted_ = false;
  bool journal_is_behind_ = false;
  SampledInvariants invariants_;
  absl::Status broken_;  // an invariant that does not hold
  std::optional<RunResult> result_;

  // Their threads ask starters, which block. Apart, because a node's end is told in a moment.
  AskPool starts_;
  AskPool ends_;

  Mutex mu_;
  CondVar arrived_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mu_);
  std::set<NodeId> heard_ ABSL_GUARDED_BY(mu_);
  NodeClocks clocks_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_RUNNER_H_
