#include "common/base/process_tree.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/proc_file.h"
#include "common/base/waits.h"

namespace dsrun {
namespace {

constexpr useconds_t kAgainMicros = 20'000;
constexpr int kDeepest = 4096;

// "Name:" of /proc/PID/status; empty: it is not there.
std::string StatusField(const std::string& status, const std::string& name) {
  const size_t at = ("\n" + status).find(absl::StrCat("\n", name, ":\t"));
  if (at == std::string::npos) return "";
  const size_t begin = at + name.size() + 2;
  return status.substr(begin, status.find('\n', begin) - begin);
}

const char* StateWords(char state) {
  switch (state) {
    case 'D':
      return " (uninterruptible sleep: a disk or file server that does not answer)";
    case 'T':
      return " (stopped)";
    case 't':
      return " (stopped by its debugger)";
    case 'Z':
      return " (a zombie, which has ended and is held)";
    case '?':
      return " (nothing is told of it)";
    default:
      return "";
  }
}

std::optional<ProcessInfo> ReadStat(int32_t pid, bool* unsure = nullptr) {
  const std::string stat = ReadProcFile(absl::StrCat("/proc/", pid, "/stat"), unsure);
  // The name in brackets may hold anything, brackets too: the fields begin after the last one.
  const size_t bracket = stat.rfind(')');
  if (bracket == std::string::npos) return std::nullopt;
  ProcessInfo info;
  info.pid = pid;
  int parent = 0;
  int session = 0;
  unsigned long long start = 0;
  // state, parent, group, session, then 15 fields up to the start time (field 22).
  if (sscanf(stat.c_str() + bracket + 1,
             " %c %d %*s %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
             &info.state, &parent, &session, &start) != 4) {
    return std::nullopt;
  }
  info.parent = parent;
  info.session = session;
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

// The pids of its children, hidden ones too, as far as it may be looked at itself.
std::vector<int32_t> ChildrenOf(int32_t pid, bool* unsure) {
  std::vector<int32_t> children;
  const std::string tasks = absl::StrCat("/proc/", pid, "/task");
  DIR* folder = opendir(tasks.c_str());
  if (folder == nullptr) {
    *unsure |= MeansUnsure(errno);
    return children;
  }
  while (const dirent* entry = readdir(folder)) {
    if (atoi(entry->d_name) <= 0) continue;
    const std::string list =
        ReadProcFile(absl::StrCat(tasks, "/", entry->d_name, "/children"), unsure);
    for (const absl::string_view word : absl::StrSplit(list, ' ', absl::SkipWhitespace())) {
      int32_t child = 0;
      if (absl::SimpleAtoi(word, &child)) children.push_back(child);
    }
  }
  closedir(folder);
  return children;
}

bool IsChild(int32_t pid, int32_t parent) {
  bool unsure = false;
  const std::vector<int32_t> children = ChildrenOf(parent, &unsure);
  return std::find(children.begin(), children.end(), pid) != children.end();
}

// A child that was not listed: it was born meanwhile, or is hidden. Nothing: it is gone.
std::optional<ProcessInfo> LookAtUnlisted(int32_t pid, int32_t parent) {
  if (std::optional<ProcessInfo> info = ReadStat(pid)) return info;
  const pid_t session = getsid(pid);
  if (session < 0) return std::nullopt;
  ProcessInfo hidden;
  hidden.pid = pid;
  hidden.parent = parent;
  hidden.session = session;
  return hidden;
}

// Pins the process and makes sure that it is the one that was seen. -1: it is gone.
int PinProcess(const ProcessInfo& seen, bool* unsure) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, seen.pid, 0));
  if (fd < 0) {
    *unsure |= errno != ESRCH;
    return -1;
  }
  if (seen.start_ticks == 0) {
    // Nothing tells one hidden process from another; but this one is below us even if it is
    // another. Nor does anything else tell a zombie.
    pollfd ended{.fd = fd, .events = POLLIN, .revents = 0};
    if (IsChild(seen.pid, seen.parent) && poll(&ended, 1, 0) == 0) return fd;
  } else {
    const std::optional<ProcessInfo> now = ReadStat(seen.pid);
    if (now.has_value() && now->start_ticks == seen.start_ticks) return fd;
  }
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
  std::set<int32_t> listed;
  for (const ProcessInfo& info : AllProcesses(unsure)) {
    by_parent.emplace(info.parent, info);
    listed.insert(info.pid);
  }
  // Who has a parent that is not listed tells that some are hidden.
  const bool some_are_hidden = std::any_of(
      by_parent.begin(), by_parent.end(),
      [&](const auto& entry) { return entry.first > 0 && !listed.contains(entry.first); });
  std::vector<ProcessInfo> found;
  std::vector<int32_t> open_parents = {root};
  while (!open_parents.empty()) {
    const int32_t parent = open_parents.back();
    open_parents.pop_back();
    if (some_are_hidden || parent == root) {
      for (const int32_t child : ChildrenOf(parent, unsure)) {
        if (!listed.insert(child).second) continue;
        if (std::optional<ProcessInfo> info = LookAtUnlisted(child, parent)) {
          by_parent.emplace(parent, *info);
        }
      }
    }
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

absl::Status CheckProcIsMounted() {
  if (access("/proc/self/stat", R_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "needs /proc mounted, and cannot read /proc/self/stat: ", strerror(errno),
      "; without it the processes of a job are not found. Mount it (mount -t proc proc /proc)"));
}

absl::Status CheckKernel() {
  const char* call = "pidfd_open";
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  bool works = fd >= 0;
  if (works) {
    call = "pidfd_send_signal";
    works = syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0) == 0;
  }
  const int error = errno;
  if (fd >= 0) close(fd);
  if (works) return absl::OkStatus();
  utsname kernel = {};
  uname(&kernel);
  return absl::FailedPreconditionError(
      absl::StrCat("needs the system call ", call, ", and cannot use it on this kernel (",
                   kernel.release, "): ", strerror(error),
                   "; use Linux 5.3 or newer, or let the container's seccomp profile allow it"));
}

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
  const std::string channel = ReadProcFile(absl::StrCat("/proc/", pid, "/wchan"));
  if (channel != "0") kernel.wait_channel = channel;
  return kernel;
}

