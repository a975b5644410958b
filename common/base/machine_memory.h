// How much memory processes that this one starts can have, as the kernel says it now: of the
// machine, and of every control group (versions 1 and 2) from this process's own up to the root.
//
// What counts as in use: all that the kernel says is, but for page cache and slabs that it would
// drop when memory runs short (/proc/meminfo, MemAvailable; memory.stat of a group), and pages that
// somebody has mapped and not touched yet, where these are known to be meant for use: the arenas of
// other jobs' ranks that have just started (MemoryReader::arenas_of). Not counted, because it
// cannot be told from mappings that nobody will ever touch: untouched pages of any other program.
// Swap counts for nothing, neither as memory nor as a limit.
//
// Never fails: what cannot be read is not there (0, ""). Thread-safe.

#ifndef DSRUN_COMMON_BASE_MACHINE_MEMORY_H_
#define DSRUN_COMMON_BASE_MACHINE_MEMORY_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dsrun {

struct MachineMemory {
  int64_t total_bytes = 0;      // the least of the machine's memory and every limit; 0: not known
  int64_t available_bytes = 0;  // the least that is left of any of them, never below 0
  std::string boot_id;          // of the machine, since it was started
  // The group whose limit is total_bytes, as a path; of equal limits the outermost, which more
  // processes share. Empty: the machine's own memory is less than any limit.
  std::string cgroup;
  // Its number in the kernel (the inode of its folder): containers that each see their own group as
  // "/" have different ones. 0: no group.
  uint64_t cgroup_number = 0;
  std::string limited_by;  // the same for people: "cgroup /a/b", "this machine"
};

// How often the kernel has ended a process because memory had run out: of this process's own
// control group, whatever limit was met, and with version 2 of those below; of the whole machine,
// other people's processes included, where there is no group that counts.
struct OomKills {
  int64_t count = 0;
  std::string group;  // as a path; empty: of the machine
};

struct MemoryReader {
  // In front of every path that is read: tests lay out a machine of files below it.
  std::string root = {};
  // Name (as in /proc/PID/comm) of programs whose private mappings of kLeastArenaBytes and more are
  // all meant for use, and count as used. Empty: none.
  std::string arenas_of = {};
  // "NAME=beginning of its value": processes with such a variable are not counted by arenas_of.
  std::string but_not_with = {};

  MachineMemory Read() const;
  OomKills ReadOomKills() const;
  // Resident private memory of these processes, together: what comes back when they end or free it.
  int64_t ResidentBytes(const std::vector<int32_t>& pids) const;
};

// Below the arenas of any model that matters, above the stack of a thread (8 MiB).
inline constexpr int64_t kLeastArenaBytes = int64_t{16} << 20;

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_MACHINE_MEMORY_H_
