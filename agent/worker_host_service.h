// The WorkerHost service (proto/agent_service.proto) behind the workers' door (worker_door.h): an
// adapter between the sessions of this node's workers and the supervisor of the job that runs here.
// Which process a session is from says its ticket, as the kernel told the door. Thread-safe.

#ifndef DSRUN_AGENT_WORKER_HOST_SERVICE_H_
#define DSRUN_AGENT_WORKER_HOST_SERVICE_H_

#include "agent/agent_node.h"
#include "common/rpc/guest_list.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun::agent {

class WorkerHostService : public proto::WorkerHost::CallbackService {
 public:
  // Both must outlive the server that this service is registered with.
  WorkerHostService(AgentNode* node, GuestList* guests) : node_(node), guests_(guests) {}

  grpc::ServerBidiReactor<proto::WorkerMessage, proto::HostMessage>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  AgentNode* const node_;
  GuestList* const guests_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_WORKER_HOST_SERVICE_H_
