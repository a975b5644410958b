// The child of the process tests: behaves as its first argument says.
//
//   exit N        exits with N
//   wait          writes "r" to standard output, waits for ever
//   ignore-term   the same, deaf to SIGTERM
//   echo          writes argv (from argv[2]) and the environment to descriptor 1, each string with
//                 its length (4 bytes) before it, then exits 0
//   fds           writes the numbers of its open descriptors, its folder, session and blocked and
//                 ignored signals as text
//   group         leaves a child in its own group behind, writes that one's pid, exits 0
//   debug PID     attaches to PID as its debugger, writes "r", and waits for ever: PID can be
//   killed
//                 and not be reaped by its parent, until this process ends

#include <dirent.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern char** environ;

namespace {

void WriteAll(const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(1, at, size);
    if (written <= 0) _exit(9);
    at += written;
    size -= written;
  }
}

void WriteString(const char* s) {
  const uint32_t size = strlen(s);
  WriteAll(&size, sizeof(size));
  WriteAll(s, size);
}

void PrintSelf() {
  DIR* dir = opendir("/proc/self/fd");
  std::vector<int> fds;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir)) {
      fds.push_back(atoi(entry->d_name));
    }
  }
  closedir(dir);
  std::sort(fds.begin(), fds.end());
  printf("fds");
  for (const int fd : fds) printf(" %d", fd);
  char folder[4096];
  printf("\nfolder %s\n", getcwd(folder, sizeof(folder)));
  printf("leader %d %d\n", getsid(0) == getpid(), getpgrp() == getpid());
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  int not_default = 0;
  for (int signal = 1; signal < 65; ++signal) {
    if (sigismember(&blocked, signal) == 1) ++not_default;
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) ++not_default;
  }
  printf("signals %d\n", not_default);
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  if (strcmp(mode, "exit") == 0) return atoi(argv[2]);
  if (strcmp(mode, "echo") == 0) {
    const uint32_t count = argc - 2;
    WriteAll(&count, sizeof(count));
    for (int i = 2; i < argc; ++i) WriteString(argv[i]);
    for (char** variable = environ; *variable != nullptr; ++variable) WriteString(*variable);
    return 0;
  }
  if (strcmp(mode, "fds") == 0) {
    PrintSelf();
    return 0;
  }
  if (strcmp(mode, "group") == 0) {
    const pid_t child = fork();
    if (child == 0) {
      while (true) pause();
    }
    printf("%d\n", child);
    return 0;
  }
  if (strcmp(mode, "debug") == 0 && ptrace(PTRACE_SEIZE, atoi(argv[2]), nullptr, nullptr) != 0) {
    return 77;
  }
  if (strcmp(mode, "ignore-term") == 0) signal(SIGTERM, SIG_IGN);
  WriteAll("r", 1);
  while (true) pause();
}
