// Server side: one listening port, on loopback or a unix socket only.
//
// Thread-safe. Destruction cancels calls that are still open and waits for their handlers.

#ifndef DSRUN_COMMON_RPC_SERVER_H_
#define DSRUN_COMMON_RPC_SERVER_H_

#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun {

class RpcServer {
 public:
  // `address`: "127.0.0.1:0" (the kernel picks a port) or "unix:/path". `services` are borrowed and
  // must outlive the server.
  // Errors: FAILED_PRECONDITION: off loopback. UNAVAILABLE: the port or path is in use, or the
  // address is not one of this machine.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const std::string& address, const std::vector<grpc::Service*>& services);
  ~RpcServer();

  // 0 for a unix socket.
  int port() const { return port_; }

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, int port);

  std::unique_ptr<grpc::Server> server_;
  const int port_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_SERVER_H_