bool MayBeOurChild(int32_t pid) {
  const std::optional<ProcessInfo> info = ReadStat(pid);
  return !info.has_value() || info->parent == getpid();
}

std::string ProcessWords(int32_t pid) {
  const KernelState kernel = KernelStateOf(pid);
  const std::string status = ReadProcFile(absl::StrCat("/proc/", pid, "/status"));
  const std::string name = StatusField(status, "Name");
  const std::string tracer = StatusField(status, "TracerPid");
  std::string words = absl::StrCat("process ", pid);
  if (!name.empty()) absl::StrAppend(&words, " (", name, ")");
  absl::StrAppend(&words, ": state ", std::string(1, kernel.state), StateWords(kernel.state));
  if (!kernel.wait_channel.empty()) absl::StrAppend(&words, ", waits in ", kernel.wait_channel);
  if (!tracer.empty() && tracer != "0") {
    absl::StrAppend(&words, ", debugged by process ", tracer, ", which has to let it go");
  }
  return words;
}

std::string ProcessWords(const std::vector<ProcessInfo>& processes) {
  constexpr size_t kShown = 5;
  std::string words;
  for (size_t i = 0; i < processes.size() && i < kShown; ++i) {
    absl::StrAppend(&words, i == 0 ? "" : "; ", ProcessWords(processes[i].pid));
  }
  if (processes.size() > kShown) {
    absl::StrAppend(&words, "; ", kShown, " of ", processes.size(), " shown");
  }
  return words;
}

BornBefore BornBefore::Look() {
  BornBefore before;
  if (const std::optional<ProcessInfo> self = ReadStat(getpid())) {
    before.sessions_.insert(self->session);
  }
  for (const ProcessInfo& process : DescendantsOf(getpid())) {
    before.processes_.emplace(process.pid, process.start_ticks);
    before.sessions_.insert(process.session);
  }
  return before;
}

bool BornBefore::Has(const ProcessInfo& process) const {
  std::optional<ProcessInfo> at = process;
  // Up to this process, and no further than the deepest tree.
  for (int i = 0; at && at->pid != getpid() && at->pid > 1 && i < kDeepest; ++i) {
    if (sessions_.contains(at->session) || processes_.contains({at->pid, at->start_ticks})) {
      return true;
    }
    at = ReadStat(at->parent);
  }
  return false;
}

std::vector<ProcessInfo> BornBefore::OurDescendants() const {
  std::vector<ProcessInfo> ours = DescendantsOf(getpid());
  std::erase_if(ours, [this](const ProcessInfo& process) { return Has(process); });
  return ours;
}

int BornBefore::KillOurDescendants(absl::Duration limit) const {
  return KillDescendants(
      getpid(), [this](const ProcessInfo& process) { return !Has(process); }, limit);
}

bool HasEnvironment(int32_t pid, std::string_view name_and_value) {
  const std::string environment = ReadProcFile(absl::StrCat("/proc/", pid, "/environ"));
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
