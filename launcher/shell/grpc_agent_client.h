// GrpcAgentClient: AgentClient over gRPC, on the connection that a starter has made and proven. One
// channel per agent: agents share nothing, so one bad connection cannot hold up another's messages.
//
// There is no deadline on the stream (it lives as long as the job): the coordinator judges an
// unanswered Open by its own deadline and silence by heartbeats, and keepalive (common/rpc/channel)
// ends a stream whose peer has vanished without a word.

#ifndef DSRUN_LAUNCHER_SHELL_GRPC_AGENT_CLIENT_H_
#define DSRUN_LAUNCHER_SHELL_GRPC_AGENT_CLIENT_H_

#include <memory>
#include <string>

#include "launcher/shell/agent_client.h"

namespace dsrun::launcher {

class GrpcAgentClient : public AgentClient {
 public:
  std::unique_ptr<AgentSession> Open(const AgentEndpoint& endpoint, proto::CoordinatorMessage first,
                                     std::shared_ptr<const std::string> rest,
                                     Listener listener) override;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_GRPC_AGENT_CLIENT_H_
