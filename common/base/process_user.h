// Turns a user's name into what a child must become, and asks what that user may do. Thread-safe.

#ifndef DSRUN_COMMON_BASE_PROCESS_USER_H_
#define DSRUN_COMMON_BASE_PROCESS_USER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/process_runner.h"

namespace dsrun {

// Empty, or the user we already are: no change. A number is that user id, where no user has it for
// a name: containers run as ids that no passwd entry names, and whoever already is that id needs
// nothing else.
// Errors: FAILED_PRECONDITION: no such user here; an id to be changed to that has no entry, so that
// its groups cannot be known; we are not root and cannot become it.
absl::StatusOr<ProcessUser> ResolveProcessUser(const std::string& name);

// Whether `user` may make files in `folder`, as the kernel answers it: owner, groups, access lists
// and read-only mounts count. OK without asking if there is no change of user.
// Errors: PERMISSION_DENIED: the user may not; NOT_FOUND: no such folder, or hidden from the user
// by a folder above; both in words without the name of the user, which only the caller knows.
absl::Status CheckMayWrite(const ProcessUser& user, const std::string& folder);

// The same for starting the program at `path`.
absl::Status CheckMayExecute(const ProcessUser& user, const std::string& path);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROCESS_USER_H_
