#include "common/base/dying_process.h"

#include <dirent.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/proc_file.h"

namespace dsrun {
namespace {

// A line of /proc/PID/status without its name; empty: it is not there.
std::string Field(const std::string& status, const std::string& name) {
  const size_t at = ("\n" + status).find(absl::StrCat("\n", name, ":"));
  if (at == std::string::npos) return "";
  const size_t begin = status.find_first_not_of(" \t", at + name.size() + 1);
  if (begin == std::string::npos) return "";
  return status.substr(begin, status.find('\n', begin) - begin);
}

// What the status file of a process (its main thread), or of one thread, says.
struct ThreadState {
  std::string name;
  char state = '?';     // '?': it is not there
  bool killed = false;  // SIGKILL waits for it: it comes back from the kernel only to end
  bool left = false;    // it has given its memory back: it is on its way out
  bool dumps_core = false;

  bool ended() const { return state == 'Z' || state == 'X' || state == '?'; }
};

ThreadState ReadThread(const std::string& folder) {
  const std::string status = ReadProcFile(folder + "/status");
  ThreadState thread;
  if (status.empty()) return thread;
  thread.name = Field(status, "Name");
  const std::string state = Field(status, "State");
  if (!state.empty()) thread.state = state[0];
  const uint64_t pending = strtoull(Field(status, "SigPnd").c_str(), nullptr, 16);
  thread.killed = (pending & (uint64_t{1} << (SIGKILL - 1))) != 0;
  thread.left = Field(status, "VmSize").empty();
  thread.dumps_core = Field(status, "CoreDumping") == "1";
  return thread;
}

std::vector<int32_t> ThreadsOf(const std::string& process) {
  std::vector<int32_t> threads;
  DIR* const folder = opendir((process + "/task").c_str());
  if (folder == nullptr) return threads;
  while (const dirent* entry = readdir(folder)) {
    const int thread = atoi(entry->d_name);
    if (thread > 0) threads.push_back(thread);
  }
  closedir(folder);
  return threads;
}

// The last field of /proc/PID/stat, as waitpid would give it; nothing: not told.
std::optional<int> WaitStatusOf(const std::string& process) {
  const std::string stat = ReadProcFile(process + "/stat");
  const size_t space = stat.find_last_of(' ');
  if (space == std::string::npos) return std::nullopt;
  return atoi(stat.c_str() + space + 1);
}

// Older kernels tell it of a main thread that has ended, and 0 of one that has not; then it is
// SIGKILL, which has it in hand whatever has happened before.
ProcessEnd EndOf(const std::string& process, const ThreadState& main) {
  const int status = WaitStatusOf(process).value_or(main.ended() ? SIGKILL : 0);
  ProcessEnd end;
  if (status == 0 && !main.ended()) {
    end.term_signal = SIGKILL;
  } else if (WIFSIGNALED(status)) {
    end.term_signal = WTERMSIG(status);
  } else {
    end.exit_code = WEXITSTATUS(status);
  }
  return end;
}

}  // namespace

DyingLook LookAtDying(int32_t pid) {
  const std::string process = absl::StrCat("/proc/", pid);
  const ThreadState main = ReadThread(process);
  if (main.state == '?') return {};
  if (!main.ended() && !main.killed && !main.left && !main.dumps_core) return {};
  DyingLook look;
  look.dying = true;
  look.dumps_core = main.dumps_core;
  look.program = main.name;
  for (const int32_t id : ThreadsOf(process)) {
    const std::string folder = absl::StrCat(process, "/task/", id);
    const ThreadState thread = ReadThread(folder);
    if (thread.ended()) continue;
    if (!thread.killed && !thread.left && !main.dumps_core) return {};  // it runs on
    // Who dumps the core, and who waits for that, have no SIGKILL before them.
    const bool stuck = thread.state == 'D' && (thread.killed || !main.dumps_core);
    if (!stuck || look.stuck_thread != 0) continue;
    look.stuck_thread = id;
    look.thread_name = thread.name;
    look.wait_channel = ReadProcFile(folder + "/wchan");
    if (look.wait_channel == "0") look.wait_channel.clear();
  }
  look.end = EndOf(process, main);
  return look;
}

std::string DyingWords(int32_t pid, const DyingLook& look) {
  std::string words = absl::StrCat("process ", pid);
  if (!look.program.empty()) absl::StrAppend(&words, " (", look.program, ")");
  absl::StrAppend(&words, " is dead and does not end: ");
  if (look.stuck_thread == 0) {
    return absl::StrCat(words, "it is seen dying for ", absl::FormatDuration(DyingFor::kAnything),
                        "; a debugger may hold it, or much memory is given back");
  }
  absl::StrAppend(&words, "its thread ", look.stuck_thread);
  if (!look.thread_name.empty()) absl::StrAppend(&words, " (", look.thread_name, ")");
  absl::StrAppend(&words, " waits in the kernel (state D");
  if (!look.wait_channel.empty()) absl::StrAppend(&words, ", in ", look.wait_channel);
  return absl::StrCat(words, ") for a disk or file server; it ends when that answers");
}

std::string DyingCause(const DyingLook& look) {
  if (look.stuck_thread == 0) return "it is held, and does not end";
  return absl::StrCat("its thread ",
                      look.thread_name.empty() ? absl::StrCat(look.stuck_thread) : look.thread_name,
                      " waits in the kernel (state D), so it ends when the disk answers");
}

bool DyingFor::Note(const DyingLook& look, absl::Duration now) {
  if (!look.dying) {
    *this = DyingFor();
    return false;
  }
  if (since_ == absl::InfiniteDuration()) since_ = now;
  if (look.stuck_thread != stuck_thread_) {
    stuck_thread_ = look.stuck_thread;
    stuck_since_ = now;
  }
  if (stuck_thread_ != 0 && now - stuck_since_ >= kStuck) return true;
  return !look.dumps_core && now - since_ >= kAnything;
}

}  // namespace dsrun
