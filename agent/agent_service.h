// The Agent service (proto/agent_service.proto) behind the coordinator's door: an adapter between a
// stream and AgentNode. A call shows the ticket of its connection, which the door gave to one that
// has proven itself; without one nothing is read. Thread-safe.
//
// It takes the bytes of messages and decodes them itself: one that cannot be decoded ends the
// stream with DATA_LOSS, which says so on both sides.

#ifndef DSRUN_AGENT_AGENT_SERVICE_H_
#define DSRUN_AGENT_AGENT_SERVICE_H_

#include "agent/agent_node.h"
#include "common/rpc/guest_list.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun::agent {

class AgentService : public proto::Agent::WithRawCallbackMethod_Session<proto::Agent::Service> {
 public:
  // Both must outlive the server that this service is registered with.
  AgentService(AgentNode* node, GuestList* guests) : node_(node), guests_(guests) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  AgentNode* const node_;
  GuestList* const guests_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_AGENT_SERVICE_H_
