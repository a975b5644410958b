#include "common/schedule/lr_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using Params = std::map<std::string, double>;

LrSchedule Schedule(const std::string& name, const Params& params) {
  absl::StatusOr<LrSchedule> schedule = LrSchedule::Create(name, params);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  return *schedule;
}

// Doubles between the two, the one itself not counted.
double Ulps(double a, double b) {
  if (a == b) return 0;
  const double larger = std::max(std::abs(a), std::abs(b));
  return std::abs(a - b) / (std::nextafter(larger, std::numeric_limits<double>::max()) - larger);
}

Params ParseParams(const std::string& text) {
  Params params;
  std::istringstream in(text);
  for (std::string one; std::getline(in, one, ',');) {
    const size_t equals = one.find('=');
    params[one.substr(0, equals)] = std::strtod(one.c_str() + equals + 1, nullptr);
  }
  return params;
}

// tools/reference/lr_schedules.py wrote them, by the formulas, in Python.
TEST(LrScheduleTest, DeepSpeedsSchedules_AreThoseOfItsFormulasToOneUlp) {
  std::ifstream golden("tests/common/schedule/golden.txt");
  std::string first, name, params, lr, beta;
  int64_t values = 0;
  while (golden >> first) {
    if (first == "schedule") {
      golden >> name >> params;
      continue;
    }
    golden >> lr >> beta;
    const ScheduledRates rates = Schedule(name, ParseParams(params)).At(std::stoll(first));
    ASSERT_LE(Ulps(rates.lr, std::strtod(lr.c_str(), nullptr)), 1)
        << name << " " << params << ", update " << first;
    if (name == "OneCycle") {
      ASSERT_LE(Ulps(rates.beta1, std::strtod(beta.c_str(), nullptr)), 1)
          << params << ", update " << first;
    }
    ++values;
  }
  EXPECT_GT(values, 1000);
}

// The figures that people know from DeepSpeed, to the nine digits in which they are written down.
TEST(LrScheduleTest, WarmUps_SpendTwoStepsAtTheMinimumAndReachTheirRateAtTheEnd) {
  const LrSchedule log = Schedule("WarmupLR", {{"warmup_max_lr", 1e-3}, {"warmup_num_steps", 10}});
  const std::vector<double> expected = {0,
                                        0,
                                        3.01029996e-4,
                                        4.77121255e-4,
                                        6.02059991e-4,
                                        6.98970004e-4,
                                        7.7815125e-4,
                                        8.4509804e-4,
                                        9.03089987e-4,
                                        9.54242509e-4,
                                        1e-3};
  for (size_t step = 0; step < expected.size(); ++step) {
    EXPECT_NEAR(log.At(static_cast<int64_t>(step)).lr, expected[step], 1e-12);
  }
}

TEST(LrScheduleTest, DefaultsAreDeepSpeeds) {
  const LrSchedule decay = Schedule("WarmupDecayLR", {{"total_num_steps", 2000}});
  EXPECT_EQ(decay.At(1001).lr, 0.001);
  const LrSchedule cycle = Schedule("OneCycle", {{"cycle_min_lr", 1}, {"cycle_max_lr", 2}});
  EXPECT_EQ(cycle.At(2000).lr, 2);
  EXPECT_EQ(cycle.At(2000).beta1, 0.8);
  EXPECT_EQ(cycle.At(4000).lr, 1);
  EXPECT_EQ(cycle.At(9000).lr, 1);
  EXPECT_EQ(cycle.At(9000).beta1, 0.9);
}

TEST(LrScheduleTest, OneCycle_MovesBetasOnlyWhereItIsAskedTo) {
  Params params = {{"cycle_min_lr", 1}, {"cycle_max_lr", 2}};
  EXPECT_TRUE(Schedule("OneCycle", params).At(7).sets_betas);
  EXPECT_EQ(Schedule("OneCycle", params).At(7).beta2, 0.99);
  params["cycle_momentum"] = 0;
  EXPECT_FALSE(Schedule("OneCycle", params).At(7).sets_betas);
  EXPECT_FALSE(Schedule("constant", {{"lr", 1}, {"steps", 1}}).At(7).sets_betas);
}

// At 1 the correction of AdamW's moments divides by 0, beyond it turns round.
TEST(LrScheduleTest, DecayOfMomentum_StaysBelowOneForEver) {
  const Params params = {{"cycle_min_lr", 1},
                         {"cycle_max_lr", 2},
                         {"cycle_first_step_size", 5},
                         {"decay_step_size", 1},
                         {"decay_mom_rate", 0.5}};
  const LrSchedule grows = Schedule("OneCycle", params);
  EXPECT_EQ(grows.At(1000).beta1, 0.999);
  Params falling = params;
  falling["decay_mom_rate"] = -0.5;
  EXPECT_EQ(Schedule("OneCycle", falling).At(1000).beta1, 0);
}

