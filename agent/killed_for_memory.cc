#include "agent/killed_for_memory.h"

#include "absl/strings/str_cat.h"
#include "common/base/memory_marks.h"

namespace dsrun::agent {

std::string KilledForMemory::Explain() {
  MutexLock lock(mu_);
  const OomKills now = read_();
  if (now.count <= told_) return "";
  ++told_;  // of several that were killed each has its call
  if (now.group.empty()) {
    return absl::StrCat(
        kKilledForMemory, ", as it seems: meanwhile the kernel has ended a process of ",
        "this machine because memory had run out (oom_kill ", now.count, " in /proc/vmstat)");
  }
  return absl::StrCat(kKilledForMemory, " by the kernel (oom_kill ", now.count,
                      " in control group ", now.group, ")");
}

}  // namespace dsrun::agent
