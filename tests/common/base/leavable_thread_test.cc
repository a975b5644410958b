// A thread that hangs in the kernel is left behind within the limit; one that does not is joined.

#include "common/base/leavable_thread.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/do_within.h"
#include "common/base/mutex.h"

namespace dsrun {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(50);
constexpr absl::Duration kLong = absl::Seconds(60);

// A read from it hangs until this object ends, and with it whoever was left behind.
struct SilentPipe {
  SilentPipe() { EXPECT_EQ(pipe(ends), 0); }
  ~SilentPipe() { close(ends[1]); }
  int ends[2];
};

absl::Duration Now() { return Clock::Real().SteadyNow(); }

TEST(LeavableThreadTest, OneThatEnds_IsJoined_AndWhatItDidIsSeen) {
  auto done = std::make_shared<std::string>();
  absl::StatusOr<LeavableThread> thread =
      LeavableThread::Start("a test", [done] { *done = "done"; });
  ASSERT_TRUE(thread.ok()) << thread.status();
  EXPECT_TRUE(thread->joinable());
  EXPECT_TRUE(thread->JoinOrLeave(kLong));
  EXPECT_EQ(*done, "done");
  EXPECT_FALSE(thread->joinable());
}

TEST(LeavableThreadTest, None_IsJoinedAtOnce) {
  LeavableThread none;
  EXPECT_FALSE(none.joinable());
  EXPECT_TRUE(none.JoinOrLeave(absl::ZeroDuration()));
}

TEST(LeavableThreadTest, OneThatHangs_IsLeftAfterTheLimit) {
  const SilentPipe silent;
  LeavableThread thread = LeavableThread::StartOrEnd("a test", [fd = silent.ends[0]] {
    char byte;
    EXPECT_EQ(read(fd, &byte, 1), 0);
    close(fd);
  });
  const SteadyTime began = Now();
  EXPECT_FALSE(thread.JoinOrLeave(kShort));
  EXPECT_GE(Now() - began, kShort);
  EXPECT_FALSE(thread.joinable());
  EXPECT_TRUE(thread.JoinOrLeave(kLong)) << "there is none any more";
}

TEST(LeavableThreadTest, ItIsWaitedForUntilItEnds_NotUntilTheLimit) {
  const SilentPipe silent;
  auto ended = std::make_shared<std::atomic<bool>>(false);
  LeavableThread reader = LeavableThread::StartOrEnd("a test", [fd = silent.ends[0], ended] {
    char byte;
    EXPECT_EQ(read(fd, &byte, 1), 1);
    close(fd);
    *ended = true;
  });
  LeavableThread writer = LeavableThread::StartOrEnd(
      "a test", [fd = silent.ends[1]] { EXPECT_EQ(write(fd, "x", 1), 1); });
  const SteadyTime began = Now();
  EXPECT_TRUE(reader.JoinOrLeave(absl::InfiniteDuration()));
  EXPECT_TRUE(*ended);
  EXPECT_LT(Now() - began, kLong);
  EXPECT_TRUE(writer.JoinOrLeave(kLong));
}

TEST(DoWithinTest, WhatReturns_IsHandedOn) {
  EXPECT_EQ(DoWithin(kLong, "a test", [] { return absl::NotFoundError("so"); }),
            absl::NotFoundError("so"));
}

TEST(DoWithinTest, AnOpenThatHangs_IsGivenUpAfterTheLimit) {
  const std::string fifo = ::testing::TempDir() + "/nobody_reads";
  unlink(fifo.c_str());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const absl::Status status = DoWithin(kShort, "a test", [fifo] {
    const int fd = open(fifo.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd >= 0) close(fd);
    return absl::OkStatus();
  });
  EXPECT_EQ(status, absl::DeadlineExceededError("no answer for 50ms"));
  const int reader = open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // lets it go
  EXPECT_GE(reader, 0);
  close(reader);
}

TEST(CondVarTest, WaitUntil_ADeadlineThatHasPassed_IsFalseAtOnce) {
  Mutex mu;
  CondVar changed;
  MutexLock lock(mu);
  EXPECT_FALSE(changed.WaitUntil(mu, Now()));
  EXPECT_FALSE(changed.WaitUntil(mu, -absl::InfiniteDuration()));
}

TEST(CondVarTest, WaitUntil_EndsAtItsDeadline_WhenNothingIsTold) {
  Mutex mu;
  CondVar changed;
  const SteadyTime deadline = Now() + kShort;
  MutexLock lock(mu);
  while (changed.WaitUntil(mu, deadline)) continue;
  EXPECT_GE(Now(), deadline);
}

}  // namespace
}  // namespace dsrun
