#include "launcher/commands/machine.h"

#include <pwd.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <system_error>

#include "common/base/cpu_isa.h"
#include "common/base/machine_memory.h"
#include "common/base/usable_processors.h"

extern char** environ;

namespace dsrun::launcher {
namespace {

namespace fs = std::filesystem;

constexpr char kWorkerName[] = "dsworker";  // as the kernel names its processes

std::string UserName() {
  const passwd* entry = ::getpwuid(::geteuid());
  return entry != nullptr ? entry->pw_name : std::to_string(::geteuid());
}

std::string ProgramDir() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? "" : self.parent_path().string();
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
  machine.cores = UsableProcessors();
  machine.gpus = Gpus();
  const MachineMemory memory = MemoryReader{.arenas_of = kWorkerName}.Read();
  machine.memory_available = memory.available_bytes;
  machine.memory_total = memory.total_bytes;
  if (!memory.limited_by.empty()) machine.memory_limited_by = memory.limited_by;
  machine.isa = IsaName(BestIsa());
  if (BestLibraryIsa() != BestIsa()) machine.bf16_isa = IsaName(BestLibraryIsa());
  machine.now = clock.WallNow();
  machine.zone = absl::LocalTimeZone();
  machine.random = std::random_device()();
  machine.stdout_is_terminal = ::isatty(STDOUT_FILENO) == 1;
  return machine;
}

}  // namespace dsrun::launcher
