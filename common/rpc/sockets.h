// Sockets on loopback and unix paths: listening, connecting, and what the kernel says of the other
// side. Thread-safe.

#ifndef DSRUN_COMMON_RPC_SOCKETS_H_
#define DSRUN_COMMON_RPC_SOCKETS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/descriptor.h"

namespace dsrun {

struct ListeningSocket {
  Descriptor fd;
  int port = 0;  // 0 for a unix socket
  std::string
      address;  // as AddressHere would say it of a connection: "127.0.0.1:4711", "unix:/path"
};
// `target`: "127.0.0.1:0" (the kernel picks a port), "[::1]:4711" or "unix:/path". No port is
// shared with another process. The file of a unix socket is for one user alone (mode 0600):
// `owner`, or whoever calls. It is there before anybody can connect; the caller removes it. Errors:
// FAILED_PRECONDITION: off loopback. INVALID_ARGUMENT: no address. UNAVAILABLE: in use, or the
// address is not one of this machine. RESOURCE_EXHAUSTED: no descriptor.
absl::StatusOr<ListeningSocket> ListenOn(const std::string& target,
                                         std::optional<uint32_t> owner = std::nullopt);

// Connects, until `deadline` at most. The descriptor does not block.
// Errors: FAILED_PRECONDITION: off loopback. INVALID_ARGUMENT: no address. UNAVAILABLE: nobody is
// there; the errno in words. RESOURCE_EXHAUSTED: no descriptor.
absl::StatusOr<Descriptor> ConnectTo(const std::string& target, SteadyTime deadline);

// Where the two ends of a connection are: numeric address and port, or "unix:" and the path that
// the listening side has bound. For a connection these two say the same of one end, each on its
// side: AddressHere of the server is AddressThere of the client.
std::string AddressHere(int fd);
std::string AddressThere(int fd);
// Whether the other end is on this machine.
bool IsPeerOnLoopback(int fd);

// Who connected (at the server), or who listens (at the client), by the kernel's word. Of a unix
// socket only.
struct PeerCredentials {
  int32_t pid = 0;  // 0: of a process that cannot be seen from here (another pid namespace)
  uint32_t uid = 0;
};
absl::StatusOr<PeerCredentials> CredentialsOf(int fd);

// Small messages go out at once. Without effect on a unix socket.
void SetNoDelay(int fd);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_SOCKETS_H_
