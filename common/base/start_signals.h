// What whoever started a program left behind in its signals: `trap '' CHLD` and libraries that
// ignore it, a mask with TERM or CHLD blocked. exec keeps both, and then waits fail with ECHILD,
// ends of children are told late, and a signal to stop waits for ever.

#ifndef DSRUN_COMMON_BASE_START_SIGNALS_H_
#define DSRUN_COMMON_BASE_START_SIGNALS_H_

#include <signal.h>

namespace dsrun {

// From here on the end of a child is told (SIGCHLD has its default action), and the mask of this
// thread, and of those that it starts, is exactly `blocked`. What the old mask kept back comes now:
// first have ready whoever takes it. Other ignored signals stay so: `nohup` means it.
// REQUIRES: in main, before any process is started.
void TakeOverSignals(const sigset_t& blocked);
// The same with nothing blocked.
void TakeOverSignals();

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_START_SIGNALS_H_
