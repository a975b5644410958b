// The one reader of what a person wrote for dsrun: hostfile and environment files. A file, a link
// to one, or a pipe (`-H <(generate)`) is read whole; whether it is the text that was expected is
// for the parser (source_text.h).
//
// Blocks as long as a pipe's writer does. Thread-safe.

#ifndef DSRUN_COMMON_CONFIG_SOURCE_FILE_H_
#define DSRUN_COMMON_CONFIG_SOURCE_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace dsrun {

// More is no text of ours, but the wrong file.
inline constexpr int64_t kMostSourceBytes = 16 << 20;

// Reads `path`; messages call it `shown`, as the user wrote it. Errors, in whole sentences:
// NOT_FOUND: there is no such file, for certain. FAILED_PRECONDITION: it is a folder, a device, a
// link to nothing, too large. PERMISSION_DENIED: this user may not read it. UNAVAILABLE: it could
// not be read, or not be looked for.
absl::StatusOr<std::string> ReadSourceFile(const std::string& path, const std::string& shown);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_SOURCE_FILE_H_
