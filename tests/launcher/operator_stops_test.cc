// Which signals are requests, and what one means after the end of the job.

#include "launcher/shell/operator_stops.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/shell/stop_requests.h"

namespace dsrun::launcher {
namespace {

constexpr bool kHangUp = true;
constexpr bool kByKey = true;

TEST(StopRequests, SameMomentIsTheSameRequest_LaterIsAnother) {
  StopRequests requests;
  EXPECT_TRUE(requests.Take(absl::Seconds(5), !kHangUp, !kByKey));
  EXPECT_FALSE(requests.Take(absl::Seconds(5) + absl::Microseconds(20), !kHangUp, !kByKey));
  // Each repetition belongs to the one before: a storm of signals is one request.
  EXPECT_FALSE(requests.Take(absl::Seconds(5) + 0.9 * kSameRequest, !kHangUp, !kByKey));
  EXPECT_FALSE(requests.Take(absl::Seconds(5) + 1.8 * kSameRequest, !kHangUp, !kByKey));
  EXPECT_TRUE(requests.Take(absl::Seconds(5) + 2.8 * kSameRequest, !kHangUp, !kByKey));
  EXPECT_EQ(requests.count(), 2);
}

TEST(StopRequests, APersonsKeyAlwaysCounts) {
  StopRequests requests;
  EXPECT_TRUE(requests.Take(absl::Seconds(5), !kHangUp, kByKey));
  EXPECT_TRUE(requests.Take(absl::Seconds(5) + absl::Milliseconds(150), !kHangUp, kByKey));
  EXPECT_EQ(requests.count(), 2);
}

TEST(StopRequests, AHangUpNeverRepeatsARequest) {
  StopRequests requests;
  EXPECT_TRUE(requests.Take(absl::Seconds(5), kHangUp, !kByKey));
  EXPECT_FALSE(requests.Take(absl::Seconds(50), kHangUp, !kByKey));
  EXPECT_TRUE(requests.Take(absl::Seconds(90), !kHangUp, !kByKey));
}

void RaiseAndWait(OperatorStops& stops, int exit_code) {
  stops.Over(exit_code);
  raise(SIGTERM);
  while (true) pause();  // as a process that waits for what never comes
}

TEST(OperatorStopsDeathTest, SignalAfterTheEndOfTheJob_EndsTheProcessWithItsCode) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const auto stops = OperatorStops::Create();
        RaiseAndWait(**stops, 7);
      },
      ::testing::ExitedWithCode(7), "");
}

TEST(OperatorStopsDeathTest, SignalBeforeAnythingIsStarted_Exits96) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    EXPECT_EXIT(
        {
          const auto stops = OperatorStops::Create();
          raise(signal);
          while (true) pause();
        },
        ::testing::ExitedWithCode(96), "nothing was started");
  }
}

// The mask of whoever started it is not the watch's.
TEST(OperatorStops, CtrlZWhereItWasBlockedAtTheStart_StopsTheProcess) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    setpgid(0, 0);  // a group whose parent could continue it
    signal(SIGTSTP, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    const auto stops = OperatorStops::Create();
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    alarm(20);
    kill(getpid(), SIGTSTP);
    while (true) pause();
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  EXPECT_TRUE(WIFSTOPPED(status)) << status;
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

// A job loses its coordinator by a pause: it is asked, and the process goes on.
TEST(OperatorStops, CtrlZAndANewSizeDuringAJob_AreToldToItAndStopNobody) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    setpgid(0, 0);  // a group whose parent could continue it
    signal(SIGTSTP, SIG_DFL);
    const auto stops = OperatorStops::Create();
    int told[2];
    if (pipe(told) != 0) _exit(1);
    (*stops)->HandTo([&told](int signal, bool) {
      const auto byte = static_cast<char>(signal);
      (void)!write(told[1], &byte, 1);
    });
    alarm(20);
    for (const int signal : {SIGTSTP, SIGWINCH}) {
      kill(getpid(), signal);
      char byte = 0;
      if (read(told[0], &byte, 1) != 1 || byte != signal) _exit(2);
    }
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  kill(child, SIGKILL);
}

}  // namespace
}  // namespace dsrun::launcher
