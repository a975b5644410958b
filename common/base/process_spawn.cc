#include "common/base/process_spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/close_from.h"
#include "common/base/limits.h"
#include "common/base/waits.h"

namespace dsrun {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr int kKernelSigsetBytes = 8;
constexpr absl::Duration kBetweenReaps = absl::Milliseconds(10);

enum class Stage { kDescriptors, kSession, kUser, kWorkingDir, kExec };

// Everything the child needs, made ready by the parent: the child must not allocate.
struct ChildPlan {
  const char* executable = nullptr;
  char* const* argv = nullptr;
  char* const* envp = nullptr;
  const char* working_dir = nullptr;        // nullptr: keep
  const ProcessUser* user = nullptr;        // nullptr: keep
  std::vector<InheritedFd>* fds = nullptr;  // with 0, 1, 2; sorted by `to`
  // Written by the child.
  Stage stage = Stage::kDescriptors;
  int error = 0;
};

// Moves every source above all targets first, so that no dup2 overwrites a source still needed.
bool MapDescriptors(std::vector<InheritedFd>& fds) {
  const int top = fds.back().to;
  for (InheritedFd& fd : fds) {
    const int high = fcntl(fd.from, F_DUPFD_CLOEXEC, top + 1);
    if (high < 0) return false;
    fd.from = high;
  }
  int next = 0;
  for (const InheritedFd& fd : fds) {
    for (; next < fd.to; ++next) close(next);  // holes between the targets
    if (dup2(fd.from, fd.to) < 0) return false;
    next = fd.to + 1;
  }
  return CloseFrom(top + 1);
}

// Raw calls: the C library's versions would change the credentials of the parent's threads too,
// which share this memory.
bool BecomeUser(const ProcessUser& user) {
  return syscall(SYS_setgroups, user.groups.size(), user.groups.data()) == 0 &&
         syscall(SYS_setresgid, user.gid, user.gid, user.gid) == 0 &&
         syscall(SYS_setresuid, user.uid, user.uid, user.uid) == 0;
}

void ResetSignals() {
  // The layout of the kernel's own struct: handler, flags, restorer, mask. All zero is SIG_DFL.
  // sigaction() of the C library refuses its internal signals; the kernel does not.
  const struct {
    void* handler = nullptr;
    unsigned long flags = 0;
    void* restorer = nullptr;
    unsigned long mask = 0;
  } by_default;
  for (int signal = 1; signal <= 64; ++signal) {
    syscall(SYS_rt_sigaction, signal, &by_default, nullptr, kKernelSigsetBytes);
  }
  const unsigned long none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, kKernelSigsetBytes);
}

int RunChild(void* argument) {
  ChildPlan& plan = *static_cast<ChildPlan*>(argument);
  plan.stage = Stage::kSession;
  bool ok = setsid() >= 0;
  if (ok) {
    plan.stage = Stage::kDescriptors;
    ok = MapDescriptors(*plan.fds);
  }
  if (ok && plan.user != nullptr) {
    plan.stage = Stage::kUser;
    ok = BecomeUser(*plan.user);
  }
  if (ok && plan.working_dir != nullptr) {
    plan.stage = Stage::kWorkingDir;
    ok = chdir(plan.working_dir) == 0;
  }
  if (ok) {
    plan.stage = Stage::kExec;
    ResetSignals();
    GiveBackDescriptorLimit();
    execve(plan.executable, plan.argv, plan.envp);
  }
  plan.error = errno;
  _exit(127);
}

