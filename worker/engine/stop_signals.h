// The signals that ask a rank to stop. Whoever sends one, ranks end together: the rank goes on to
// the end of its step, where all learn of it, save and finish. Who wants this process gone at once
// kills it. USR1 and USR2 mean the same, as at dsrun: the default would end it.
//
// They are blocked in every thread and waited for by one that does nothing else, because no handler
// may run in a thread that computes: products of matrices of the library run with the stack pointer
// in a buffer on the heap, and the kernel would write the handler's frame below it, over whatever
// is there.

#ifndef DSRUN_WORKER_ENGINE_STOP_SIGNALS_H_
#define DSRUN_WORKER_ENGINE_STOP_SIGNALS_H_

namespace dsrun::worker {

// The name of the thread, in /proc/PID/task/TID/comm and in ps -T.
inline constexpr char kStopSignalsThread[] = "stop-signals";

// REQUIRES: called once, before any other thread runs. Ends the process, with the limit that was
// met, if no thread can be started.
void TakeStopSignals();

// The last one that came; 0: none yet. Thread-safe.
int StopSignal();

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_STOP_SIGNALS_H_
