// The processes below a process, found through /proc, and how to end them. A process that made its
// own session or forked twice is still found: a child subreaper stays its ancestor.
//
// Nothing outside the given tree is ever signalled: each process is pinned by a pidfd, and its
// start time and ancestry are read again, before it is killed.
// Thread-safe.

#ifndef DSRUN_COMMON_BASE_PROCESS_TREE_H_
#define DSRUN_COMMON_BASE_PROCESS_TREE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace dsrun {

struct ProcessInfo {
  int32_t pid = 0;
  int32_t parent = 0;
  char state = '?';          // as in /proc/PID/stat; 'Z': zombie
  uint64_t start_ticks = 0;  // since boot; with pid it names a process for ever
};

// All processes below `root`, zombies included, without `root`.
std::vector<ProcessInfo> DescendantsOf(int32_t root);

// Kills every living process below `root` for which `which` holds (all, if it is empty), again and
// again until a look finds none; waits for their end, `limit` at most. Returns how many were still
// there at the end: 0 is success. What cannot be looked at for want of a descriptor counts as
// there. Reaps nothing.
int KillDescendants(int32_t root, const std::function<bool(const ProcessInfo&)>& which,
                    absl::Duration limit);

// What the kernel says of one process now.
struct KernelState {
  char state = '?';          // as ProcessInfo::state; '?': there is no such process
  std::string wait_channel;  // the kernel's function in which it sleeps; empty: none, or not told
};
KernelState KernelStateOf(int32_t pid);

// True if the process was started with "NAME=value" in its environment.
bool HasEnvironment(int32_t pid, std::string_view name_and_value);

// Makes this process the parent of all orphans below it.
bool BecomeSubreaper();

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROCESS_TREE_H_
