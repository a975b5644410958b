// A tree of which not all can be looked at: because no descriptor is left, or because /proc hides
// processes from its user (hidepid=1 and 2): those of others, and those of its own without a dump,
// as dsagent's agent. The latter in a pid namespace of its own with a /proc of its own: nothing
// outside is touched, and nothing stays behind.

#include "common/base/process_tree.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

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

}  // namespace
}  // namespace dsrun
