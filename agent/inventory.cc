#include "agent/inventory.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "agent/worker_command.h"
#include "common/base/cpu_isa.h"
#include "common/base/machine_memory.h"
#include "common/base/usable_processors.h"

namespace dsrun::agent {
namespace {

constexpr char kVersion[] = "0.1.0";
constexpr int kMaxGpus = 64;
constexpr char kWorkerName[] = "dsworker";  // as the kernel names its processes

int CountGpus() {
  int count = 0;
  for (int i = 0; i < kMaxGpus; ++i) {
    if (access(absl::StrCat("/dev/nvidia", i).c_str(), F_OK) == 0) ++count;
  }
  return count;
}

}  // namespace

proto::Opened ReadInventory() {
  proto::Opened opened;
  opened.set_pid(getpid());
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  opened.set_host_name(name);
  opened.set_cpu_count(UsableProcessors());
  opened.set_memory_bytes(int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE));
  opened.set_isa(IsaName(BestIsa()));
  opened.set_gpu_count(CountGpus());
  opened.set_version(kVersion);
  return opened;
}

proto::NodeMemory ReadNodeMemory(const std::string& job_id, const std::vector<int32_t>& pids) {
  const MemoryReader reader{.arenas_of = kWorkerName,
                            .but_not_with = absl::StrCat(kWorkerTagVariable, "=", job_id, "/")};
  // In this order: what a rank gives back in between is counted in neither, rather than in both.
  const MachineMemory machine = reader.Read();
  proto::NodeMemory memory;
  memory.set_total_bytes(machine.total_bytes);
  memory.set_available_bytes(machine.available_bytes);
  memory.set_ranks_bytes(reader.ResidentBytes(pids));
  memory.set_boot_id(machine.boot_id);
  // Paths are seen from within a container; with the number two groups are never taken for one.
  if (!machine.cgroup.empty()) {
    memory.set_cgroup(absl::StrCat(machine.cgroup, "@", machine.cgroup_number));
  }
  memory.set_limited_by(machine.limited_by);
  return memory;
}

}  // namespace dsrun::agent
