// DyingProcess on real processes, as far as they need no file server that does not answer; for that
// see tests/integration/stuck_jobs_test.cc.

#include "common/base/dying_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>

namespace dsrun {
namespace {

using ::testing::HasSubstr;

// A child that does `what`; killed and reaped at the end.
class Child {
 public:
  explicit Child(const std::function<void()>& what) : pid_(fork()) {
    if (pid_ != 0) return;
    what();
    _exit(0);
  }
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  int32_t pid() const { return pid_; }
  // It has ended, and is a zombie.
  void AwaitEnd() const {
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }

 private:
  const pid_t pid_;
};

TEST(DyingProcess, OneThatRunsOrSleepsOrIsNotThere_IsNotDying) {
  EXPECT_FALSE(LookAtDying(getpid()).dying);
  const Child sleeps([] { pause(); });
  EXPECT_FALSE(LookAtDying(sleeps.pid()).dying);
  EXPECT_FALSE(LookAtDying(0x7fffffff).dying);
}

TEST(DyingProcess, Zombie_TellsHowItEnded) {
  const Child exits([] { _exit(3); });
  exits.AwaitEnd();
  DyingLook look = LookAtDying(exits.pid());
  EXPECT_TRUE(look.dying);
  EXPECT_EQ(look.stuck_thread, 0);
  EXPECT_EQ(look.end, (ProcessEnd{.exit_code = 3}));
  const Child killed([] { pause(); });
  kill(killed.pid(), SIGKILL);
  killed.AwaitEnd();
  look = LookAtDying(killed.pid());
  EXPECT_TRUE(look.dying);
  EXPECT_EQ(look.end, (ProcessEnd{.term_signal = SIGKILL}));
}

TEST(DyingProcess, MainThreadAloneHasEnded_TheProcessRunsOn) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const Child runs_on([&] {
    pthread_t thread;
    pthread_create(
        &thread, nullptr, [](void*) -> void* { return reinterpret_cast<void*>(pause()); }, nullptr);
    close(ready[0]);
    (void)!write(ready[1], "x", 1);
    syscall(SYS_exit, 0);  // of this thread alone
  });
  char told = 0;
  ASSERT_EQ(read(ready[0], &told, 1), 1);
  close(ready[0]);
  close(ready[1]);
  const auto state = [&] {
    FILE* const file = fopen(("/proc/" + std::to_string(runs_on.pid()) + "/stat").c_str(), "r");
    char found = '?';
    if (file == nullptr || fscanf(file, "%*d (%*[^)]) %c", &found) != 1) found = '?';
    if (file != nullptr) fclose(file);
    return found;
  };
  while (state() != 'Z') sched_yield();
  EXPECT_FALSE(LookAtDying(runs_on.pid()).dying);
}

TEST(DyingProcess, Words_SayWhoWaitsInWhat) {
  DyingLook look{.dying = true, .stuck_thread = 75, .program = "dsworker"};
  look.thread_name = "save-writer";
  look.wait_channel = "request_wait_answer";
  EXPECT_EQ(DyingWords(71, look),
            "process 71 (dsworker) is dead and does not end: its thread 75 (save-writer) waits in "
            "the kernel (state D, in request_wait_answer) for a disk or file server; it ends when "
            "that answers");
  EXPECT_EQ(DyingCause(look),
            "its thread save-writer waits in the kernel (state D), so it ends when the disk "
            "answers");
  look.stuck_thread = 0;
  EXPECT_THAT(DyingWords(71, look), HasSubstr("a debugger may hold it"));
}

TEST(DyingFor, OneThreadInOneWaitAtTwoLooks_IsEnough_AndNothingLess) {
  const DyingLook alive;
  const DyingLook dying{.dying = true};
  const DyingLook stuck{.dying = true, .stuck_thread = 5};
  const DyingLook other{.dying = true, .stuck_thread = 6};
  const DyingLook dumping{.dying = true, .dumps_core = true};
  const absl::Duration at = absl::Seconds(1000), step = DyingFor::kStuck;
  DyingFor watch;
  EXPECT_FALSE(watch.Note(alive, at));
  EXPECT_FALSE(watch.Note(stuck, at + step));
  EXPECT_EQ(watch.since(), at + step);
  EXPECT_FALSE(watch.Note(other, at + 2 * step)) << "another thread: they do end";
  EXPECT_FALSE(watch.Note(dying, at + 3 * step));
  EXPECT_FALSE(watch.Note(stuck, at + 4 * step));
  EXPECT_FALSE(watch.Note(stuck, at + 5 * step - absl::Milliseconds(1)));
  EXPECT_TRUE(watch.Note(stuck, at + 5 * step));
  EXPECT_FALSE(watch.Note(alive, at + 6 * step));
  EXPECT_EQ(watch.since(), absl::InfiniteDuration());
  EXPECT_FALSE(watch.Note(dying, at));
  EXPECT_FALSE(watch.Note(dying, at + DyingFor::kAnything - absl::Milliseconds(1)));
  EXPECT_FALSE(watch.Note(dumping, at + DyingFor::kAnything)) << "a core takes its time";
  EXPECT_TRUE(watch.Note(dying, at + DyingFor::kAnything));
}

}  // namespace
}  // namespace dsrun
