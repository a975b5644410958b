// Space: which memory a buffer is in. Pure.

#ifndef DSRUN_COMMON_PLAN_SPACE_H_
#define DSRUN_COMMON_PLAN_SPACE_H_

#include <string_view>

namespace dsrun {

enum class Space {
  kHost,    // the process's own
  kPinned,  // of the host, and a device's copies may run beside the host's work
  kDevice,  // where kernels compute: on the CPU host memory too, elsewhere not readable by the host
};

constexpr std::string_view NameOf(Space space) {
  switch (space) {
    case Space::kHost:
      return "host";
    case Space::kPinned:
      return "pinned";
    case Space::kDevice:
      return "device";
  }
  return "";
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_SPACE_H_
