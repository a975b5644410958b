// The processes below a process, found through /proc, and how to end them. A process that made its
// own session or forked twice is still found: a child subreaper stays its ancestor.
//
// Processes may be hidden: of other users, or without a dump as an agent, where /proc is mounted
// with hidepid and we have no CAP_SYS_PTRACE. Below a process that is not hidden they are known
// through its list of children (/proc/PID/task/TID/children), and what is below them by its parent;
// where the kernel keeps no such lists (CONFIG_PROC_CHILDREN) they are not found.
//
// Nothing outside the given tree is ever signalled: each process is pinned by a pidfd, and its
// start time and ancestry are read again, before it is killed.
// Thread-safe.
//
// A process may have children that it did not start: whoever executed it had them before
// (`exec > >(tee log)` in a shell makes tee a child of what is executed next). BornBefore knows
// them.

#ifndef DSRUN_COMMON_BASE_PROCESS_TREE_H_
#define DSRUN_COMMON_BASE_PROCESS_TREE_H_

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace dsrun {

struct ProcessInfo {
  int32_t pid = 0;
  int32_t parent = 0;
  int32_t session = 0;
  char state = '?';          // as in /proc/PID/stat; 'Z': zombie, '?': it is hidden
  uint64_t start_ticks = 0;  // since boot; with pid it names a process for ever; 0: it is hidden
};

// Nothing of this works without. Errors: FAILED_PRECONDITION: /proc is not mounted.
absl::Status CheckProcIsMounted();

// Nor without these. Errors: FAILED_PRECONDITION: the kernel is older than Linux 5.3, or a seccomp
// profile refuses its calls: no process can be waited for or signalled without the danger that its
// number is another's by then.
absl::Status CheckKernel();

// All processes below `root`, zombies included, without `root`.
std::vector<ProcessInfo> DescendantsOf(int32_t root);

// Kills every living process below `root` for which `which` holds (all, if it is empty), again and
// again until a look finds none; waits for their end, `limit` at most. Returns how many were still
// there at the end: 0 is success. What cannot be looked at for want of a descriptor or of memory
// counts as there. Reaps nothing.
int KillDescendants(int32_t root, const std::function<bool(const ProcessInfo&)>& which,
                    absl::Duration limit);

// What the kernel says of one process now.
struct KernelState {
  char state = '?';          // as ProcessInfo::state; '?': there is no such process
  std::string wait_channel;  // the kernel's function in which it sleeps; empty: none, or not told
};
KernelState KernelStateOf(int32_t pid);

// Whether this process is its parent: it has started it, or has taken it in as a subreaper. True
// also where nothing is told of it (hidepid).
bool MayBeOurChild(int32_t pid);

// A process that did not end when it should have, for people: its name, its state, what the kernel
// waits for in it and who debugs it, as far as these can be read. "process 71 (dsworker): state D
// (uninterruptible sleep: a disk or file server that does not answer), waits in fuse_wait_answer".
std::string ProcessWords(int32_t pid);
// The same for several, one after another; the first five are described.
std::string ProcessWords(const std::vector<ProcessInfo>& processes);

// The descendants of this process that somebody else had started before it looked, with all that
// comes of them: none of ours to end. The programs of this project stand apart from such processes
// (stand_apart.h) and have none; this is for whoever cannot, as tests. What a ProcessRunner starts
// leads a session of its own, which nobody can leave for one that is older; so whoever is in a
// session of then is none of ours, nor whoever is below one of those. Not known: a process that one
// of them starts in a session of its own and then leaves to us by ending (a double fork after the
// look).
class BornBefore {
 public:
  // Now. REQUIRES: nothing was started yet.
  static BornBefore Look();

  bool Has(const ProcessInfo& process) const;
  // Those that are below this process now and that it does not have.
  std::vector<ProcessInfo> OurDescendants() const;
  // KillDescendants of this process for them.
  int KillOurDescendants(absl::Duration limit) const;

 private:
  std::set<std::pair<int32_t, uint64_t>> processes_;  // pid, start_ticks
  std::set<int32_t> sessions_;
};

// True if the process was started with "NAME=value" in its environment.
bool HasEnvironment(int32_t pid, std::string_view name_and_value);

// Makes this process the parent of all orphans below it.
bool BecomeSubreaper();

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROCESS_TREE_H_
