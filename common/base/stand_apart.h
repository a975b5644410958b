// A program that ends everything below it must know that everything below it is its own. Two kinds
// of strangers can be there:
//   - children that whoever executed it had before (`exec dsagent > >(tee log)` in a shell), and
//     what those start, also in sessions of their own, also by a double fork;
//   - where it is the first process of a container, every process that loses its parent there, such
//     as those of `docker exec`.
// No mark in an environment and no session tells such a process from a rank's child that has
// cleared its environment, left its session and lost its parent. The kernel does: an orphan goes
// up, to its nearest ancestor that takes orphans, and never sideways. So a program in such a place
// forks before it does anything, and goes on as the child: it has no children, and whatever comes
// below it descends from it. The parent stays behind and does nothing but pass on signals, reap,
// and end as the child does.

#ifndef DSRUN_COMMON_BASE_STAND_APART_H_
#define DSRUN_COMMON_BASE_STAND_APART_H_

#include <sys/signalfd.h>
#include <sys/types.h>

namespace dsrun {

// Returns in a process that nothing but its own descendants can be below: in this one, if it has no
// child and is not the first of its pid namespace, else in a child of it, with the same signal mask
// and descriptors. The child is killed if the parent is; a stop of the child (Ctrl-Z) stops the
// parent, and a continued parent continues it. Where no process can be forked it says so on
// standard error and returns here. REQUIRES: the first act of main, before any thread.
void StandApart();

// Whoever started the program that stands apart here: the parent of the process that was executed.
// REQUIRES: StandApart.
pid_t StarterPid();
// Who sent a signal, also if the process that stays behind has passed it on; 0: the kernel.
// REQUIRES: StandApart.
pid_t SenderOf(const signalfd_siginfo& info);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_STAND_APART_H_
