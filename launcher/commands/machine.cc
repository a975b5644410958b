#include "launcher/commands/machine.h"

#include <pwd.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <system_error>

#include "common/base/cpu_isa.h"

extern char** environ;

namespace dsrun::launcher {
namespace {

namespace fs = std::filesystem;

std::string UserName() {
  const passwd* entry = ::getpwuid(::geteuid());
  return entry != nullptr ? entry->pw_name : std::to_string(::geteuid());
}

std::string ProgramDir() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? "" : self.parent_path().string();
}

int Cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

int Gpus() {
  int count = 0;
  std::error_code error;
  for (fs::directory_iterator it("/proc/driver/nvidia/gpus", error), end; !error && it != end;
       it.increment(error)) {
    ++count;
  }
  return count;
}

std::optional<int64_t> ReadNumber(const char* path) {
  std::ifstream in(path);
  int64_t value = 0;
  if (!(in >> value)) return std::nullopt;  // also "max"
  return value;
}

int64_t MemAvailable() {
  std::ifstream in("/proc/meminfo");
  std::string name;
  int64_t kib = 0;
  std::string rest;
  while (in >> name >> kib) {
    if (name == "MemAvailable:") return kib * 1024;
    std::getline(in, rest);
  }
  return 0;
}

// The machine's free memory, or what is left under this process's memory limit if that is less.
int64_t AvailableMemory() {
  int64_t available = MemAvailable();
  const std::pair<const char*, const char*> limits[] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
       "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
  };
  for (const auto& [limit_path, usage_path] : limits) {
    const std::optional<int64_t> limit = ReadNumber(limit_path);
    const std::optional<int64_t> usage = ReadNumber(usage_path);
    if (limit.has_value() && usage.has_value() && *limit > *usage) {
      available = std::min(available, *limit - *usage);
    }
  }
  return available;
}

}  // namespace

const char* Machine::Variable(std::string_view name) const {
  for (const std::string& entry : environment) {
    if (entry.size() > name.size() && entry[name.size()] == '=' &&
        std::string_view(entry).substr(0, name.size()) == name) {
      return entry.c_str() + name.size() + 1;
    }
  }
  return nullptr;
}

Machine ReadMachine(Clock& clock) {
  Machine machine;
  for (char** entry = environ; *entry != nullptr; ++entry) machine.environment.push_back(*entry);
  std::error_code error;
  machine.working_dir = fs::current_path(error).string();
  machine.user = UserName();
  machine.program_dir = ProgramDir();
  machine.cores = Cores();
  machine.gpus = Gpus();
  machine.memory_available = AvailableMemory();
  machine.isa = IsaName(BestIsa());
  machine.now = clock.WallNow();
  machine.zone = absl::LocalTimeZone();
  machine.random = std::random_device()();
  machine.stdout_is_terminal = ::isatty(STDOUT_FILENO) == 1;
  return machine;
}

}  // namespace dsrun::launcher
