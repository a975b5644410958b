// Client side: gRPC on a connection that was dialled (dial.h), and the deadline that every call
// has. A call without one would hang for ever on a server that is missing. Thread-safe.

#ifndef DSRUN_COMMON_RPC_CHANNEL_H_
#define DSRUN_COMMON_RPC_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>

#include "absl/time/time.h"
#include "common/rpc/dial.h"

namespace dsrun {

// With it a peer that vanished without a goodbye is noticed within about 20 s even when nothing is
// said (heartbeats notice it earlier).
enum class Keepalive { kOn, kOff };

// One connection and no other: a broken one is never made anew, as no stream of ours is resumed.
// The first call has to show the connection's ticket (introduction.h).
std::shared_ptr<grpc::Channel> MakeChannel(Connection connection, Keepalive keepalive);

// For a unary call: fails with DEADLINE_EXCEEDED after `limit`. For a stream that lives as long as
// a job: give the longest life; heartbeats tell earlier that it is dead.
void SetDeadline(grpc::ClientContext& context, absl::Duration limit);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_CHANNEL_H_
