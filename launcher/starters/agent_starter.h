// AgentStarter: makes sure that a node's agent answers, and ends what it started. Where agents come
// from (a child of ours, one that runs already; later ssh, Slurm) is decided here and nowhere else.
// So is how they are called and how they prove themselves: what Start returns is a connection to an
// agent that has, and nothing of the job is said before.
//
// Thread-safe: Start runs for all nodes at once, each in a thread of its own.

#ifndef DSRUN_LAUNCHER_STARTERS_AGENT_STARTER_H_
#define DSRUN_LAUNCHER_STARTERS_AGENT_STARTER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/rpc/dial.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

struct AgentEndpoint {
  std::string target;  // for messages: "127.0.0.2:4711", "unix:/path"
  // Both sides are proven. Whoever opens the session takes it out.
  std::shared_ptr<Connection> connection;
};

class AgentStarter {
 public:
  // Ends what is still there, as End would do with no grace.
  virtual ~AgentStarter() = default;

  // Blocks until the agent of `node` has proven itself, a few seconds at most. REQUIRES: once per
  // node. Errors: UNAVAILABLE: it could not be started or reached; the text names host, address,
  // how it was tried and what to do. UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT: somebody
  // listens there and is not our agent, or does not want us (common/rpc/dial.h). CANCELLED: End or
  // EndAll came first.
  virtual absl::StatusOr<AgentEndpoint> Start(NodeId id, const proto::NodeSpec& node) = 0;

  // The node is given up: its agent is ended if it is ours (asked, then killed after `grace`), left
  // alone if not. Does not block.
  virtual void End(NodeId id, absl::Duration grace) = 0;

  // The same for all nodes; returns when all agents of our own are ended and reaped.
  virtual void EndAll(absl::Duration grace) = 0;

  // How the agent of `id` ended, in words that go on from "its agent is gone: ", for an agent of
  // our own. Waits for its end, `limit` at most. Empty: it lives, is not ours, or its end says
  // nothing.
  virtual std::string HowItEnded(NodeId id, absl::Duration limit) = 0;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_STARTERS_AGENT_STARTER_H_
