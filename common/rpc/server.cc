#include "common/rpc/server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/message_size.h"
#include "common/base/status_macros.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/loopback.h"

namespace dsrun {
namespace {

// Clients of channel.h ask every 10 s; the default server takes that for abuse.
constexpr int kMinPingIntervalMs = 5'000;
constexpr auto kFarewell = std::chrono::milliseconds(500);

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const std::string& address, const std::vector<grpc::Service*>& services) {
  RETURN_IF_ERROR(CheckLoopbackTarget(address)) << "cannot listen";
  TakeGrpcLog();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  // With it two servers would share a port and each get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || (port == 0 && address.rfind("unix:", 0) != 0)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address,
                     ": the port is in use or the address is not one of this machine; try port 0"));
  }
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(server), port));
}

RpcServer::RpcServer(std::unique_ptr<grpc::Server> server, int port)
    : server_(std::move(server)), port_(port) {}

RpcServer::~RpcServer() {
  // Calls that are closing get this long to send what is queued; the others are cancelled then.
  server_->Shutdown(std::chrono::system_clock::now() + kFarewell);
  server_->Wait();
}

}  // namespace dsrun
