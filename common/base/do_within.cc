#include "common/base/do_within.h"

#include <signal.h>

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/leavable_thread.h"

namespace dsrun {

absl::Status DoWithin(absl::Duration limit, const char* name, std::function<absl::Status()> work) {
  const auto answer = std::make_shared<absl::Status>();
  const auto shared_work = std::make_shared<std::function<absl::Status()>>(std::move(work));
  absl::StatusOr<LeavableThread> thread = LeavableThread::Start(name, [answer, shared_work] {
    BlockBrokenPipes();
    *answer = (*shared_work)();
  });
  if (!thread.ok()) return (*shared_work)();
  if (thread->JoinOrLeave(limit)) return *answer;
  return absl::DeadlineExceededError(absl::StrCat("no answer for ", absl::FormatDuration(limit)));
}

void BlockBrokenPipes() {
  sigset_t pipes;
  sigemptyset(&pipes);
  sigaddset(&pipes, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipes, nullptr);
}

}  // namespace dsrun
