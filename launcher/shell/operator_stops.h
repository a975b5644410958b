// OperatorStops: the signals that ask dsrun for something, from the first line of main to the end
// of the process: TERM, INT (Ctrl-C), HUP and QUIT (unless these two are ignored, as under nohup or
// in the background), USR1 and USR2. What one means depends on how far dsrun is:
//
//   nothing was started yet   the process ends at once, exit code 96: there is nothing to undo
//   between HandTo and Over   the job's handler is told
//   the job is over           the process ends at once with the job's exit code: nothing is left to
//                             undo, whatever it still waits for
//
// TSTP (Ctrl-Z, unless it is ignored) stops the process as always while there is no job. A job
// would lose its coordinator by it, so its handler is told instead, and nothing is stopped. WINCH
// (the terminal has another size) is told to the handler, too.
//
// Whether a stop came "before" or "during" is decided under one lock, so none is lost between.
// Methods are for one thread; the handler is called by a thread of its own.

#ifndef DSRUN_LAUNCHER_SHELL_OPERATOR_STOPS_H_
#define DSRUN_LAUNCHER_SHELL_OPERATOR_STOPS_H_

#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "launcher/shell/signal_watch.h"

namespace dsrun::launcher {

class OperatorStops {
 public:
  // Told the signal, and whether a person pressed its key; one call at a time, under a lock: it
  // must not block.
  using Handler = std::function<void(int signal, bool by_key)>;

  // At most one at a time. Errors: RESOURCE_EXHAUSTED: no descriptor or thread left.
  static absl::StatusOr<std::unique_ptr<OperatorStops>> Create();

  // From now on something may have to be undone.
  void HandTo(Handler handler);
  // The job is over and nothing of it is left. ENSURES: the handler is not running, and is never
  // called again.
  void Over(int exit_code);

 private:
  enum class Phase { kNothingStarted, kJob, kOver };

  OperatorStops() = default;
  void OnSignal(int signal, bool by_key);

  Mutex mu_;
  Phase phase_ ABSL_GUARDED_BY(mu_) = Phase::kNothingStarted;
  Handler handler_ ABSL_GUARDED_BY(mu_);
  int exit_code_ ABSL_GUARDED_BY(mu_) = 0;

  // Last: its thread uses what is above.
  std::unique_ptr<SignalWatch> watch_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_OPERATOR_STOPS_H_