TEST(LrScheduleTest, OurSchedules_WarmUpAndDecay) {
  const Params params = {{"lr", 1.0}, {"min_lr", 0.2}, {"warmup", 2}, {"steps", 6}};
  for (const std::string name : {"linear", "cosine", "constant", "inverse-square-root"}) {
    EXPECT_EQ(Schedule(name, params).At(0).lr, 0.5) << name;
    EXPECT_EQ(Schedule(name, params).At(1).lr, 1.0) << name;
  }
  EXPECT_EQ(Schedule("linear", params).At(2).lr, 1.0);
  EXPECT_DOUBLE_EQ(Schedule("linear", params).At(4).lr, 0.6);
  EXPECT_EQ(Schedule("linear", params).At(6).lr, 0.2);
  EXPECT_EQ(Schedule("linear", params).At(1000).lr, 0.2);
  EXPECT_EQ(Schedule("cosine", params).At(2).lr, 1.0);
  EXPECT_DOUBLE_EQ(Schedule("cosine", params).At(4).lr, 0.6);
  EXPECT_DOUBLE_EQ(Schedule("cosine", params).At(3).lr, 0.2 + 0.8 * (1 + std::sqrt(0.5)) / 2);
  EXPECT_EQ(Schedule("cosine", params).At(6).lr, 0.2);
  EXPECT_EQ(Schedule("constant", params).At(1000).lr, 1.0);
  EXPECT_DOUBLE_EQ(Schedule("inverse-square-root", params).At(7).lr, 0.5);
  EXPECT_EQ(Schedule("inverse-square-root", params).At(1000).lr, 0.2);
}

TEST(LrScheduleTest, Wsd_StaysAndDecaysOverItsLastSteps) {
  const LrSchedule wsd =
      Schedule("WSD", {{"lr", 1.0}, {"warmup", 2}, {"steps", 10}, {"decay_steps", 4}});
  EXPECT_EQ(wsd.At(5).lr, 1.0);
  EXPECT_EQ(wsd.At(6).lr, 1.0);
  EXPECT_EQ(wsd.At(8).lr, 0.5);
  EXPECT_EQ(wsd.At(10).lr, 0.0);
}

TEST(LrScheduleTest, WarmUpLongerThanTheRun_NeverExceedsTheRate) {
  const LrSchedule linear = Schedule("linear", {{"lr", 1.0}, {"warmup", 10}, {"steps", 4}});
  EXPECT_EQ(linear.At(3).lr, 0.4);
  EXPECT_EQ(linear.At(4).lr, 0.0);
}

TEST(LrScheduleTest, WhatCannotBe_IsSaidAllAtOnce) {
  const auto error = [](const std::string& name, const Params& params) {
    return std::string(LrSchedule::Create(name, params).status().message());
  };
  EXPECT_THAT(error("cosign", {}), HasSubstr("\"cosign\": there is none of that name; there are"));
  const std::string all = error("WarmupLR", {{"warmup_num_steps", 0}, {"warmup_steps", 3}});
  EXPECT_THAT(all, HasSubstr("warmup_max_lr: must be given"));
  EXPECT_THAT(all, HasSubstr("warmup_num_steps: expected at least 1, got 0"));
  EXPECT_THAT(all, HasSubstr("warmup_steps: there is no such parameter"));
  EXPECT_THAT(error("linear", {{"lr", std::nan("")}, {"steps", 1}}), HasSubstr("finite"));
  EXPECT_THAT(error("linear", {{"lr", 1}, {"steps", 1.5}}), HasSubstr("whole number"));
  EXPECT_THAT(error("LRRangeTest", {{"lr_range_test_staircase", 2}}), HasSubstr("0 or 1"));
  EXPECT_THAT(error("OneCycle", {{"cycle_min_lr", 1}, {"cycle_max_lr", 1e308}}),
              HasSubstr("cycle_max_lr: expected at most 1e+06, got 1e+308"));
  EXPECT_THAT(error("LRRangeTest", {{"lr_range_test_step_rate", -1}}), HasSubstr("at least 0"));
  EXPECT_THAT(error("OneCycle", {{"cycle_min_lr", 1}, {"cycle_max_lr", 2}, {"cycle_max_mom", 1}}),
              HasSubstr("cycle_max_mom: expected below 1, got 1"));
}

}  // namespace
}  // namespace dsrun
