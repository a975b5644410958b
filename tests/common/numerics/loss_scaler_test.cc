#include "common/numerics/loss_scaler.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

// DeepSpeed's rules as engines tell them: a count of steps, and that of the last overflow.
struct Model {
  double scale;
  double min;
  int64_t window;
  int64_t hysteresis;
  bool consecutive;
  int64_t left = hysteresis;
  int64_t step = 0;
  int64_t last = -1;

  // False: it gives up.
  bool Update(bool overflow) {
    if (overflow) {
      if (hysteresis == 1 || left == 1) {
        if (scale == min) return false;
        scale = std::max(scale / 2, min);
      } else {
        --left;
      }
      last = step;
    } else {
      if (consecutive) left = hysteresis;
      const int64_t stable = step - last - 1;
      if (stable > 0 && stable % window == 0) {
        if (!consecutive) left = hysteresis;
        scale *= 2;
      }
    }
    ++step;
    return true;
  }
};

std::vector<std::pair<double, int64_t>> TraceOf(const LossScalePolicy& policy,
                                                const std::vector<int>& overflows) {
  LossScaler scaler(policy);
  std::vector<std::pair<double, int64_t>> trace;
  for (const int overflow : overflows) {
    if (!scaler.Update(overflow != 0).ok()) break;
    trace.emplace_back(scaler.scale(), static_cast<int64_t>(scaler.Write()[1]));
  }
  return trace;
}

using Trace = std::vector<std::pair<double, int64_t>>;

TEST(LossScaler, GoldenTraces_AreDeepSpeeds) {
  LossScalePolicy policy{.window = 2, .hysteresis = 2};
  EXPECT_EQ(TraceOf(policy, {1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0}), (Trace{{65536, 1},
                                                                          {32768, 1},
                                                                          {16384, 1},
                                                                          {16384, 1},
                                                                          {16384, 1},
                                                                          {32768, 2},
                                                                          {32768, 2},
                                                                          {65536, 2},
                                                                          {65536, 1},
                                                                          {32768, 1},
                                                                          {16384, 1},
                                                                          {16384, 1}}));
  policy.consecutive_hysteresis = true;
  EXPECT_EQ(TraceOf(policy, {1, 1, 0, 1, 1, 0, 0, 0, 0}), (Trace{{65536, 1},
                                                                 {32768, 1},
                                                                 {32768, 2},
                                                                 {32768, 1},
                                                                 {16384, 1},
                                                                 {16384, 2},
                                                                 {16384, 2},
                                                                 {32768, 2},
                                                                 {32768, 2}}));
}

TEST(LossScaler, AtItsLeast_ItGivesUp) {
  LossScaler scaler({.initial_power = 2, .hysteresis = 1});
  EXPECT_TRUE(scaler.Update(true).ok());
  EXPECT_EQ(scaler.scale(), 2);
  EXPECT_TRUE(scaler.Update(true).ok());
  EXPECT_EQ(scaler.scale(), 1);
  const absl::Status status = scaler.Update(true);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("at its least, 2^0"));
}

TEST(LossScaler, MillionRandomSteps_AreThoseOfTheModel) {
  constexpr unsigned kSeed = 20261128;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  int64_t steps = 0, halved = 0, doubled = 0, gave_up = 0, restarts = 0;
  while (steps < 1'000'000) {
    LossScalePolicy policy;
    policy.window = 1 + static_cast<int64_t>(random() % 7);
    policy.hysteresis = 1 + static_cast<int64_t>(random() % 4);
    policy.consecutive_hysteresis = random() % 2 == 0;
    policy.initial_power = static_cast<int64_t>(random() % 20);
    policy.min_power = policy.initial_power - static_cast<int64_t>(random() % 6);
    ASSERT_TRUE(CheckLossScale(policy).ok());
    Model model{std::ldexp(1.0, static_cast<int>(policy.initial_power)),
                std::ldexp(1.0, static_cast<int>(policy.min_power)), policy.window,
                policy.hysteresis, policy.consecutive_hysteresis};
    LossScaler scaler(policy);
    const unsigned rarity = 1 + random() % 12;
    for (int i = 0; i < 200; ++i, ++steps) {
      const bool overflow = random() % rarity == 0;
      const double before = model.scale;
      const bool goes_on = model.Update(overflow);
      ASSERT_EQ(scaler.Update(overflow).ok(), goes_on) << "step " << i;
      if (!goes_on) {
        ++gave_up;
        break;
      }
      halved += model.scale < before;
      doubled += model.scale > before;
      ASSERT_EQ(scaler.scale(), model.scale) << "step " << i;
      ASSERT_EQ(static_cast<int64_t>(scaler.Write()[1]), model.left) << "step " << i;
      if (random() % 50 == 0) {  // through a checkpoint
        ++restarts;
        const auto values = scaler.Write();
        LossScaler again(policy);
        ASSERT_TRUE(again.Read(values).ok());
        ASSERT_EQ(again.Write(), values);
        ASSERT_TRUE(scaler.Read(values).ok());
      }
      if (model.scale > 0x1p50) break;
    }
  }
  EXPECT_GT(halved, 1000);
  EXPECT_GT(doubled, 1000);
  EXPECT_GT(gave_up, 1000);
  EXPECT_GT(restarts, 1000);
}

TEST(LossScaler, FixedScale_StaysAndEndsAHundredOverflowsInARow) {
  LossScaler scaler({.fixed_power = 7});
  for (int64_t i = 1; i < LossScaler::kMostFixedOverflows; ++i) {
    ASSERT_TRUE(scaler.Update(true).ok()) << i;
  }
  ASSERT_TRUE(scaler.Update(false).ok());
  EXPECT_EQ(scaler.scale(), 128);
  for (int64_t i = 1; i < LossScaler::kMostFixedOverflows; ++i) {
    ASSERT_TRUE(scaler.Update(true).ok()) << i;
  }
  EXPECT_EQ(scaler.Update(true).code(), absl::StatusCode::kOutOfRange);
}

TEST(LossScaler, PoliciesThatAreNone_AreRefusedWithTheNumber) {
  const auto expect = [](LossScalePolicy policy, const std::string& words) {
    const absl::Status status = CheckLossScale(policy);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(words));
  };
  expect({.initial_power = 61}, "initial power of two from -60 to 60, got 61");
  expect({.window = 0}, "window of steps from 1 to 16777216, got 0");
  expect({.hysteresis = 0}, "hysteresis of overflows from 1");
  expect({.initial_power = 3, .min_power = 4}, "least power of two from -60 to 3, got 4");
  expect({.fixed_power = 100}, "fixed power of two");
}

TEST(LossScaler, StatesThatAreNone_AreRefused) {
  LossScaler scaler({});
  for (const std::vector<float>& values : std::vector<std::vector<float>>{
           {}, {16, 2}, {16.5f, 2, 0}, {61, 2, 0}, {16, 0, 0}, {16, 2, -1}, {NAN, 2, 0}}) {
    EXPECT_EQ(scaler.Read(values).code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(scaler.scale(), 65536);
}

}  // namespace
}  // namespace dsrun
