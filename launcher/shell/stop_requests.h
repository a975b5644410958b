// StopRequests: which of the stop signals that come are requests of their own. Who asks may ask
// twice without meaning it: `timeout` signals its child and then the child's group, a shell passes
// on the hang-up that the kernel has sent already, srun and slurmstepd both signal. Taken for a
// second request, that would cost the checkpoint of the first. So what comes within kSameRequest of
// the one before is the same request, unless a person pressed the key; and a hang-up never repeats
// one. Pure; not thread-safe.

#ifndef DSRUN_LAUNCHER_SHELL_STOP_REQUESTS_H_
#define DSRUN_LAUNCHER_SHELL_STOP_REQUESTS_H_

#include <optional>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace dsrun::launcher {

inline constexpr absl::Duration kSameRequest = absl::Milliseconds(300);

class StopRequests {
 public:
  // A signal has come. True: it counts, as the count()th request.
  bool Take(SteadyTime now, bool is_hang_up, bool by_key) {
    const bool close = heard_at_ && now - *heard_at_ < kSameRequest;
    heard_at_ = now;
    if (count_ > 0 && (is_hang_up || (close && !by_key))) return false;
    ++count_;
    return true;
  }
  int count() const { return count_; }

 private:
  int count_ = 0;
  std::optional<SteadyTime> heard_at_;  // the last one, counted or not
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_STOP_REQUESTS_H_
