#include "worker/engine/stop_signals.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>

#include "common/base/thread.h"

namespace dsrun::worker {
namespace {

std::atomic<int> last_signal{0};

}  // namespace

void TakeStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    sigaddset(&signals, signal);
    // One that is ignored would be lost, and nohup is no wish of a rank's.
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
  }
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  StartThreadOrEnd("signals to stop", [signals] {
    (void)pthread_setname_np(pthread_self(), kStopSignalsThread);
    while (true) {
      int signal = 0;
      if (sigwait(&signals, &signal) == 0) last_signal = signal;
    }
  }).detach();  // until the process ends
}

int StopSignal() { return last_signal; }

}  // namespace dsrun::worker
