// DoWithin: a system call that may never come back (a file server that hangs, a pipe that nobody
// reads) in a thread of its own, which is left behind then.

#ifndef DSRUN_COMMON_BASE_DO_WITHIN_H_
#define DSRUN_COMMON_BASE_DO_WITHIN_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace dsrun {

// What `work` returns, or DEADLINE_EXCEEDED after `limit`: it goes on, and nobody hears how it
// ends. So it has copies of what it uses, or that is never destroyed. Where no thread can be had (a
// limit), the caller does it, and waits for it. `name`: as StartThread's.
absl::Status DoWithin(absl::Duration limit, const char* name, std::function<absl::Status()> work);

// Of the calling thread, for as long as it lives: a pipe whose reader goes away is EPIPE, also when
// the process has SIGPIPE end it again. DoWithin's `work` has it.
void BlockBrokenPipes();

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_DO_WITHIN_H_
