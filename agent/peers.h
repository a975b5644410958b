// The two kinds of stream that a supervisor talks into, as interfaces: transport stays in the
// services. Sending never blocks and never fails visibly; a broken stream is told to the supervisor
// as an event.

#ifndef DSRUN_AGENT_PEERS_H_
#define DSRUN_AGENT_PEERS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "proto/agent.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::agent {

// Thread-safe.
class CoordinatorPeer {
 public:
  virtual ~CoordinatorPeer() = default;
  virtual void Send(proto::AgentMessage message) = 0;
  // Bulk that may be refused: false, and nothing sent, while too much of it is waiting already.
  virtual bool TrySendBulk(proto::AgentMessage message) = 0;
  // Ends the stream when everything sent is out.
  virtual void Close(absl::Status status) = 0;
};

// Thread-safe.
class WorkerPeer {
 public:
  virtual ~WorkerPeer() = default;
  virtual void Send(proto::HostMessage message) = 0;
  virtual void Close(absl::Status status) = 0;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_PEERS_H_
