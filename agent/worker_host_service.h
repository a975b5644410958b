// The WorkerHost service (proto/agent_service.proto) on the unix socket: an adapter between the
// sessions of this node's workers and the supervisor of the job that runs here. Thread-safe.

#ifndef DSRUN_AGENT_WORKER_HOST_SERVICE_H_
#define DSRUN_AGENT_WORKER_HOST_SERVICE_H_

#include "agent/agent_node.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun::agent {

class WorkerHostService : public proto::WorkerHost::CallbackService {
 public:
  // `node` must outlive the server that this service is registered with.
  explicit WorkerHostService(AgentNode* node) : node_(node) {}

  grpc::ServerBidiReactor<proto::WorkerMessage, proto::HostMessage>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  AgentNode* const node_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_WORKER_HOST_SERVICE_H_
