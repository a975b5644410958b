// A program of a user, for tests. user_program WHAT [ARGUMENTS]:
//
//   dump FOLDER ...      writes argv and environment, NUL between entries, to FOLDER/argv.RANK and
//                        FOLDER/env.RANK
//   exit CODE [RANK]     exits with CODE if it is RANK (all ranks by default), else waits
//   die SIGNAL [RANK]    the same by a signal
//   wait                 says so and waits for a signal
//   stubborn             the same, but ignores SIGTERM
//   daemon               starts a grandchild that forks twice and makes a session of its own, says
//                        its pid, and waits; the grandchild ignores SIGTERM
//   daemon-exit          the same, but exits 0 itself

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

extern char** environ;

namespace {

std::string Rank() {
  const char* rank = getenv("RANK");
  return rank == nullptr ? "none" : rank;
}

void Say(const std::string& text) {
  const std::string line = text + "\n";
  (void)!write(STDOUT_FILENO, line.data(), line.size());
}

[[noreturn]] void WaitForever() {
  Say("rank " + Rank() + " waits");
  while (true) pause();
}

void Dump(const std::string& path, char** entries) {
  const std::string temporary = path + ".new";
  {
    std::ofstream file(temporary, std::ios::binary);
    for (char** entry = entries; *entry != nullptr; ++entry) file << *entry << '\0';
  }
  rename(temporary.c_str(), path.c_str());
}

void StartDaemon() {
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    if (fork() != 0) _exit(0);
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    Say("daemon " + std::to_string(getpid()));
    while (true) pause();
  }
  waitpid(child, nullptr, 0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const std::string argument = argc > 2 ? argv[2] : "";
  const bool mine = argc <= 3 || Rank() == argv[3];
  if (what == "dump") {
    Dump(argument + "/argv." + Rank(), argv);
    Dump(argument + "/env." + Rank(), environ);
    return 0;
  }
  if (what == "exit" && mine) {
    Say("rank " + Rank() + " exits");
    return atoi(argument.c_str());
  }
  if (what == "die" && mine) {
    Say("rank " + Rank() + " dies");
    raise(atoi(argument.c_str()));
  }
  if (what == "stubborn") signal(SIGTERM, SIG_IGN);
  if (what == "daemon" || what == "daemon-exit") StartDaemon();
  if (what == "daemon-exit") return 0;
  WaitForever();
}
