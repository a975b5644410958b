// --lr-schedule and its parameters.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

class ScheduleTest : public ResolveTest {
 protected:
  Args Train(const Args& more) const {
    Args args = {"train", "--data", dir_ + "/text", "--train-iters", "100"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  double Param(const Resolved& resolved, const std::string& key) const {
    return resolved.job.train().lr_schedule().params().at(key);
  }
};

TEST_F(ScheduleTest, WithoutTheFlag_ItIsLinearOverTheRun) {
  const Resolved resolved = Good(Train({"--lr", "0.5", "--min-lr", "0.1"}));
  EXPECT_EQ(resolved.job.train().lr_schedule().name(), "linear");
  EXPECT_EQ(Param(resolved, "lr"), 0.5);
  EXPECT_EQ(Param(resolved, "min_lr"), 0.1);
  EXPECT_EQ(Param(resolved, "warmup"), 10);
  EXPECT_EQ(Param(resolved, "steps"), 100);
}

TEST_F(ScheduleTest, DeepSpeedsOwn_TakesWhatIsGivenAndWhatTheFlagsSay) {
  const Resolved decay =
      Good(Train({"--lr-schedule", "WarmupDecayLR", "--lr", "0.5", "--lr-schedule-param",
                  "warmup_num_steps=7", "--lr-schedule-param", "warmup_type=linear"}));
  EXPECT_EQ(Param(decay, "warmup_num_steps"), 7);
  EXPECT_EQ(Param(decay, "warmup_type"), 1);
  EXPECT_EQ(Param(decay, "warmup_max_lr"), 0.5);
  EXPECT_EQ(Param(decay, "total_num_steps"), 100);
  // DeepSpeed's own default, where nobody gave a rate.
  const Resolved bare = Good(Train({"--lr-schedule", "WarmupDecayLR"}));
  EXPECT_EQ(Param(bare, "warmup_max_lr"), 0.001);
  const Resolved warm = Good(Train({"--lr-schedule", "WarmupLR"}));
  EXPECT_EQ(Param(warm, "warmup_max_lr"), warm.job.train().lr());
  const Resolved cycle = Good(Train(
      {"--lr-schedule", "OneCycle", "--lr-schedule-param", "cycle_min_lr=1e-4",
       "--lr-schedule-param", "cycle_max_lr=1e-3", "--lr-schedule-param", "cycle_momentum=false"}));
  EXPECT_EQ(Param(cycle, "cycle_max_lr"), 1e-3);
  EXPECT_EQ(Param(cycle, "cycle_momentum"), 0);
}

TEST_F(ScheduleTest, DryRun_ShowsRatesOverTheRun) {
  const Resolved resolved = Good(Train({"--lr-schedule", "cosine", "--lr", "0.5"}));
  EXPECT_THAT(DryRunText(resolved, machine_),
              HasSubstr("lr by cosine: 0.05 at step 1, 0.5 at step 10"));
  EXPECT_THAT(DryRunText(resolved, machine_), HasSubstr(", betas 0.9 0.95, "));
  const Resolved cycle =
      Good(Train({"--lr-schedule", "OneCycle", "--lr-schedule-param", "cycle_min_lr=1e-4",
                  "--lr-schedule-param", "cycle_max_lr=1e-3"}));
  EXPECT_THAT(DryRunText(cycle, machine_), HasSubstr(", betas by OneCycle, "));
}

TEST_F(ScheduleTest, WhatIsWrong_IsNamedWithTheNextBest) {
  EXPECT_THAT(Refused(Train({"--lr-schedule", "cosin"})),
              HasSubstr("got \"cosin\"; did you mean cosine?"));
  EXPECT_THAT(
      Refused(Train({"--lr-schedule", "WarmupLR", "--lr-schedule-param", "warmup_steps=7"})),
      HasSubstr("WarmupLR has no parameter \"warmup_steps\""));
  EXPECT_THAT(
      Refused(Train({"--lr-schedule", "WarmupLR", "--lr-schedule-param", "warmup_type=exp"})),
      HasSubstr("warmup_type: expected log or linear, got \"exp\""));
  EXPECT_THAT(
      Refused(Train({"--lr-schedule", "WarmupLR", "--lr-schedule-param", "warmup_num_steps"})),
      HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "OneCycle"})),
              HasSubstr("cycle_min_lr: must be given; cycle_max_lr: must be given"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "WarmupLR", "--min-lr", "0.1"})),
              HasSubstr("has no effect with --lr-schedule WarmupLR"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "LRRangeTest", "--lr", "0.1"})),
              HasSubstr("has no effect with --lr-schedule LRRangeTest"));
  EXPECT_THAT(Refused(Train({"--lr-schedule-param", "warmup=3"})),
              HasSubstr("has a flag of its own"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "WSD"})), HasSubstr("decay_steps: must be given"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "constant", "--min-lr", "0.0001"})),
              HasSubstr("has no effect with --lr-schedule constant"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "WarmupLR", "--lr", "0.5", "--lr-schedule-param",
                             "warmup_max_lr=0.001"})),
              HasSubstr("has no effect with --lr-schedule WarmupLR"));
  EXPECT_THAT(Refused(Train({"--lr-schedule", "WarmupLR", "--lr-schedule-param",
                             "warmup_num_steps=3", "--lr-schedule-param", "warmup_num_steps=5"})),
              HasSubstr("warmup_num_steps is given twice"));
  EXPECT_THAT(
      Refused(Train({"--lr-schedule", "OneCycle", "--adam-beta2", "0.9", "--lr-schedule-param",
                     "cycle_min_lr=1e-4", "--lr-schedule-param", "cycle_max_lr=1e-3"})),
      HasSubstr("has no effect with --lr-schedule OneCycle"));
}

}  // namespace
}  // namespace dsrun::launcher
