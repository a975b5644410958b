#include "common/base/proto_duration.h"

#include <chrono>
#include <cstdint>
#include <limits>
#include <thread>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/waits.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(ProtoDuration, ThereAndBack_IsTheSame) {
  for (const absl::Duration each :
       {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Nanoseconds(-1), absl::Milliseconds(1500),
        absl::Milliseconds(-1500), absl::Hours(24 * 365 * 1000) + absl::Nanoseconds(999'999'999)}) {
    EXPECT_EQ(FromProto(ToProto(each)), each);
  }
}

// google/protobuf/duration.proto: both parts have the same sign, nanos stay below a second.
TEST(ProtoDuration, Parts_AreNormal) {
  const google::protobuf::Duration negative = ToProto(absl::Milliseconds(-1500));
  EXPECT_EQ(negative.seconds(), -1);
  EXPECT_EQ(negative.nanos(), -500'000'000);
}

TEST(ProtoDuration, NotSetOrNotPositive_IsTheOther) {
  const absl::Duration other = absl::Seconds(7);
  EXPECT_EQ(PositiveOr(google::protobuf::Duration(), other), other);
  EXPECT_EQ(PositiveOr(ToProto(absl::Seconds(-1)), other), other);
  EXPECT_EQ(PositiveOr(ToProto(absl::Seconds(1)), other), absl::Seconds(1));
}

// Nothing that a duration can be is turned into another sign, or into undefined behaviour.
TEST(ProtoDuration, BeyondTheWiresRange_IsInfinite) {
  for (const absl::Duration each :
       {absl::InfiniteDuration(), absl::Seconds(1e30),
        absl::Seconds(std::numeric_limits<int64_t>::max()), absl::Seconds(kMostProtoSeconds)}) {
    EXPECT_EQ(ToProto(each).seconds(), kMostProtoSeconds);
    EXPECT_EQ(ToProto(each).nanos(), 0);
    EXPECT_EQ(FromProto(ToProto(each)), absl::InfiniteDuration());
    EXPECT_EQ(FromProto(ToProto(-each)), -absl::InfiniteDuration());
  }
  google::protobuf::Duration wild;
  wild.set_seconds(std::numeric_limits<int64_t>::max());
  wild.set_nanos(std::numeric_limits<int32_t>::max());
  EXPECT_EQ(FromProto(wild), absl::InfiniteDuration());
  wild.set_seconds(std::numeric_limits<int64_t>::min());
  EXPECT_EQ(FromProto(wild), -absl::InfiniteDuration());
  EXPECT_EQ(PositiveOr(wild, absl::Seconds(7)), absl::Seconds(7));
}

TEST(Waits, AreSaturatedAndRoundedUp) {
  for (const absl::Duration huge : {absl::InfiniteDuration(), absl::Hours(24 * 365 * 1000),
                                    absl::Seconds(std::numeric_limits<int64_t>::max())}) {
    EXPECT_EQ(ChronoNanoseconds(huge), absl::ToChronoNanoseconds(kLongestWait));
    EXPECT_EQ(ChronoMilliseconds(huge), absl::ToChronoMilliseconds(kLongestWait));
    EXPECT_EQ(PollMilliseconds(huge), kLongestPollMilliseconds);
    EXPECT_EQ(ChronoNanoseconds(-huge).count(), 0);
    EXPECT_EQ(ChronoMilliseconds(-huge).count(), 0);
    EXPECT_EQ(PollMilliseconds(-huge), 0);
  }
  // What is left of 64-bit nanoseconds on the clocks that they are added to.
  EXPECT_GT(std::chrono::steady_clock::now() + ChronoNanoseconds(absl::InfiniteDuration()),
            std::chrono::steady_clock::now());
  EXPECT_GT(std::chrono::system_clock::now() + ChronoNanoseconds(absl::InfiniteDuration()),
            std::chrono::system_clock::now());
  EXPECT_EQ(ChronoMilliseconds(absl::Nanoseconds(1)).count(), 1);
  EXPECT_EQ(PollMilliseconds(absl::Microseconds(2001)), 3);
  EXPECT_EQ(ChronoNanoseconds(absl::Seconds(2)).count(), 2'000'000'000);
}

// A wait that overflowed would end at once, and say that the time ran out.
TEST(Waits, CondVar_WithAnInfiniteTimeout_IsWokenByTheNotification) {
  Mutex mu;
  CondVar changed;
  bool done = false;
  std::thread waker([&] {
    MutexLock lock(mu);
    done = true;
    changed.NotifyAll();
  });
  {
    MutexLock lock(mu);
    while (!done) ASSERT_TRUE(changed.WaitFor(mu, absl::InfiniteDuration())) << "the time ran out";
  }
  waker.join();
}

}  // namespace
}  // namespace dsrun
