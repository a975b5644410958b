#include "common/base/process_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/waits.h"

namespace dsrun {
namespace {

constexpr useconds_t kAgainMicros = 20'000;

// `unsure`: it may be there, and cannot be opened (no descriptor left).
std::string ReadAll(const std::string& path, bool* unsure = nullptr) {
  std::string content;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (unsure != nullptr && errno != ENOENT && errno != ESRCH) *unsure = true;
    return content;
  }
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) content.append(buffer, got);
  close(fd);
  return content;
}

std::optional<ProcessInfo> ReadStat(int32_t pid, bool* unsure = nullptr) {
  const std::string stat = ReadAll(absl::StrCat("/proc/", pid, "/stat"), unsure);
  // The name in brackets may hold anything, brackets too: the fields begin after the last one.
  const size_t bracket = stat.rfind(')');
  if (bracket == std::string::npos) return std::nullopt;
  ProcessInfo info;
  info.pid = pid;
  int parent = 0;
  unsigned long long start = 0;
  // state, parent, then 17 fields up to the start time (field 22).
  if (sscanf(stat.c_str() + bracket + 1,
             " %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
             &info.state, &parent, &start) != 3) {
    return std::nullopt;
  }
  info.parent = parent;
  info.start_ticks = start;
  return info;
}

std::vector<ProcessInfo> AllProcesses(bool* unsure) {
  std::vector<ProcessInfo> all;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) {
    *unsure = true;
    return all;
  }
  while (const dirent* entry = readdir(proc)) {
    const int pid = atoi(entry->d_name);
    if (pid <= 0) continue;
    if (std::optional<ProcessInfo> info = ReadStat(pid, unsure)) all.push_back(*info);
  }
  closedir(proc);
  return all;
}

// Pins the process and makes sure that it is the one that was seen. -1: it is gone.
int PinProcess(const ProcessInfo& seen, bool* unsure) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, seen.pid, 0));
  if (fd < 0) {
    *unsure |= errno != ESRCH;
    return -1;
  }
  const std::optional<ProcessInfo> now = ReadStat(seen.pid);
  if (now.has_value() && now->start_ticks == seen.start_ticks) return fd;
  close(fd);
  return -1;
}

void AwaitEnds(std::vector<pollfd>& pinned, absl::Duration deadline) {
  for (pollfd& fd : pinned) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    poll(&fd, 1, PollMilliseconds(left));
  }
}

std::vector<ProcessInfo> Descendants(int32_t root, bool* unsure) {
  if (root <= 0) return {};
  std::multimap<int32_t, ProcessInfo> by_parent;
  for (const ProcessInfo& info : AllProcesses(unsure)) by_parent.emplace(info.parent, info);
  std::vector<ProcessInfo> found;
  std::vector<int32_t> open_parents = {root};
  while (!open_parents.empty()) {
    const int32_t parent = open_parents.back();
    open_parents.pop_back();
    const auto [begin, end] = by_parent.equal_range(parent);
    for (auto it = begin; it != end; ++it) {
      found.push_back(it->second);
      open_parents.push_back(it->second.pid);
    }
    by_parent.erase(parent);  // each parent once, whatever a changing /proc showed us
  }
  return found;
}

}  // namespace

std::vector<ProcessInfo> DescendantsOf(int32_t root) {
  bool unsure = false;
  return Descendants(root, &unsure);
}

int KillDescendants(int32_t root, const std::function<bool(const ProcessInfo&)>& which,
                    absl::Duration limit) {
  const absl::Duration deadline = Clock::Real().SteadyNow() + limit;
  while (true) {
    std::vector<pollfd> pinned;
    bool unsure = false;
    for (const ProcessInfo& info : Descendants(root, &unsure)) {
      if (info.state == 'Z' || info.state == 'X') continue;
      if (which && !which(info)) continue;
      const int fd = PinProcess(info, &unsure);
      if (fd < 0) continue;
      syscall(SYS_pidfd_send_signal, fd, SIGKILL, nullptr, 0);
      pinned.push_back({fd, POLLIN, 0});
    }
    if (pinned.empty() && !unsure) return 0;
    AwaitEnds(pinned, deadline);
    for (const pollfd& fd : pinned) close(fd.fd);
    if (Clock::Real().SteadyNow() >= deadline) {
      return static_cast<int>(pinned.size()) + (unsure ? 1 : 0);
    }
    if (pinned.empty()) usleep(kAgainMicros);  // somebody may give a descriptor back
  }
}

KernelState KernelStateOf(int32_t pid) {
  KernelState kernel;
  if (const std::optional<ProcessInfo> info = ReadStat(pid)) kernel.state = info->state;
  const std::string channel = ReadAll(absl::StrCat("/proc/", pid, "/wchan"));
  if (channel != "0") kernel.wait_channel = channel;
  return kernel;
}

bool HasEnvironment(int32_t pid, std::string_view name_and_value) {
  const std::string environment = ReadAll(absl::StrCat("/proc/", pid, "/environ"));
  std::string_view rest = environment;
  while (!rest.empty()) {
    const size_t end = rest.find('\0');
    if (rest.substr(0, end) == name_and_value) return true;
    if (end == std::string_view::npos) return false;
    rest.remove_prefix(end + 1);
  }
  return false;
}

bool BecomeSubreaper() { return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0; }

}  // namespace dsrun
