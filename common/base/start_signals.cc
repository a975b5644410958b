#include "common/base/start_signals.h"

namespace dsrun {

void TakeOverSignals(const sigset_t& blocked) {
  signal(SIGCHLD, SIG_DFL);
  sigprocmask(SIG_SETMASK, &blocked, nullptr);
}

void TakeOverSignals() {
  sigset_t none;
  sigemptyset(&none);
  TakeOverSignals(none);
}

}  // namespace dsrun
