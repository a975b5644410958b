// A folder for one process's unix sockets: new, under a name that nobody can foresee, closed to
// everybody else (mode 0700).

#ifndef DSRUN_COMMON_BASE_PRIVATE_FOLDER_H_
#define DSRUN_COMMON_BASE_PRIVATE_FOLDER_H_

#include <string>

#include "absl/status/statusor.h"

namespace dsrun {

// Made in $TMPDIR where that is set and fits, else in /tmp, and where that cannot be written to in
// /dev/shm. TMPDIR fits when it is absolute, short enough (the path of a unix socket has room for
// 107 bytes, of which `prefix` and the socket's name take 40), and when every user may pass through
// it: a job's ranks may run as another one. The caller removes it. Errors: UNAVAILABLE: none can be
// made, with what was tried and why not.
absl::StatusOr<std::string> MakePrivateFolder(const std::string& prefix);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PRIVATE_FOLDER_H_
