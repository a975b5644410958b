// How many processors this process may use, which may be fewer than the machine has: taskset,
// cgroups with cpusets. At least 1.

#ifndef DSRUN_COMMON_BASE_USABLE_PROCESSORS_H_
#define DSRUN_COMMON_BASE_USABLE_PROCESSORS_H_

#include <sched.h>

#include <algorithm>

namespace dsrun {

inline int UsableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_USABLE_PROCESSORS_H_
