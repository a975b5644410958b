// The signals that ask keeper and agent for an end, and how the keeper tells its agent which is an
// order. A scheduler or a service manager sends its signal to every process of a job: what the
// ranks make of it must not depend on which of their ancestors dies first. So a signal is a request
// ("the coordinator decides, else the lease"), unless it comes from whoever decides.

#ifndef DSRUN_AGENT_STOP_SIGNALS_H_
#define DSRUN_AGENT_STOP_SIGNALS_H_

#include <signal.h>
#include <sys/signalfd.h>

#include "common/base/start_signals.h"

namespace dsrun::agent {

inline constexpr int kStopSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

// From the keeper, which is the agent's parent: end everything. A signal of its own, so that what
// is a request can be passed on as it is.
inline int KeepersOrder() { return SIGRTMIN + 5; }

// Whoever started this wants it to outlive its terminal (`nohup`; INT and QUIT: `&` in a script).
inline bool IsIgnoredOfTerminal(int signal) {
  struct sigaction now;
  return (signal == SIGHUP || signal == SIGINT || signal == SIGQUIT) &&
         sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

// Without those that are ignored: the kernel keeps a signal that is blocked even if it is ignored,
// and a signalfd reads it.
inline sigset_t StopSignalSet() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kStopSignals) {
    if (!IsIgnoredOfTerminal(signal)) sigaddset(&set, signal);
  }
  sigaddset(&set, KeepersOrder());
  return set;
}

// The first act of main: what comes waits for whoever reads it (signalfd) and ends nobody; nothing
// else is blocked, whoever started this. Children start with an empty mask (process_spawn.h).
inline void BlockStopSignals() { TakeOverSignals(StopSignalSet()); }

// A descriptor to read them from, close-on-exec and non-blocking; -1 with errno.
inline int OpenStopSignals() {
  const sigset_t set = StopSignalSet();
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_STOP_SIGNALS_H_
