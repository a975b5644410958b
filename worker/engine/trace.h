// Trace: what a rank did when, in the Chrome trace format (chrome://tracing, ui.perfetto.dev). It
// shows whether communication hides behind computation.
//
// Threads: all methods are thread-safe. A disabled trace costs one branch.

#ifndef DSRUN_WORKER_ENGINE_TRACE_H_
#define DSRUN_WORKER_ENGINE_TRACE_H_

#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"

namespace dsrun::worker {

class Trace {
 public:
  enum class Lane { kCompute = 0, kCommunication = 1 };  // rows of the picture
  // At most this many spans are kept: the picture of a run's first steps.
  static constexpr size_t kMaxSpans = 100000;

  Trace(bool enabled, int rank) : enabled_(enabled), rank_(rank) {}

  bool enabled() const { return enabled_; }
  void Add(Lane lane, const std::string& name, SteadyTime begin, SteadyTime end);
  std::string Json();

 private:
  struct Span {
    Lane lane;
    std::string name;
    SteadyTime begin;
    SteadyTime end;
  };
  const bool enabled_;
  const int rank_;
  Mutex mu_;
  std::vector<Span> spans_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_TRACE_H_
