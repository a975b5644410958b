// SetAside: a file that an earlier job has left under a name that this job is about to write is
// kept, as NAME.1, or with the first number after that is free. So the same command can be given
// again, and nothing of the first time is lost.

#ifndef DSRUN_LAUNCHER_SHELL_SET_ASIDE_H_
#define DSRUN_LAUNCHER_SHELL_SET_ASIDE_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"

namespace dsrun::launcher {

// Where the file is now; empty: there was nothing to keep (no such file, an empty one, a device).
// Behind a symbolic link the file that it leads to is moved, and the link stays.
// Errors: those of FileSystem; RESOURCE_EXHAUSTED: kMostAside of them are there.
absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& path);

inline constexpr int kMostAside = 9999;

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_SET_ASIDE_H_
