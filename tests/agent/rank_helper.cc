// A rank for tests: behaves as its first argument says, starts no shell.
//
//   exit N         prints a line, exits with N
//   wait           prints "ready PID", waits for ever
//   ignore-term    the same, deaf to SIGTERM
//   tree           prints "ready PID GRANDCHILD": a child that forked twice, has its own session
//   and
//                  ignores SIGTERM and SIGHUP, outlives its parent
//   leave          as tree, but exits 0 at once and leaves the grandchild behind
//   leave-bare     as leave, and the grandchild has cleared its environment: no mark tells whose it
//   is print-env      prints its environment, one variable a line, and exits 0 lines N prints N
//   numbered lines and exits 3

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

extern char** environ;

namespace {

void WaitForEver() {
  while (true) pause();
}

int ForkTwice(const char* binary) {
  int fds[2];
  if (pipe(fds) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    const pid_t grandchild = fork();
    if (grandchild != 0) _exit(0);
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    const int self = getpid();
    if (write(fds[1], &self, sizeof(self)) != sizeof(self)) _exit(1);
    close(fds[0]);
    close(fds[1]);
    if (binary != nullptr) {
      char* const argv[] = {const_cast<char*>("stray"), const_cast<char*>("stay"), nullptr};
      char* const environment[] = {nullptr};
      execve(binary, argv, environment);
    }
    WaitForEver();
  }
  close(fds[1]);
  int grandchild = -1;
  if (read(fds[0], &grandchild, sizeof(grandchild)) != sizeof(grandchild)) grandchild = -1;
  close(fds[0]);
  waitpid(child, nullptr, 0);
  return grandchild;
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (strcmp(mode, "exit") == 0) {
    printf("bye\n");
    return atoi(argv[2]);
  }
  if (strcmp(mode, "lines") == 0) {
    for (int i = 0; i < atoi(argv[2]); ++i) printf("line %d\n", i);
    return 3;
  }
  if (strcmp(mode, "print-env") == 0) {
    for (char** variable = environ; *variable != nullptr; ++variable) printf("%s\n", *variable);
    return 0;
  }
  if (strcmp(mode, "ignore-term") == 0) signal(SIGTERM, SIG_IGN);
  if (strcmp(mode, "stay") == 0) WaitForEver();
  const bool leaves = strncmp(mode, "leave", 5) == 0;
  if (leaves || strcmp(mode, "tree") == 0) {
    const char* binary = strcmp(mode, "leave-bare") == 0 ? "/proc/self/exe" : nullptr;
    printf("ready %d %d\n", getpid(), ForkTwice(binary));
  } else {
    printf("ready %d\n", getpid());
  }
  if (leaves) return 0;
  WaitForEver();
}
