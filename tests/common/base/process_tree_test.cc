// A tree of which not all can be looked at: because no descriptor is left, or because /proc hides
// processes from its user (hidepid=1 and 2): those of others, and those of its own without a dump,
// as dsagent's agent. The latter in a pid namespace of its own with a /proc of its own: nothing
// outside is touched, and nothing stays behind.

#include "common/base/process_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/stand_apart.h"
#include "tests/support/terminal.h"

namespace dsrun {
namespace {

// What cannot be looked at is not gone.
TEST(ProcessTree, KillWithoutADescriptorLeft_DoesNotSayThatNothingIsLeft) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_NOFILE, &none);
    _exit(KillDescendants(getpid(), nullptr, absl::Milliseconds(50)));
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_GT(WEXITSTATUS(status), 0);
}

constexpr int kNotHere = 77;
constexpr int kNobody = 65534;

// Says that it is there, and waits for its end.
[[noreturn]] void Wait(int ready) {
  (void)!write(ready, "r", 1);
  while (true) pause();
}

// This user's process -> one that is seen (a keeper) -> one without a dump (its agent) -> one that
// is seen (a rank).
void StartTree(int ready) {
  if (fork() != 0) return;
  if (fork() != 0) Wait(ready);
  setsid();
  if (fork() != 0) {
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    Wait(ready);
  }
  setsid();
  Wait(ready);
}

// What the user does; returns 0, or which of its expectations failed.
int AsUser() {
  if (setgid(kNobody) != 0 || setuid(kNobody) != 0) return kNotHere;
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);  // setuid took it
  if (!BecomeSubreaper()) return 1;
  int ready[2];
  if (pipe(ready) != 0) return 2;
  StartTree(ready[1]);
  for (int i = 0; i < 3; ++i) {
    char byte = 0;
    if (read(ready[0], &byte, 1) != 1) return 3;
  }
  const std::vector<ProcessInfo> found = DescendantsOf(getpid());
  if (found.size() != 3) return 4;
  const auto hidden = [](const ProcessInfo& process) { return process.start_ticks == 0; };
  if (std::count_if(found.begin(), found.end(), hidden) != 1) return 5;
  if (KillDescendants(getpid(), nullptr, absl::Seconds(20)) != 0) return 6;
  int gone = 0;
  while (waitpid(-1, nullptr, 0) > 0) ++gone;
  if (gone != 3) return 7;
  // Others are there, and hidden: they are none of ours.
  return KillDescendants(getpid(), nullptr, absl::ZeroDuration()) == 0 ? 0 : 8;
}

int Exit(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The first process of the namespace: what is left below it dies with it.
int WithProcOfItsOwn(const std::string& options) {
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("proc", "/proc", "proc", 0, options.c_str()) != 0) {
    return kNotHere;
  }
  const pid_t user = fork();
  if (user == 0) _exit(AsUser());
  return Exit(user);
}

class HiddenProcesses : public ::testing::TestWithParam<int> {};

TEST_P(HiddenProcesses, OwnOnesAreFoundAndEnded_AndStrangersAreNotWaitedFor) {
  const pid_t outer = fork();
  ASSERT_GE(outer, 0);
  if (outer == 0) {
    if (unshare(CLONE_NEWNS | CLONE_NEWPID) != 0) _exit(kNotHere);
    const pid_t first = fork();
    if (first == 0) _exit(WithProcOfItsOwn(absl::StrCat("hidepid=", GetParam())));
    _exit(Exit(first));
  }
  const int code = Exit(outer);
  if (code == kNotHere) GTEST_SKIP() << "needs root, and leave to mount /proc";
  EXPECT_EQ(code, 0) << "the number of the expectation in AsUser that failed";
}

INSTANTIATE_TEST_SUITE_P(Proc, HiddenProcesses, ::testing::Values(1, 2));

// ---- StandApart

// A byte through a pipe, or the end of it.
bool Await(int fd) {
  char byte = 0;
  return read(fd, &byte, 1) == 1;
}
void Tell(int fd) { (void)!write(fd, "r", 1); }

// True: somebody has the other end open.
bool IsHeld(int fd) {
  pollfd end{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&end, 1, 0) == 0;
}

