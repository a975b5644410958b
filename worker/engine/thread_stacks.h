// What a thread of this process is doing, by name: for the log of a rank that waits or hangs.
//
// The thread is interrupted by a signal of our own, whose handler takes down return addresses and
// does nothing else: backtrace(3) neither allocates nor locks once it has been called (glibc 2.35
// and later look up unwind tables without a lock). Names are looked up afterwards, by the caller.
// The handler has a stack of its own: products of matrices of the library run with the stack
// pointer in a buffer on the heap, and a frame below it would be written over whatever is there. A
// thread that sleeps in the kernel without being interruptible cannot answer: then the kernel's
// word for its state is all there is.

#ifndef DSRUN_WORKER_ENGINE_THREAD_STACKS_H_
#define DSRUN_WORKER_ENGINE_THREAD_STACKS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace dsrun::worker {

// Makes the process ready: installs the handler, and reads the names of this program. Before any
// other thread runs. REQUIRES: called once. `program`: argv[0].
void PrepareThreadStacks(const char* program);

// The calling thread, as ThreadStack names it. Gives it, once, a stack for the handler, until it
// ends: only who has called this may be asked.
pid_t ThisThread();

// The functions that `thread` of this process is in, innermost first, at most 32. One line that
// says why not, if it does not answer within `patience` or has ended. Thread-safe: one caller at a
// time, the others wait. REQUIRES: PrepareThreadStacks, or the line says that it is missing.
std::vector<std::string> ThreadStack(pid_t thread,
                                     absl::Duration patience = absl::Milliseconds(250));

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_THREAD_STACKS_H_
