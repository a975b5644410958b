// Turns a user's name into what a child must become. Thread-safe.

#ifndef DSRUN_COMMON_BASE_PROCESS_USER_H_
#define DSRUN_COMMON_BASE_PROCESS_USER_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/base/process_runner.h"

namespace dsrun {

// Empty, or the user we already are: no change.
// Errors: FAILED_PRECONDITION: no such user here, or we are not root and cannot become it.
absl::StatusOr<ProcessUser> ResolveProcessUser(const std::string& name);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROCESS_USER_H_