absl::Status ErrnoStatus(int error, const std::string& what, const std::string& words) {
  const std::string text = absl::StrCat(what, ": ", words, BecauseOfLimit(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case ENOEXEC:
    case EINVAL:
    case ELIBBAD:
    case E2BIG:
      return absl::InvalidArgumentError(text);
    case EAGAIN:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::Status ErrnoStatus(int error, const std::string& what) {
  return ErrnoStatus(error, what, strerror(error));
}

// The kernel's words for exec, where it is known what they mean here: the file was looked at
// before.
std::string ExecWords(int error, const ProcessSpec& spec) {
  switch (error) {
    case ENOENT:
      if (access(spec.executable.c_str(), F_OK) != 0) return strerror(error);
      return "the interpreter that it names (a script in its first line, a program in its header) "
             "is "
             "not there";
    case ENOEXEC:
      return "it is neither a program for this machine nor a script, whose first line would be "
             "such "
             "as #!/bin/sh";
    case EACCES:
      return "it may not be executed: check its permissions, those of its folders and of its "
             "interpreter, and that its file system is not mounted noexec";
    case E2BIG:
      return "its arguments and environment are together more than the kernel takes";
    case ETXTBSY:
      return "somebody has it open for writing";
    default:
      return strerror(error);
  }
}

absl::Status ChildStatus(const ChildPlan& plan, const ProcessSpec& spec) {
  switch (plan.stage) {
    case Stage::kDescriptors:
      return ErrnoStatus(plan.error, absl::StrCat("cannot start ", spec.executable,
                                                  ": cannot hand down its descriptors"));
    case Stage::kSession:
      return ErrnoStatus(plan.error,
                         absl::StrCat("cannot start ", spec.executable, ": cannot make a session"));
    case Stage::kUser:
      return ErrnoStatus(plan.error, absl::StrCat("cannot start ", spec.executable, " as user id ",
                                                  spec.user.uid));
    case Stage::kWorkingDir:
      return ErrnoStatus(plan.error, absl::StrCat("cannot start ", spec.executable,
                                                  " in the folder ", spec.working_dir));
    case Stage::kExec:
      return ErrnoStatus(plan.error, absl::StrCat("cannot start ", spec.executable),
                         ExecWords(plan.error, spec));
  }
  return absl::InternalError("cannot start a process");
}

absl::Status CheckSpec(const ProcessSpec& spec) {
  const auto has_nul = [](const std::string& s) { return s.find('\0') != std::string::npos; };
  if (spec.executable.empty() || spec.executable[0] != '/' || has_nul(spec.executable)) {
    return absl::InvalidArgumentError(
        absl::StrCat("executable: expected an absolute path, got \"", spec.executable, "\""));
  }
  if (spec.argv.empty()) return absl::InvalidArgumentError("argv: expected argv[0], got nothing");
  if (std::any_of(spec.argv.begin(), spec.argv.end(), has_nul) ||
      std::any_of(spec.environment.begin(), spec.environment.end(), has_nul)) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.executable, ": a NUL byte inside an argument or environment variable"));
  }
  for (const InheritedFd& fd : spec.fds) {
    if (fd.from < 0 || fd.to < 3) {
      return absl::InvalidArgumentError("inherited descriptor: expected a target of at least 3");
    }
  }
  return absl::OkStatus();
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Clones with all signals blocked: no handler of the parent may run on the shared memory of the
// child.
//
// The child's pid is written by the child's side of the kernel, into the memory that both share:
// clone() has no other room for it beside the pidfd.
int CloneBlocked(ChildPlan& plan, void* stack, int* pidfd, std::atomic<int32_t>* child_pid) {
  static_assert(sizeof(std::atomic<int32_t>) == sizeof(pid_t));
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int pid = clone(&RunChild, static_cast<char*>(stack) + kStackBytes,
                        CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CHILD_SETTID | SIGCHLD, &plan,
                        pidfd, nullptr, child_pid);
  if (pid < 0) plan.error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return pid;
}

}  // namespace

absl::StatusOr<SpawnedProcess> SpawnProcess(const ProcessSpec& spec,
                                            std::atomic<int32_t>* being_started) {
  if (absl::Status status = CheckSpec(spec); !status.ok()) return status;
  const int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_fd < 0) return ErrnoStatus(errno, "cannot open /dev/null");
  std::vector<InheritedFd> fds = spec.fds;
  fds.push_back({null_fd, 0});
  fds.push_back({spec.stdout_fd >= 0 ? spec.stdout_fd : null_fd, 1});
  fds.push_back({spec.stderr_fd >= 0 ? spec.stderr_fd : null_fd, 2});
  std::sort(fds.begin(), fds.end(),
            [](const InheritedFd& a, const InheritedFd& b) { return a.to < b.to; });
  const std::vector<char*> argv = Pointers(spec.argv);
  const std::vector<char*> envp = Pointers(spec.environment);
  ChildPlan plan;
  plan.executable = spec.executable.c_str();
  plan.argv = argv.data();
  plan.envp = envp.data();
  plan.working_dir = spec.working_dir.empty() ? nullptr : spec.working_dir.c_str();
  plan.user = spec.user.change ? &spec.user : nullptr;
  plan.fds = &fds;

  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) {
    close(null_fd);
    return ErrnoStatus(ENOMEM, "cannot make a stack for a child");
  }
  SpawnedProcess process;
  std::atomic<int32_t> unused{0};
  process.pid =
      CloneBlocked(plan, stack, &process.pidfd, being_started == nullptr ? &unused : being_started);
  munmap(stack, kStackBytes);
  close(null_fd);
  if (process.pid < 0) {
    return ErrnoStatus(plan.error, absl::StrCat("cannot start ", spec.executable));
  }
  if (plan.error != 0) {
    ReapProcess(process.pid);
    close(process.pidfd);
    return ChildStatus(plan, spec);
  }
  return process;
}

namespace {

ProcessEnd EndOf(int status) {
  ProcessEnd end;
  if (WIFSIGNALED(status)) {
    end.term_signal = WTERMSIG(status);
    end.core_dumped = WCOREDUMP(status);
  } else {
    end.exit_code = WEXITSTATUS(status);
  }
  return end;
}

}  // namespace

ProcessEnd ReapProcess(int32_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return EndOf(status);
}

std::optional<ProcessEnd> ReapWithin(int32_t pid, int pidfd, absl::Duration limit) {
  const absl::Duration deadline = Clock::Real().SteadyNow() + limit;
  while (true) {
    int status = 0;
    const pid_t reaped = waitpid(pid, &status, WNOHANG);
    if (reaped == pid) return EndOf(status);
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if ((reaped < 0 && errno != EINTR) || left <= absl::ZeroDuration()) return std::nullopt;
    pollfd ended{.fd = pidfd, .events = POLLIN, .revents = 0};
    // One that has ended and cannot be reaped says so again and again.
    if (poll(&ended, 1, PollMilliseconds(left)) > 0) {
      poll(nullptr, 0, PollMilliseconds(std::min(left, kBetweenReaps)));
    }
  }
}

}  // namespace dsrun
