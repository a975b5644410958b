// Patience: how long something that the world may do better in a moment is tried again. Waits grow
// from `first` to `most`; it is used up after `total`, of waits or of time, whichever comes first.
//
// Threads: one.

#ifndef DSRUN_COMMON_BASE_PATIENCE_H_
#define DSRUN_COMMON_BASE_PATIENCE_H_

#include <functional>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace dsrun {

class Patience {
 public:
  struct Limits {
    absl::Duration first = absl::Milliseconds(100);
    absl::Duration most = absl::Seconds(5);
    absl::Duration total = absl::Seconds(20);
  };
  // Waits that long. False, at once or early: nobody wants to wait any more.
  using Wait = std::function<bool(absl::Duration)>;

  // `clock` must outlive this. Its time begins with the first wait.
  Patience(const Clock& clock, Wait wait, Limits limits)
      : clock_(clock), wait_(std::move(wait)), limits_(limits), next_(limits.first) {}

  // After a failure: waits, then true: try again. False: used up, or not wanted any more.
  bool Again();
  // Whether Again would try once more.
  bool IsLeft() const;
  // A pause that is no failure's, and takes nothing from the rest.
  void Pause(absl::Duration duration) { wait_(duration); }
  // So far.
  absl::Duration waited() const { return waited_; }

 private:
  const Clock& clock_;
  const Wait wait_;
  const Limits limits_;
  absl::Duration next_;
  absl::Duration waited_;
  std::optional<SteadyTime> began_;
  bool over_ = false;
};

// Sleeps in short naps; false as soon as `cancelled` (may be empty) says so.
bool SleepUnless(absl::Duration duration, const std::function<bool()>& cancelled);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PATIENCE_H_
