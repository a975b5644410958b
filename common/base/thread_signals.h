// Signals of a thread that is to be left alone: one that writes to a terminal is not stopped for it
// (SIGTTOU), and what is sent to the process is taken by whoever waits for it.

#ifndef DSRUN_COMMON_BASE_THREAD_SIGNALS_H_
#define DSRUN_COMMON_BASE_THREAD_SIGNALS_H_

#include <signal.h>

namespace dsrun {

// Blocks all signals for the calling thread, and for those that it starts, but those of its own
// faults (SIGSEGV and its kin), which the kernel would make fatal without a word. Returns what was
// blocked before.
inline sigset_t BlockSignalsButFaults() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  return before;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_THREAD_SIGNALS_H_
