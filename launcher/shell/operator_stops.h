// OperatorStops: Ctrl-C, SIGTERM and SIGHUP (unless that is ignored, as under nohup), from the
// first line of main to the end of the process. What one means depends on how far dsrun is:
//
//   nothing was started yet   the process ends at once, exit code 96: there is nothing to undo
//   between HandTo and Over   the job's handler is told
//   the job is over           nothing: its exit code stands
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
  // Told the signal; one call at a time, under a lock: it must not block.
  using Handler = std::function<void(int signal)>;

  // At most one at a time. Errors: RESOURCE_EXHAUSTED: no descriptor left.
  static absl::StatusOr<std::unique_ptr<OperatorStops>> Create();

  // From now on something may have to be undone.
  void HandTo(Handler handler);
  // ENSURES: the handler is not running, and is never called again.
  void Over();

 private:
  enum class Phase { kNothingStarted, kJob, kOver };

  OperatorStops() = default;
  void OnSignal(int signal);

  Mutex mu_;
  Phase phase_ ABSL_GUARDED_BY(mu_) = Phase::kNothingStarted;
  Handler handler_ ABSL_GUARDED_BY(mu_);

  // Last: its thread uses what is above.
  std::unique_ptr<SignalWatch> watch_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_OPERATOR_STOPS_H_
