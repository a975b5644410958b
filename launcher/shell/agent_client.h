// AgentClient: the launcher's door to agents. One AgentSession is one bidirectional stream to one
// agent, for the life of the job; a broken one is never resumed (proto/agent.proto).
//
//   auto session = client.Open(endpoint, open_message, rest, {on_message, on_end});
//   session->Send(prepare);
//   session->Cancel();
//
// Threads: every method may be called from any thread and returns at once. The callbacks of one
// session come from threads of the implementation, one at a time; they must not block (they are
// what keeps the stream flowing) and must not destroy the session.

#ifndef DSRUN_LAUNCHER_SHELL_AGENT_CLIENT_H_
#define DSRUN_LAUNCHER_SHELL_AGENT_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "launcher/starters/agent_starter.h"
#include "proto/agent.pb.h"

namespace dsrun::launcher {

class AgentSession {
 public:
  // Cancels what still runs and waits until no callback runs any more.
  virtual ~AgentSession() = default;

  // Queues `message`, merged with the one whose bytes `rest` are (null: none): what many agents are
  // told alike is serialised once, and shared. Messages go out in the order of the calls. Dropped
  // once the stream is over.
  virtual void Send(proto::CoordinatorMessage message, std::shared_ptr<const std::string> rest) = 0;
  void Send(proto::CoordinatorMessage message) { Send(std::move(message), nullptr); }

  // Ends the stream now. on_end follows, unless it came already.
  virtual void Cancel() = 0;
};

class AgentClient {
 public:
  struct Listener {
    std::function<void(proto::AgentMessage)> on_message;
    // Exactly once, after the last on_message. The status says why, with the address in it:
    // UNAVAILABLE: the connection broke. UNAUTHENTICATED,
    // RESOURCE_EXHAUSTED, FAILED_PRECONDITION, INVALID_ARGUMENT: the agent's own refusal
    // (proto/agent_service.proto). CANCELLED: our Cancel(). OK: the agent closed the stream.
    std::function<void(absl::Status)> on_end;
  };

  virtual ~AgentClient() = default;

  // Takes the endpoint's connection and sends `first` and `rest` over it, as AgentSession::Send
  // would. What fails comes through on_end.
  virtual std::unique_ptr<AgentSession> Open(const AgentEndpoint& endpoint,
                                             proto::CoordinatorMessage first,
                                             std::shared_ptr<const std::string> rest,
                                             Listener listener) = 0;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_AGENT_CLIENT_H_
