// Threads of our own. Two things that std::thread does not promise: that a thread cannot be started
// is an error with a name and not an exception, and no exception of a library leaves a thread.
//
// What std::thread's constructor throws would unwind through callers that know no exceptions, and
// end the process somewhere else without a word. Nobody but this file starts a std::thread.

#ifndef DSRUN_COMMON_BASE_THREAD_H_
#define DSRUN_COMMON_BASE_THREAD_H_

#include <functional>
#include <thread>

#include "absl/status/statusor.h"

namespace dsrun {

// Runs `body` in a thread of its own. `name`: what it is for ("the log pump").
// An exception that leaves `body` ends the process with kExitLimit (common/base/limits.h) and a
// line that says which thread, which exception, and the limit that is met, if one is: there is no
// state to go on with, and whoever watches this process acts on its end.
// Errors: RESOURCE_EXHAUSTED: no thread can be started; names the limit that was met.
absl::StatusOr<std::thread> StartThread(const char* name, std::function<void()> body);

// The same where there is no way to go on without: on an error the process ends with kExitLimit and
// the error on standard error.
std::thread StartThreadOrEnd(const char* name, std::function<void()> body);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_THREAD_H_
