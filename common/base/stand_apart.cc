#include "common/base/stand_apart.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "common/base/close_from.h"

namespace dsrun {
namespace {

constexpr int kFirstOfOwn = 3;  // standard input, output and error stay open
constexpr int kKilled = 128;

// Of the process that goes on; written before there is a thread.
pid_t starter_pid = 0;
pid_t behind_pid = 0;  // 0: nobody stays behind

bool HasChild() {
  siginfo_t info = {};
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

[[noreturn]] void EndAs(int status) {
  if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
  const int how = WTERMSIG(status);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);  // the core is the child's
  signal(how, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  raise(how);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  _exit(kKilled + how);  // the first process of a namespace does not die of its own signals
}

// Whoever has ended or been stopped.
void LookAtChildren(pid_t child) {
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
    if (pid != child) continue;
    if (!WIFSTOPPED(status)) EndAs(status);
    // Whoever waits for this process is told; continued by him, so is the child.
    raise(SIGSTOP);
    kill(child, SIGCONT);
  }
}

// With the number of the process that has sent it (SenderOf). Where the queue of signals is full,
// without.
void PassOn(pid_t child, int signal, const siginfo_t& info) {
  const sigval sender = {.sival_int = info.si_code == SI_KERNEL ? 0 : info.si_pid};
  if (sigqueue(child, signal, sender) != 0) kill(child, signal);
}

// A terminal's key reaches the child as it reached this process. Everything else is passed on, and
// so is a terminal's hang-up: the kernel tells the leader of the session alone.
[[noreturn]] void StayBehind(pid_t child, const sigset_t& all) {
  signal(SIGCHLD, SIG_DFL);
  // Of the child's pipes and locks none may be held by a process that never uses them.
  CloseFrom(kFirstOfOwn);
  while (true) {
    LookAtChildren(child);
    siginfo_t info = {};
    const int got = sigwaitinfo(&all, &info);
    if (got < 0 || got == SIGCHLD) continue;
    if (info.si_code == SI_KERNEL && got != SIGHUP) continue;
    PassOn(child, got, info);
  }
}

}  // namespace

void StandApart() {
  starter_pid = getppid();
  if (getpid() != 1 && !HasChild()) return;
  sigset_t all, before;
  sigfillset(&all);
  // A fault of this process's own is no signal to pass on.
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&all, own);
  }
  sigprocmask(SIG_BLOCK, &all, &before);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child > 0) StayBehind(child, all);
  if (child < 0) {
    fprintf(stderr,
            "cannot fork (%s): this process has children that it did not start, and may end them\n",
            strerror(errno));
  } else {
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent) _exit(kKilled + SIGKILL);  // it is gone already
    behind_pid = parent;
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

pid_t StarterPid() { return starter_pid; }

pid_t SenderOf(const signalfd_siginfo& info) {
  const auto sender = static_cast<pid_t>(info.ssi_pid);
  if (behind_pid == 0 || sender != behind_pid) return sender;
  return info.ssi_code == SI_QUEUE ? info.ssi_int : 0;
}

}  // namespace dsrun
