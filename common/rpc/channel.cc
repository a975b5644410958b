#include "common/rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/message_size.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/loopback.h"

namespace dsrun {
namespace {

constexpr int kKeepaliveMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kConnectMs = 5'000;  // one attempt; a port that accepts may never answer

std::chrono::system_clock::time_point In(absl::Duration limit) {
  return std::chrono::system_clock::now() + ChronoNanoseconds(limit);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& target) {
  RETURN_IF_ERROR(CheckLoopbackTarget(target)) << "cannot call";
  TakeGrpcLog();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Despite its name it is also the time that an attempt to connect gets.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  // A proxy set in the environment has no business between us.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Channels with equal arguments would share one connection, and one fate.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

absl::Status AwaitConnected(grpc::Channel& channel, const std::string& target,
                            absl::Duration limit) {
  if (channel.WaitForConnected(In(limit))) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(target, ": expected an answer within ",
                                             absl::ToDoubleSeconds(limit),
                                             " s, got none; is the process still running?"));
}

void SetDeadline(grpc::ClientContext& context, absl::Duration limit) {
  context.set_deadline(In(limit));
}

}  // namespace dsrun
