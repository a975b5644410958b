#include "agent/inventory.h"

#include <sched.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/cpu_isa.h"

namespace dsrun::agent {
namespace {

constexpr char kVersion[] = "0.1.0";
constexpr int kMaxGpus = 64;

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
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  sched_getaffinity(0, sizeof(cpus), &cpus);
  opened.set_cpu_count(CPU_COUNT(&cpus));
  opened.set_memory_bytes(int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE));
  opened.set_isa(IsaName(BestIsa()));
  opened.set_gpu_count(CountGpus());
  opened.set_version(kVersion);
  return opened;
}

}  // namespace dsrun::agent
