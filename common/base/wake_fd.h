// WakeFd: wakes a thread that waits in poll(2): it polls fd() for POLLIN beside its other
// descriptors, and calls Take when it has come back.
//
// Thread-safe, and Wake may be called in a signal handler.

#ifndef DSRUN_COMMON_BASE_WAKE_FD_H_
#define DSRUN_COMMON_BASE_WAKE_FD_H_

#include "absl/status/statusor.h"
#include "common/base/descriptor.h"

namespace dsrun {

class WakeFd {
 public:
  // Errors: RESOURCE_EXHAUSTED: no descriptor.
  static absl::StatusOr<WakeFd> Create();

  int fd() const { return fd_.get(); }
  void Wake() const;
  // Whether it was woken since the last time.
  bool Take() const;

 private:
  explicit WakeFd(Descriptor fd);

  Descriptor fd_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_WAKE_FD_H_