class StandApartTest : public ::testing::Test {
 protected:
  StandApartTest() {
    for (Pipe* pipe : {&ready_, &go_, &held_, &stay_}) EXPECT_EQ(pipe2(pipe->ends, O_CLOEXEC), 0);
  }
  ~StandApartTest() override {
    for (Pipe* pipe : {&ready_, &go_, &held_, &stay_}) {
      Close(pipe->ends[0]);
      Close(pipe->ends[1]);
    }
    // Who stayed ends now; where this process takes orphans they are its own to reap.
    while (waitpid(-1, nullptr, 0) > 0) {
    }
  }
  static void Close(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
  // Until the test ends, for whoever it does not see.
  [[noreturn]] void Stay() {
    Close(stay_.ends[1]);
    Await(stay_.ends[0]);
    _exit(0);
  }
  // Starts a process that leaves its session, clears its environment and loses its parent. It says
  // that it is there.
  void ForkTwice(int ready) {
    const pid_t middle = fork();
    if (middle == 0) {
      if (fork() != 0) _exit(0);
      setsid();
      clearenv();
      Tell(ready);
      Stay();
    }
    waitpid(middle, nullptr, 0);
  }

  struct Pipe {
    int ends[2] = {-1, -1};
    int to() const { return ends[1]; }
    int from() const { return ends[0]; }
  };
  Pipe ready_, go_;
  Pipe held_;  // by those whose life is looked at
  Pipe stay_;
};

constexpr int kAsExpected = 42;

// A shell had started somebody before it executed this program; he starts another one later, who
// leaves his session and loses his parent. None of the two is below what stands apart; an orphan of
// its own, of which nothing tells whose it is, is.
TEST_F(StandApartTest, OrphansOfAChildFromBefore_AreNotBelow_ItsOwnAre) {
  const pid_t program = fork();
  ASSERT_GE(program, 0);
  if (program == 0) {
    Close(held_.ends[0]);
    Close(stay_.ends[1]);
    if (fork() == 0) {
      Await(go_.from());
      ForkTwice(ready_.to());
      Close(held_.ends[1]);
      Stay();
    }
    Close(held_.ends[1]);
    StandApart();
    if (!BecomeSubreaper()) _exit(1);
    Tell(go_.to());
    if (!Await(ready_.from())) _exit(2);
    if (!DescendantsOf(getpid()).empty()) _exit(3);
    ForkTwice(ready_.to());
    if (!Await(ready_.from())) _exit(4);
    if (DescendantsOf(getpid()).size() != 1) _exit(5);
    if (KillDescendants(getpid(), nullptr, absl::Seconds(20)) != 0) _exit(6);
    _exit(kAsExpected);
  }
  Close(held_.ends[1]);
  EXPECT_EQ(Exit(program), kAsExpected) << "the number of the expectation that failed";
  EXPECT_TRUE(IsHeld(held_.from())) << "who was started by the child from before is dead";
  Close(stay_.ends[1]);
  EXPECT_FALSE(Await(held_.from()));  // and is now
}

// As `docker exec` into the container whose first process this is.
TEST_F(StandApartTest, OrphansOfAContainer_AreNotBelowItsFirstProcess) {
  int in[2];
  ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
  const pid_t outer = fork();
  ASSERT_GE(outer, 0);
  if (outer == 0) {
    Close(held_.ends[0]);
    Close(held_.ends[1]);
    if (unshare(CLONE_NEWNS | CLONE_NEWPID) != 0) _exit(kNotHere);
    const pid_t first = fork();
    if (first != 0) {
      (void)!write(in[1], &first, sizeof(first));
      _exit(Exit(first));
    }
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("proc", "/proc", "proc", 0, nullptr) != 0) {
      _exit(kNotHere);
    }
    StandApart();
    if (getpid() == 1) _exit(1);
    Tell(ready_.to());
    if (!Await(go_.from())) _exit(2);
    if (KillDescendants(getpid(), nullptr, absl::Seconds(20)) != 0) _exit(3);
    Tell(ready_.to());
    if (!Await(go_.from())) _exit(4);
    _exit(kAsExpected);
  }
  close(in[1]);
  Close(ready_.ends[1]);
  pid_t first = 0;
  const bool entered = read(in[0], &first, sizeof(first)) == sizeof(first) && Await(ready_.from());
  close(in[0]);
  if (!entered) {
    ASSERT_EQ(Exit(outer), kNotHere);
    GTEST_SKIP() << "needs root, and leave to mount /proc";
  }
  const int space = open(absl::StrCat("/proc/", first, "/ns/pid").c_str(), O_RDONLY | O_CLOEXEC);
  int there[2];
  ASSERT_EQ(pipe2(there, O_CLOEXEC), 0);
  const pid_t stranger = fork();
  if (stranger == 0) {
    Close(held_.ends[0]);
    if (setns(space, CLONE_NEWPID) != 0) _exit(1);
    const pid_t inside = fork();
    if (inside == 0) {
      ForkTwice(there[1]);
      _exit(0);
    }
    _exit(Exit(inside));
  }
  close(space);
  Close(held_.ends[1]);
  ASSERT_EQ(Exit(stranger), 0);
  ASSERT_TRUE(Await(there[0]));
  Tell(go_.to());
  ASSERT_TRUE(Await(ready_.from()));
  EXPECT_TRUE(IsHeld(held_.from())) << "a stranger was killed";
  Tell(go_.to());
  EXPECT_EQ(Exit(outer), kAsExpected) << "the number of the expectation that failed";
  for (const int fd : {there[0], there[1]}) close(fd);
}

