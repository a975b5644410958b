// DoWithin: a system call that may never come back (a file server that hangs, a pipe that nobody
// reads) in a thread of its own, which is left behind then.

#ifndef DSRUN_COMMON_BASE_DO_WITHIN_H_
#define DSRUN_COMMON_BASE_DO_WITHIN_H_

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun {

// What `work` returns, or DEADLINE_EXCEEDED after `limit`: it goes on, and nobody hears how it
// ends. So it has copies of what it uses, or that is never destroyed. Where no thread can be had (a
// limit), the caller does it, and waits for it. `name`: as StartThread's.
absl::Status DoWithin(absl::Duration limit, const char* name, std::function<absl::Status()> work);

// The same for work that makes something: DoWithin<PathLock>(...). What comes too late is destroyed
// by the thread.
template <typename T>
absl::StatusOr<T> DoWithin(absl::Duration limit, const char* name,
                           std::function<absl::StatusOr<T>()> work) {
  const auto result = std::make_shared<std::optional<absl::StatusOr<T>>>();
  const absl::Status done = DoWithin(limit, name, [result, work = std::move(work)] {
    result->emplace(work());
    return (*result)->status();
  });
  if (!done.ok()) return done;
  return **std::move(*result);
}

// Of the calling thread, for as long as it lives: a pipe whose reader goes away is EPIPE, also when
// the process has SIGPIPE end it again. DoWithin's `work` has it.
void BlockBrokenPipes();

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_DO_WITHIN_H_
