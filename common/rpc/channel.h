// Client side: channels to loopback and unix sockets, and the deadline that every call has. A call
// without one would hang for ever on a server that is missing. Thread-safe.

#ifndef DSRUN_COMMON_RPC_CHANNEL_H_
#define DSRUN_COMMON_RPC_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun {

// `target`: "127.0.0.1:4711" or "unix:/path". Keepalive is on: a peer that vanished without a
// goodbye is noticed within about 20 s even when nothing is said (heartbeats notice it earlier).
// Errors: FAILED_PRECONDITION: off loopback.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& target);

// Connects within `limit`. Errors: UNAVAILABLE: nobody answers there.
absl::Status AwaitConnected(grpc::Channel& channel, const std::string& target,
                            absl::Duration limit);

// For a unary call: fails with DEADLINE_EXCEEDED after `limit`. For a stream that lives as long as
// a job: give the longest life; heartbeats tell earlier that it is dead.
void SetDeadline(grpc::ClientContext& context, absl::Duration limit);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_CHANNEL_H_
