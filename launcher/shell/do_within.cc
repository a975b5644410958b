#include "launcher/shell/do_within.h"

#include <signal.h>

#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/thread.h"

namespace dsrun::launcher {
namespace {

struct Answer {
  Mutex mu;
  CondVar changed;
  std::optional<absl::Status> status ABSL_GUARDED_BY(mu);
};

}  // namespace

absl::Status DoWithin(absl::Duration limit, const char* name, std::function<absl::Status()> work) {
  const auto answer = std::make_shared<Answer>();
  const auto shared_work = std::make_shared<std::function<absl::Status()>>(std::move(work));
  absl::StatusOr<std::thread> thread = StartThread(name, [answer, shared_work] {
    BlockBrokenPipes();
    absl::Status done = (*shared_work)();
    MutexLock lock(answer->mu);
    answer->status = std::move(done);
    answer->changed.NotifyAll();
  });
  if (!thread.ok()) return (*shared_work)();
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  std::optional<absl::Status> status;
  {
    MutexLock lock(answer->mu);
    while (!answer->status) {
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) break;
      answer->changed.WaitFor(answer->mu, left);
    }
    status = answer->status;
  }
  if (status) {
    thread->join();
    return *status;
  }
  thread->detach();
  return absl::DeadlineExceededError(absl::StrCat("no answer for ", absl::FormatDuration(limit)));
}

void BlockBrokenPipes() {
  sigset_t pipes;
  sigemptyset(&pipes);
  sigaddset(&pipes, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipes, nullptr);
}

}  // namespace dsrun::launcher
