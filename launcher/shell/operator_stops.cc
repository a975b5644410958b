#include "launcher/shell/operator_stops.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {
namespace {

// A hang-up that is ignored (nohup) stays so.
std::vector<int> StopSignals() {
  std::vector<int> signals = {SIGINT, SIGTERM};
  struct sigaction now;
  if (sigaction(SIGHUP, nullptr, &now) == 0 && now.sa_handler != SIG_IGN) {
    signals.push_back(SIGHUP);
  }
  return signals;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OperatorStops>> OperatorStops::Create() {
  std::unique_ptr<OperatorStops> stops(new OperatorStops());
  ASSIGN_OR_RETURN(stops->watch_,
                   SignalWatch::Create(StopSignals(),
                                       [raw = stops.get()](int signal) { raw->OnSignal(signal); }));
  return stops;
}

void OperatorStops::HandTo(Handler handler) {
  MutexLock lock(mu_);
  phase_ = Phase::kJob;
  handler_ = std::move(handler);
}

void OperatorStops::Over() {
  MutexLock lock(mu_);
  phase_ = Phase::kOver;
  handler_ = nullptr;
}

void OperatorStops::OnSignal(int signal) {
  MutexLock lock(mu_);
  switch (phase_) {
    case Phase::kNothingStarted: {
      // Not exit(): the main thread may be in the middle of anything. The lock is kept, so that it
      // cannot start the job meanwhile.
      const std::string text =
          absl::StrCat("dsrun: got ", strsignal(signal), ": nothing was started\n");
      (void)!write(STDERR_FILENO, text.data(), text.size());
      _exit(kExitCancelled);
    }
    case Phase::kJob:
      handler_(signal);
      return;
    case Phase::kOver:
      return;
  }
}

}  // namespace dsrun::launcher
