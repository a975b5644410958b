// What counts as loopback. Until there is TLS, nothing else is listened on, called or answered.
// Thread-safe.

#ifndef DSRUN_COMMON_RPC_LOOPBACK_H_
#define DSRUN_COMMON_RPC_LOOPBACK_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace dsrun {

// How the address of a unix socket begins; its path follows.
inline constexpr absl::string_view kUnixScheme = "unix:";

// "127.0.0.2", "::1": numeric addresses only, so that no resolver decides what is safe.
bool IsLoopbackAddress(const std::string& address);

// Errors: FAILED_PRECONDITION: "HOST:PORT" or "unix:PATH" is not on loopback.
absl::Status CheckLoopbackTarget(const std::string& target);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_LOOPBACK_H_
