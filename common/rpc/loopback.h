// What counts as loopback. Until there is TLS, nothing else is listened on, called or answered.
// Thread-safe.

#ifndef DSRUN_COMMON_RPC_LOOPBACK_H_
#define DSRUN_COMMON_RPC_LOOPBACK_H_

#include <string>

#include "absl/status/status.h"

namespace dsrun {

// "127.0.0.2", "::1": numeric addresses only, so that no resolver decides what is safe.
bool IsLoopbackAddress(const std::string& address);
// As gRPC writes the other side: "ipv4:127.0.0.1:4711", "ipv6:%5B::1%5D:4711", "unix:...".
bool IsLoopbackPeer(const std::string& peer);

// Errors: FAILED_PRECONDITION: "HOST:PORT" or "unix:PATH" is not on loopback.
absl::Status CheckLoopbackTarget(const std::string& target);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_LOOPBACK_H_
