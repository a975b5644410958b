// Where secrets come from: the kernel's random bits, a file only its owner can read, a descriptor.
// Secrets are never logged and never put on a command line or into an environment. Thread-safe.

#ifndef DSRUN_COMMON_RPC_SECRETS_H_
#define DSRUN_COMMON_RPC_SECRETS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace dsrun {

// `count` bytes from the kernel's generator.
std::string RandomBytes(size_t count);
// Never 0.
uint64_t RandomIncarnation();

// Reads a cluster key: 16 to 4096 bytes; one line end ("\n" or "\r\n") is not part of it.
// Errors: NOT_FOUND, PERMISSION_DENIED, UNAVAILABLE: cannot be opened. FAILED_PRECONDITION: not a
// regular file, owned by somebody else, or readable by others (mode must be 0600 or less).
// INVALID_ARGUMENT: too short, too long, or with a byte order mark in front.
absl::StatusOr<std::string> ReadClusterKeyFile(const std::string& path);
// The same from an inherited descriptor (pipe or memfd), which is read to its end and closed.
absl::StatusOr<std::string> ReadClusterKeyFd(int fd);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_SECRETS_H_
