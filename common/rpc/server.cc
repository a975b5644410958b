#include "common/rpc/server.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>

#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "common/base/message_size.h"
#include "common/rpc/grpc_log.h"

namespace dsrun {
namespace {

// Clients of channel.h ask every 10 s; the default server takes that for abuse.
constexpr int kMinPingIntervalMs = 5'000;
// One is what a connection is for; the second is refused in words by whoever claims its ticket.
constexpr int kMaxStreams = 2;
constexpr auto kFarewell = std::chrono::milliseconds(500);

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const std::vector<grpc::Service*>& services) {
  TakeGrpcLog();
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::InternalError("gRPC's server does not start");
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(server)));
}

RpcServer::RpcServer(std::unique_ptr<grpc::Server> server) : server_(std::move(server)) {}

void RpcServer::Adopt(Descriptor connection) {
  grpc::AddInsecureChannelFromFd(server_.get(), connection.Release());
}

RpcServer::~RpcServer() { Shutdown(); }

void RpcServer::Shutdown() {
  // Calls that are closing get this long to send what is queued; the others are cancelled then.
  server_->Shutdown(std::chrono::system_clock::now() + kFarewell);
  server_->Wait();
}

}  // namespace dsrun
