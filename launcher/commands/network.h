// The few questions that resolving a job asks the network: a host's address, a free port.
// Thread-safe.

#ifndef DSRUN_LAUNCHER_COMMANDS_NETWORK_H_
#define DSRUN_LAUNCHER_COMMANDS_NETWORK_H_

#include <string>

#include "absl/status/statusor.h"

namespace dsrun::launcher {

// The numeric address of a host ("[::1]" loses its brackets); IPv4 where there are both.
// Errors: NOT_FOUND, with the resolver's words.
absl::StatusOr<std::string> ResolveAddress(const std::string& host);

// Whether a program could listen there now. An address that is not this machine's counts as free:
// nothing can be said about it from here.
bool IsPortFree(const std::string& address, int port);

// A port that is free now. Errors: UNAVAILABLE: there is none, or no such address here.
absl::StatusOr<int> PickFreePort(const std::string& address);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_NETWORK_H_
