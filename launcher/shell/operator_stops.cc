#include "launcher/shell/operator_stops.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/nonblocking_output.h"
#include "common/base/status_macros.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {
namespace {

bool IsIgnored(int signal) {
  struct sigaction now;
  return sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

// A hang-up that is ignored (nohup) stays so, and a QUIT of the terminal (in the background) or a
// Ctrl-Z (a shell without job control).
std::vector<int> Signals() {
  std::vector<int> signals = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
  for (const int signal : {SIGHUP, SIGQUIT, SIGTSTP}) {
    if (!IsIgnored(signal)) signals.push_back(signal);
  }
  return signals;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OperatorStops>> OperatorStops::Create() {
  std::unique_ptr<OperatorStops> stops(new OperatorStops());
  ASSIGN_OR_RETURN(stops->watch_,
                   SignalWatch::Create(Signals(), [raw = stops.get()](int signal, bool by_key) {
                     raw->OnSignal(signal, by_key);
                   }));
  return stops;
}

void OperatorStops::HandTo(Handler handler) {
  MutexLock lock(mu_);
  phase_ = Phase::kJob;
  handler_ = std::move(handler);
}

void OperatorStops::Over(int exit_code) {
  MutexLock lock(mu_);
  phase_ = Phase::kOver;
  exit_code_ = exit_code;
  handler_ = nullptr;
}

void OperatorStops::OnSignal(int signal, bool by_key) {
  MutexLock lock(mu_);
  if (phase_ != Phase::kJob && signal == SIGTSTP) return SignalWatch::ActByDefault(signal);
  if (phase_ != Phase::kJob && signal == SIGWINCH) return;
  switch (phase_) {
    case Phase::kNothingStarted: {
      // Not exit(): the main thread may be in the middle of anything. The lock is kept, so that it
      // cannot start the job meanwhile.
      const std::string text =
          absl::StrCat("dsrun: got ", strsignal(signal), ": nothing was started\n");
      // A screen that takes nothing must not keep the process.
      WriteLastWords(STDERR_FILENO, text.data(), text.size());
      FlushLog();
      _exit(kExitCancelled);
    }
    case Phase::kJob:
      handler_(signal, by_key);
      return;
    case Phase::kOver:
      FlushLog();
      _exit(exit_code_);
  }
}

}  // namespace dsrun::launcher
