// The Agent service (proto/agent_service.proto) on the TCP port: an adapter between a stream and
// AgentNode. Thread-safe.
//
// It takes the bytes of messages and decodes them itself: one that cannot be decoded ends the
// stream with DATA_LOSS, which says so on both sides.

#ifndef DSRUN_AGENT_AGENT_SERVICE_H_
#define DSRUN_AGENT_AGENT_SERVICE_H_

#include "agent/agent_node.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun::agent {

class AgentService : public proto::Agent::WithRawCallbackMethod_Session<proto::Agent::Service> {
 public:
  // `node` must outlive the server that this service is registered with.
  explicit AgentService(AgentNode* node) : node_(node) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  AgentNode* const node_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_AGENT_SERVICE_H_
