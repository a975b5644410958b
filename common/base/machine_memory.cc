#include "common/base/machine_memory.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

namespace dsrun {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// A file that holds one number. Absent: no such file, or "max".
std::optional<int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

// "name value" or "name: value kB" a line; values as they stand.
std::map<std::string, int64_t> ReadNumbers(const std::string& path) {
  std::map<std::string, int64_t> numbers;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::stringstream words(line);
    std::string name;
    int64_t value = 0;
    if (!(words >> name >> value)) continue;
    if (name.back() == ':') name.pop_back();
    numbers[name] = value;
  }
  return numbers;
}

int64_t Of(const std::map<std::string, int64_t>& numbers, const std::string& name) {
  const auto found = numbers.find(name);
  return found == numbers.end() ? 0 : found->second;
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<std::string> Words(const std::string& line) {
  std::vector<std::string> words;
  std::stringstream stream(line);
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

bool HasItem(const std::string& list, const std::string& item) {
  return ("," + list + ",").find("," + item + ",") != std::string::npos;
}

// Whether `path` is `group` or lies below it.
bool IsWithin(const std::string& path, const std::string& group) {
  return group == "/" || path == group || path.starts_with(group + "/");
}

// The hierarchy of control groups that counts memory: version 1's controller "memory", else the
// unified one of version 2.
struct Hierarchy {
  int version = 0;          // 0: none
  std::string mount_point;  // where it is seen
  std::string mount_root;   // the group that is seen there
};

// Lines of /proc/PID/mountinfo: "36 35 98:0 ROOT POINT options ... - TYPE source super-options".
std::optional<Hierarchy> FromMountLine(const std::string& line, int version) {
  const std::vector<std::string> words = Words(line);
  const auto dash = std::find(words.begin(), words.end(), "-");
  if (words.size() < 5 || words.end() - dash < 3) return std::nullopt;
  const std::string& type = dash[1];
  const std::string super = words.end() - dash > 3 ? dash[3] : "";
  if (version == 1 && (type != "cgroup" || !HasItem(super, "memory"))) return std::nullopt;
  if (version == 2 && type != "cgroup2") return std::nullopt;
  return Hierarchy{version, words[4], words[3]};
}

Hierarchy FindHierarchy(const std::string& root) {
  for (const int version : {1, 2}) {
    std::ifstream mounts(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) {
      if (auto found = FromMountLine(line, version)) return *std::move(found);
    }
  }
  return {};
}

// The group of process `pid` ("self") in that hierarchy: lines "ID:CONTROLLERS:PATH", version 2
// without controllers. Empty: in none.
std::string GroupOf(const std::string& root, const std::string& pid, int version) {
  std::ifstream file(root + "/proc/" + pid + "/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool this_one = version == 1 ? HasItem(controllers, "memory") : controllers.empty();
    if (this_one) return line.substr(second + 1);
  }
  return "";
}

// One group's numbers.
struct Level {
  std::string group;
  uint64_t number = 0;
  int64_t limit = kNoLimit;
  int64_t used = 0;  // what could not be dropped
};

int64_t Droppable(const std::map<std::string, int64_t>& stat, int version) {
  // Version 1 has the numbers of the whole subtree, which the limit is about, under "total_".
  const std::string prefix = version == 1 ? "total_" : "";
  const int64_t cache = Of(stat, prefix + "inactive_file") + Of(stat, prefix + "active_file");
  return cache + Of(stat, "slab_reclaimable") -
         Of(stat, version == 1 ? "total_dirty" : "file_dirty");
}

Level ReadLevel(const Hierarchy& hierarchy, const std::string& folder, const std::string& group,
                bool topmost) {
  Level level;
  level.group = group;
  struct stat facts;
  if (stat(folder.c_str(), &facts) == 0) level.number = facts.st_ino;
  const std::map<std::string, int64_t> numbers = ReadNumbers(folder + "/memory.stat");
  int64_t usage = 0;
  if (hierarchy.version == 1) {
    level.limit = ReadNumber(folder + "/memory.limit_in_bytes").value_or(kNoLimit);
    usage = ReadNumber(folder + "/memory.usage_in_bytes").value_or(0);
    // Limits of groups above the highest that is seen here, as in a container.
    const int64_t above = Of(numbers, "hierarchical_memory_limit");
    if (topmost && above > 0) level.limit = std::min(level.limit, above);
  } else {
    // From `high` on the kernel takes memory back and slows the group down: a limit to plan with.
    level.limit = std::min(ReadNumber(folder + "/memory.max").value_or(kNoLimit),
                           ReadNumber(folder + "/memory.high").value_or(kNoLimit));
    usage = ReadNumber(folder + "/memory.current").value_or(0);
  }
  level.used =
      std::max<int64_t>(usage - std::max<int64_t>(Droppable(numbers, hierarchy.version), 0), 0);
  return level;
}

// Of a group, below the mount point. What is mounted may be a group itself: paths go on from there.
std::string BelowMount(const Hierarchy& hierarchy, const std::string& group) {
  std::string below = IsWithin(group, hierarchy.mount_root) && hierarchy.mount_root != "/"
                          ? group.substr(hierarchy.mount_root.size())
                          : group;
  if (below == "/") below.clear();
  return below;
}

// From this process's group up to the highest that is seen.
std::vector<Level> ReadLevels(const std::string& root, const Hierarchy& hierarchy) {
  std::vector<Level> levels;
  std::string group = GroupOf(root, "self", hierarchy.version);
  if (hierarchy.version == 0 || group.empty()) return levels;
  while (true) {
    const std::string below = BelowMount(hierarchy, group);
    const std::string folder = root + hierarchy.mount_point + below;
    const bool topmost = below.empty();
    levels.push_back(ReadLevel(hierarchy, folder, group, topmost));
    if (topmost) return levels;
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return levels;
    group = slash == 0 ? "/" : group.substr(0, slash);
    // Version 1 without hierarchy: the group above counts only its own processes.
    const std::string above = folder.substr(0, folder.rfind('/'));
    if (hierarchy.version == 1 && ReadNumber(above + "/memory.use_hierarchy") == 0) return levels;
  }
}

// ---- Arenas that are mapped and not touched yet

struct Untouched {
  std::string group;
  int64_t bytes = 0;
};

bool HasVariable(const std::string& process, const std::string& beginning) {
  if (beginning.empty()) return false;
  const std::string all = ReadAll(process + "/environ");
  for (size_t at = 0; at < all.size();) {
    if (all.compare(at, beginning.size(), beginning) == 0) return true;
    const size_t end = all.find('\0', at);
    if (end == std::string::npos) break;
    at = end + 1;
  }
  return false;
}

// Private writable mappings of no file, as in "7f0000000000-7f0040000000 rw-p 00000000 00:00 0".
// One that is larger than the machine is a sanitizer's and not meant for use.
int64_t ArenaBytes(const std::string& process, int64_t machine_bytes) {
  int64_t bytes = 0;
  std::ifstream maps(process + "/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::vector<std::string> words = Words(line);
    if (words.size() != 5 || words[1] != "rw-p") continue;
    std::stringstream range(words[0]);
    uint64_t begin = 0;
    uint64_t end = 0;
    char dash = 0;
    if (!(range >> std::hex >> begin >> dash >> end) || end < begin) continue;
    const auto size = static_cast<int64_t>(end - begin);
    if (size >= kLeastArenaBytes && size <= machine_bytes) bytes += size;
  }
  return bytes;
}

int64_t ResidentOf(const std::string& process) {
  return Of(ReadNumbers(process + "/status"), "RssAnon") * 1024;
}

std::vector<Untouched> FindUntouched(const MemoryReader& reader, int version,
                                     int64_t machine_bytes) {
  std::vector<Untouched> found;
  if (reader.arenas_of.empty()) return found;
  std::error_code error;
  for (fs::directory_iterator it(reader.root + "/proc", error), end; !error && it != end;
       it.increment(error)) {
    const std::string pid = it->path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string process = it->path();
    if (FirstLine(process + "/comm") != reader.arenas_of) continue;
    if (HasVariable(process, reader.but_not_with)) continue;
    const int64_t bytes = ArenaBytes(process, machine_bytes) - ResidentOf(process);
    if (bytes > 0) found.push_back({GroupOf(reader.root, pid, version), bytes});
  }
  return found;
}

}  // namespace

MachineMemory MemoryReader::Read() const {
  const std::map<std::string, int64_t> info = ReadNumbers(root + "/proc/meminfo");
  MachineMemory memory;
  memory.total_bytes = Of(info, "MemTotal") * 1024;
  memory.available_bytes = Of(info, "MemAvailable") * 1024;
  memory.boot_id = FirstLine(root + "/proc/sys/kernel/random/boot_id");
  memory.limited_by = "this machine";
  if (memory.total_bytes == 0) return {};
  const int64_t machine_bytes = memory.total_bytes;
  const Hierarchy hierarchy = FindHierarchy(root);
  const std::vector<Untouched> untouched = FindUntouched(*this, hierarchy.version, machine_bytes);
  for (const Untouched& each : untouched) memory.available_bytes -= each.bytes;
  for (const Level& level : ReadLevels(root, hierarchy)) {
    if (level.limit >= machine_bytes) continue;
    int64_t left = level.limit - level.used;
    for (const Untouched& each : untouched) {
      if (IsWithin(each.group, level.group)) left -= each.bytes;
    }
    memory.available_bytes = std::min(memory.available_bytes, left);
    if (level.limit > memory.total_bytes) continue;
    memory.total_bytes = level.limit;
    memory.cgroup = level.group;
    memory.cgroup_number = level.number;
    memory.limited_by = "cgroup " + level.group;
  }
  memory.available_bytes = std::max<int64_t>(memory.available_bytes, 0);
  return memory;
}

OomKills MemoryReader::ReadOomKills() const {
  const Hierarchy hierarchy = FindHierarchy(root);
  const std::string group = GroupOf(root, "self", hierarchy.version);
  if (hierarchy.version != 0 && !group.empty()) {
    const std::string folder = root + hierarchy.mount_point + BelowMount(hierarchy, group);
    const char* const file = hierarchy.version == 1 ? "/memory.oom_control" : "/memory.events";
    const std::map<std::string, int64_t> numbers = ReadNumbers(folder + file);
    const auto found = numbers.find("oom_kill");
    if (found != numbers.end()) return {found->second, group};
  }
  return {Of(ReadNumbers(root + "/proc/vmstat"), "oom_kill"), ""};
}

int64_t MemoryReader::ResidentBytes(const std::vector<int32_t>& pids) const {
  int64_t bytes = 0;
  for (const int32_t pid : pids) bytes += ResidentOf(root + "/proc/" + std::to_string(pid));
  return bytes;
}

}  // namespace dsrun
