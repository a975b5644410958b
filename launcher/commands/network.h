// What resolving a job asks the network: a host's address. Thread-safe.

#ifndef DSRUN_LAUNCHER_COMMANDS_NETWORK_H_
#define DSRUN_LAUNCHER_COMMANDS_NETWORK_H_

#include <string>

#include "absl/status/statusor.h"

namespace dsrun::launcher {

// The numeric address of a host ("[::1]" loses its brackets); IPv4 where there are both.
// Errors: NOT_FOUND, with the resolver's words.
absl::StatusOr<std::string> ResolveAddress(const std::string& host);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_NETWORK_H_