TEST_F(StandApartTest, SignalsAndEnds_ArePassedOn) {
  const auto start = [&](const std::function<void()>& body) {
    const pid_t program = fork();
    if (program == 0) {
      if (fork() == 0) {  // from before
        Close(held_.ends[1]);
        Stay();
      }
      StandApart();
      body();
      _exit(1);
    }
    EXPECT_TRUE(Await(ready_.from()));
    return program;
  };
  const pid_t asked = start([&] {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, nullptr);
    Tell(ready_.to());
    int signal = 0;
    sigwait(&term, &signal);
    _exit(signal);
  });
  kill(asked, SIGTERM);
  EXPECT_EQ(Exit(asked), SIGTERM);
  const pid_t dies = start([&] {
    Tell(ready_.to());
    raise(SIGKILL);
  });
  int status = 0;
  ASSERT_EQ(waitpid(dies, &status, 0), dies);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  // Stopped and continued with it, and dead with it.
  const pid_t stopped = start([&] {
    Tell(ready_.to());
    raise(SIGSTOP);
    Tell(ready_.to());
    while (true) pause();
  });
  Close(held_.ends[1]);
  ASSERT_EQ(waitpid(stopped, &status, WUNTRACED), stopped);
  EXPECT_TRUE(WIFSTOPPED(status));
  kill(stopped, SIGCONT);
  EXPECT_TRUE(Await(ready_.from()));
  kill(stopped, SIGKILL);
  EXPECT_FALSE(Await(held_.from()));  // the child is gone
  waitpid(stopped, nullptr, 0);
}

TEST(MayBeOurChild, HoldsForOurChildrenAlone) {
  const pid_t child = fork();
  if (child == 0) {
    while (true) pause();
  }
  ASSERT_GT(child, 0);
  EXPECT_TRUE(MayBeOurChild(child));
  EXPECT_FALSE(MayBeOurChild(getpid()));
  EXPECT_FALSE(MayBeOurChild(getppid()));
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
}

// The kernel tells the leader of the session, which is the process that stays behind.
TEST_F(StandApartTest, HangUpOfTheTerminal_ReachesTheChild) {
  auto terminal = std::make_unique<Terminal>();
  const pid_t program = fork();
  ASSERT_GE(program, 0);
  if (program == 0) {
    const std::string path = terminal->path();
    terminal.reset();  // or it would never hang up
    setsid();
    if (open(path.c_str(), O_RDWR | O_CLOEXEC) < 0) _exit(2);
    if (fork() == 0) {  // from before
      Close(stay_.ends[1]);
      Stay();
    }
    StandApart();
    sigset_t hang_up;
    sigemptyset(&hang_up);
    sigaddset(&hang_up, SIGHUP);
    sigprocmask(SIG_BLOCK, &hang_up, nullptr);
    Tell(ready_.to());
    const timespec patience = {.tv_sec = 20, .tv_nsec = 0};
    _exit(sigtimedwait(&hang_up, nullptr, &patience) == SIGHUP ? kAsExpected : 3);
  }
  ASSERT_TRUE(Await(ready_.from()));
  terminal.reset();
  EXPECT_EQ(Exit(program), kAsExpected) << "3: it heard nothing";
  Close(stay_.ends[1]);
}

TEST_F(StandApartTest, ProcessWithoutChildren_GoesOnItself) {
  const pid_t program = fork();
  if (program == 0) {
    const pid_t self = getpid();
    StandApart();
    _exit(getpid() == self ? kAsExpected : 1);
  }
  EXPECT_EQ(Exit(program), kAsExpected);
}

}  // namespace
}  // namespace dsrun
