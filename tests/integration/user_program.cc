// A program of a user, for tests. user_program WHAT [ARGUMENTS]:
//
//   dump FOLDER ...      writes argv and environment, NUL between entries, to FOLDER/argv.RANK and
//                        FOLDER/env.RANK
//   exit CODE [RANK]     exits with CODE if it is RANK (all ranks by default), else waits
//   die SIGNAL [RANK]    the same by a signal
//   whoami               says its user and group ids, groups and capabilities, and exits 0
//   read PATH            says whether it may open PATH, and exits 0
//   meet                 rank 0 listens at MASTER_PORT, all others come there and say which job
//   they
//                        are of; exits 0 if all are of one, 4 if not, 5 if rank 0 cannot listen
//   wait                 says so and waits for a signal
//   stubborn             the same, but ignores SIGTERM
//   handle MS            says so and waits for signals. USR1, USR2: says which, and waits on. TERM,
//                        INT, HUP, QUIT: says which, saves for MS milliseconds whatever comes
//                        meanwhile, says so, and exits 0
//   daemon               starts a grandchild that forks twice and makes a session of its own, says
//                        its pid, and waits; the grandchild ignores SIGTERM
//   daemon-exit          the same, but exits 0 itself
//   shell PROGRAM ...    no rank: starts PROGRAM in a process group of its own, as a shell with job
//                        control does, and exits as it does
//   spoilt PROGRAM ...   no rank: becomes PROGRAM with SIGCHLD ignored and every signal blocked

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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

// Signals are blocked from the first line of main on, and taken here one by one.
sigset_t HandledSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    sigaddset(&set, signal);
  }
  return set;
}

int Handle(int milliseconds) {
  const sigset_t set = HandledSignals();
  Say("rank " + Rank() + " waits");
  int signal = 0;
  while (sigwait(&set, &signal) == 0) {
    Say("rank " + Rank() + " got signal " + std::to_string(signal));
    if (signal != SIGUSR1 && signal != SIGUSR2) break;
  }
  poll(nullptr, 0, milliseconds);  // its work: all signals are blocked
  Say("rank " + Rank() + " has saved");
  return 0;
}

void Dump(const std::string& path, char** entries) {
  const std::string temporary = path + ".new";
  {
    std::ofstream file(temporary, std::ios::binary);
    for (char** entry = entries; *entry != nullptr; ++entry) file << *entry << '\0';
  }
  rename(temporary.c_str(), path.c_str());
}

// "rank 0 is uid 1 1 1 gid 1 1 1 groups 1 54321 capabilities 0000000000000000"
std::string WhoAmI() {
  uid_t uids[3];
  gid_t gids[3];
  gid_t groups[64];
  getresuid(&uids[0], &uids[1], &uids[2]);
  getresgid(&gids[0], &gids[1], &gids[2]);
  std::string text = "rank " + Rank() + " is uid";
  for (const uid_t uid : uids) text += " " + std::to_string(uid);
  text += " gid";
  for (const gid_t gid : gids) text += " " + std::to_string(gid);
  text += " groups";
  const int count = getgroups(64, groups);
  std::sort(groups, groups + std::max(count, 0));
  for (int i = 0; i < count; ++i) text += " " + std::to_string(groups[i]);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("CapEff:\t")) text += " capabilities " + line.substr(8);
  }
  return text;
}

std::string Variable(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

sockaddr_in MeetingPoint() {
  sockaddr_in point = {};
  point.sin_family = AF_INET;
  point.sin_port = htons(static_cast<uint16_t>(atoi(Variable("MASTER_PORT").c_str())));
  inet_pton(AF_INET, Variable("MASTER_ADDR").c_str(), &point.sin_addr);
  return point;
}

// As a program that knows nothing of reuse: it binds, or it fails.
int Host(int guests) {
  const sockaddr_in point = MeetingPoint();
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&point), sizeof(point)) != 0 ||
      listen(listener, guests) != 0) {
    perror("rank 0 cannot listen");
    return 5;
  }
  for (int i = 0; i < guests; ++i) {
    const int guest = accept(listener, nullptr, nullptr);
    std::string job;
    for (char c; read(guest, &c, 1) == 1 && c != '\n';) job += c;
    const bool ours = job == Variable("TORCHELASTIC_RUN_ID");
    (void)!write(guest, ours ? "y" : "n", 1);
    close(guest);
    if (!ours) return 4;
  }
  return 0;
}

int Visit() {
  const sockaddr_in point = MeetingPoint();
  int fd = -1;
  do {  // until rank 0 listens; the test has a deadline
    if (fd >= 0) close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
  } while (connect(fd, reinterpret_cast<const sockaddr*>(&point), sizeof(point)) != 0 &&
           poll(nullptr, 0, 10) == 0);
  const std::string job = Variable("TORCHELASTIC_RUN_ID") + "\n";
  (void)!write(fd, job.data(), job.size());
  char answer = 'n';
  (void)!read(fd, &answer, 1);
  return answer == 'y' ? 0 : 4;
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

// As a shell on the terminal at `path` that runs one command and minds how it is: in the
// foreground, or in the background of a terminal that only the foreground may write to. 120: it was
// stopped.
int Session(const char* path, bool background, char** command) {
  setsid();
  const int terminal = open(path, O_RDWR);  // the session's own from here on
  for (const int fd : {0, 1, 2}) dup2(terminal, fd);
  termios mode;
  tcgetattr(terminal, &mode);
  if (background) mode.c_lflag |= TOSTOP;
  tcsetattr(terminal, TCSANOW, &mode);
  signal(SIGTTOU, SIG_IGN);
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    if (!background) tcsetpgrp(0, getpid());
    signal(SIGTTOU, SIG_DFL);
    execv(command[0], command);
    _exit(127);
  }
  int status = 0;
  while (waitpid(child, &status, WUNTRACED) < 0 && errno == EINTR) {
  }
  if (WIFSTOPPED(status)) return 120;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "session") return Session(argv[2], argv[3] == std::string("bg"), argv + 4);
  if (what == "spoilt") {
    signal(SIGCHLD, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    execv(argv[2], argv + 2);
    return 127;
  }
  if (what == "handle") {
    const sigset_t set = HandledSignals();
    sigprocmask(SIG_BLOCK, &set, nullptr);
  }
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
    signal(atoi(argument.c_str()), SIG_DFL);  // a sanitizer would turn it into an exit code
    raise(atoi(argument.c_str()));
  }
  if (what == "whoami") {
    Say(WhoAmI());
    return 0;
  }
  if (what == "read") {
    Say("rank " + Rank() + (std::ifstream(argument).is_open() ? " may" : " may not") + " read");
    return 0;
  }
  if (what == "meet") {
    const int code = Rank() == "0" ? Host(atoi(Variable("WORLD_SIZE").c_str()) - 1) : Visit();
    if (code == 0) Say("rank " + Rank() + " has met the others");
    return code;
  }
  if (what == "handle") return Handle(atoi(argument.c_str()));
  if (what == "stubborn") signal(SIGTERM, SIG_IGN);
  if (what == "daemon" || what == "daemon-exit") StartDaemon();
  if (what == "daemon-exit") return 0;
  WaitForever();
}
