// Space: which memory a buffer is in. Pure.

#ifndef DSRUN_COMMON_PLAN_SPACE_H_
#define DSRUN_COMMON_PLAN_SPACE_H_

namespace dsrun {

enum class Space {
  kHost,    // the process's own
  kPinned,  // of the host, and a device's copies may run beside the host's work
  kDevice,  // where kernels compute: on the CPU host memory too, elsewhere not readable by the host
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_SPACE_H_
