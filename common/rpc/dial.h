// Dialling: a connection to an agent whose other end has been proven, before gRPC or anything of
// the job is on it. Blocks, until a deadline. Thread-safe.
//
// Off loopback, mutual TLS takes the place of the greeting here and in door.cc; what comes out is
// the same Connection.

#ifndef DSRUN_COMMON_RPC_DIAL_H_
#define DSRUN_COMMON_RPC_DIAL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/descriptor.h"

namespace dsrun {

struct Connection {
  std::string target;  // for messages
  Descriptor fd;
  std::string ticket;  // introduction.h
};

// For a coordinator: both have proven that they have `cluster_key`. `uid`: whose the agent has to
// be, by the kernel's word (a unix socket's). An agent that is too busy with strangers to listen to
// the end is called again.
// Errors: UNAVAILABLE: nobody listens there, or another program does, or it says nothing within
// `limit`. UNAUTHENTICATED: it has another key. PERMISSION_DENIED: it is another user's, or does
// not admit this one. INVALID_ARGUMENT: another version. RESOURCE_EXHAUSTED: it is full, or no
// descriptor is left here. FAILED_PRECONDITION: off loopback.
absl::StatusOr<Connection> DialAgent(const std::string& target, const std::string& cluster_key,
                                     absl::Duration limit,
                                     std::optional<uint32_t> uid = std::nullopt);

// For a worker: whoever listens at `path` is the agent, by the kernel's word: process `pid` of user
// `uid`. Errors: PERMISSION_DENIED: it is somebody else, or does not take this process for its
// worker; else as above.
absl::StatusOr<Connection> DialHost(const std::string& path, uint32_t uid, int32_t pid,
                                    absl::Duration limit);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_DIAL_H_
