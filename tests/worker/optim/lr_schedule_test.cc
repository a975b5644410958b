#include "worker/optim/lr_schedule.h"

#include "gtest/gtest.h"

namespace dsrun::worker {
namespace {

TEST(LrScheduleTest, DecaysLinearlyFromTheFirstStep) {
  const LrSchedule schedule{.lr = 1.0, .min_lr = 0.2, .warmup = 0, .steps = 4};
  EXPECT_DOUBLE_EQ(schedule.At(0), 1.0);
  EXPECT_DOUBLE_EQ(schedule.At(1), 0.8);
  EXPECT_DOUBLE_EQ(schedule.At(3), 0.4);
  EXPECT_DOUBLE_EQ(schedule.At(4), 0.2);
  EXPECT_DOUBLE_EQ(schedule.At(400), 0.2);
}

TEST(LrScheduleTest, WarmsUpToLrAndThenDecays) {
  const LrSchedule schedule{.lr = 1.0, .min_lr = 0, .warmup = 2, .steps = 4};
  EXPECT_DOUBLE_EQ(schedule.At(0), 0.5);
  EXPECT_DOUBLE_EQ(schedule.At(1), 1.0);
  EXPECT_DOUBLE_EQ(schedule.At(2), 1.0);
  EXPECT_DOUBLE_EQ(schedule.At(3), 0.5);
}

TEST(LrScheduleTest, WarmUpLongerThanTheRun_NeverExceedsLr) {
  const LrSchedule schedule{.lr = 1.0, .min_lr = 0, .warmup = 10, .steps = 4};
  for (int64_t step = 0; step < 4; ++step) {
    EXPECT_DOUBLE_EQ(schedule.At(step), 0.1 * static_cast<double>(step + 1));
  }
  EXPECT_DOUBLE_EQ(schedule.At(12), 0.0);
}

}  // namespace
}  // namespace dsrun::worker
