// The one reader of what a person wrote for dsrun: hostfile and environment files. A file, a link
// to one, or a pipe (`-H <(generate)`) is read whole; whether it is the text that was expected is
// for the parser (source_text.h).
//
// A pipe or terminal that is silent for too long is an error: a named pipe that nobody writes to
// would hold up its reader without a word. A disk that does not answer is waited for. Thread-safe.

#ifndef DSRUN_COMMON_CONFIG_SOURCE_FILE_H_
#define DSRUN_COMMON_CONFIG_SOURCE_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun {

// More is no text of ours, but the wrong file.
inline constexpr int64_t kMostSourceBytes = 16 << 20;
// From one word of a pipe's writer to the next. A command that asks a cluster for its hosts takes
// seconds.
inline constexpr absl::Duration kSourceSilence = absl::Seconds(10);

// Reads `path`; messages call it `shown`, as the user wrote it. Errors, in whole sentences:
// NOT_FOUND: there is no such file, for certain. FAILED_PRECONDITION: it is a folder, a device, a
// link to nothing, too large. PERMISSION_DENIED: this user may not read it. UNAVAILABLE: it could
// not be read, or not be looked for. DEADLINE_EXCEEDED: what is no file said nothing, and did not
// end, for `silence`.
absl::StatusOr<std::string> ReadSourceFile(const std::string& path, const std::string& shown,
                                           absl::Duration silence = kSourceSilence);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_SOURCE_FILE_H_
