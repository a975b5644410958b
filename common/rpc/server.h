// Server side: services without a port. Connections come from doors (door.h), which have made sure
// of who is there; nothing of gRPC can be reached before that.
//
// Thread-safe. Destruction cancels calls that are still open and waits for their handlers.

#ifndef DSRUN_COMMON_RPC_SERVER_H_
#define DSRUN_COMMON_RPC_SERVER_H_

#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/descriptor.h"

namespace dsrun {

class RpcServer {
 public:
  // `services` are borrowed and must outlive the server. Errors: INTERNAL: gRPC does not start.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const std::vector<grpc::Service*>& services);
  ~RpcServer();

  // Serves one connected socket that does not block, for as long as it lives.
  void Adopt(Descriptor connection);

  // Cancels calls that are still open and waits for their handlers. What is adopted from now on is
  // closed at once.
  void Shutdown();

 private:
  explicit RpcServer(std::unique_ptr<grpc::Server> server);

  std::unique_ptr<grpc::Server> server_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_SERVER_H_
