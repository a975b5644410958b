#include "worker/engine/exchange_timeout.h"

#include "gtest/gtest.h"

namespace dsrun::worker {
namespace {

TEST(ExchangeTimeoutTest, FirstStep_IsGivenTheTimeOfASlowMachine) {
  EXPECT_EQ(ExchangeTimeout(absl::Seconds(10), 5e9).Current(), absl::Seconds(10));
  EXPECT_EQ(ExchangeTimeout(absl::Seconds(10), 90e9).Current(), absl::Seconds(90));
}

TEST(ExchangeTimeoutTest, FollowsTheMedianStepAboveTheLeast) {
  ExchangeTimeout timeout(absl::Seconds(10), 90e9);
  timeout.StepTook(absl::Milliseconds(200));
  EXPECT_EQ(timeout.Current(), absl::Seconds(10));
  for (int i = 0; i < 40; ++i) timeout.StepTook(absl::Seconds(3));
  EXPECT_EQ(timeout.Current(), absl::Seconds(30));
  for (int i = 0; i < 5; ++i) timeout.StepTook(absl::Seconds(300));  // a few slow ones do not count
  EXPECT_EQ(timeout.Current(), absl::Seconds(30));
}

}  // namespace
}  // namespace dsrun::worker
