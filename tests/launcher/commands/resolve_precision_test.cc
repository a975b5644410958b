// --precision, and the loss scale of fp16.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;
using testing::Not;

class ResolvePrecisionTest : public DryRunTest {
 protected:
  std::string RefusedWith(const Args& more) { return Refused(With(more)); }
};

TEST_F(ResolvePrecisionTest, WithoutFlags_IsFp32_AndNothingIsSaidOfIt) {
  EXPECT_EQ(Spec({}).precision(), "fp32");
  EXPECT_FALSE(Spec({}).has_loss_scale());
  EXPECT_THAT(Text({}), Not(HasSubstr("precision ")));
}

TEST_F(ResolvePrecisionTest, SixteenBits_AreSaid_AndHalveWhatLayersRead) {
  EXPECT_THAT(Text({"--precision=bf16"}), HasSubstr("precision     bf16\n"));
  EXPECT_THAT(Text({"--precision=fp16"}),
              HasSubstr("precision     fp16, loss scale 65536 at first\n"));
  EXPECT_THAT(Text({"--precision=fp16", "--loss-scale=128"}),
              HasSubstr("precision     fp16, loss scale 128, fixed\n"));
  const Resolved half = Good(With({"--precision=bf16"}));
  const Resolved full = Good(With({}));
  EXPECT_EQ(2 * half.memory.at(0).Find("parameters").bytes(),
            full.memory.at(0).Find("parameters").bytes());
  EXPECT_EQ(half.memory.at(0).Find("master_parameters").bytes(),
            full.memory.at(0).Find("parameters").bytes());
}

TEST_F(ResolvePrecisionTest, LossScale_IsWhatWasSaid) {
  const proto::LossScale scale =
      Spec({"--precision=fp16", "--initial-scale-power=12", "--loss-scale-window=500",
            "--hysteresis=3", "--min-loss-scale=0.5", "--consecutive-hysteresis"})
          .loss_scale();
  EXPECT_EQ(scale.initial_power(), 12);
  EXPECT_EQ(scale.window(), 500);
  EXPECT_EQ(scale.hysteresis(), 3);
  EXPECT_EQ(scale.min(), 0.5);
  EXPECT_TRUE(scale.consecutive_hysteresis());
  EXPECT_FALSE(scale.has_fixed());
  EXPECT_EQ(Spec({"--precision=fp16", "--loss-scale=1024"}).loss_scale().fixed(), 1024);
  EXPECT_FALSE(Spec({"--precision=fp16", "--loss-scale=dynamic"}).loss_scale().has_fixed());
}

TEST_F(ResolvePrecisionTest, WhatCannotBe_IsAFinding) {
  EXPECT_THAT(RefusedWith({"--precision=fp8"}), HasSubstr("--precision: expected"));
  EXPECT_THAT(RefusedWith({"--loss-scale=128"}),
              HasSubstr("--loss-scale: gradients of fp32 are not scaled; give --precision fp16"));
  EXPECT_THAT(RefusedWith({"--precision=bf16", "--hysteresis=3"}),
              HasSubstr("--hysteresis: gradients of bf16 are not scaled"));
  EXPECT_THAT(RefusedWith({"--precision=fp16", "--loss-scale=100"}),
              HasSubstr("--loss-scale: loss scale: expected a fixed scale that is a power of two, "
                        "got 100"));
  EXPECT_THAT(RefusedWith({"--precision=fp16", "--loss-scale=large"}),
              HasSubstr("--loss-scale: expected dynamic or a power of two, got large"));
  EXPECT_THAT(RefusedWith({"--precision=fp16", "--loss-scale=128", "--hysteresis=3"}),
              HasSubstr("--hysteresis: it is a setting of a dynamic loss scale"));
  EXPECT_THAT(RefusedWith({"--precision=fp16", "--min-loss-scale=3"}),
              HasSubstr("--min-loss-scale: loss scale: expected a least scale that is a power"));
  EXPECT_THAT(RefusedWith({"--precision=fp16", "--initial-scale-power=4", "--min-loss-scale=32"}),
              HasSubstr("least power of two from -60 to 4, got 5"));
  EXPECT_THAT(RefusedWith({"--precision=fp16", "--loss-scale-window=0"}),
              HasSubstr("--loss-scale-window"));
  EXPECT_THAT(RefusedWith({"--bf16"}), HasSubstr("write --precision bf16"));
}

// Products of bf16 by instructions of their own, where the CPU has them; other jobs keep theirs.
TEST_F(ResolvePrecisionTest, InstructionsOfBf16_AreForBf16Alone) {
  machine_.isa = "avx512";
  EXPECT_EQ(Spec({"--precision=bf16"}).isa_cap(), "avx512");
  machine_.bf16_isa = "avx512-bf16";
  EXPECT_EQ(Spec({"--precision=bf16"}).isa_cap(), "avx512-bf16");
  EXPECT_EQ(Spec({"--precision=fp16"}).isa_cap(), "avx512");
  EXPECT_EQ(Spec({}).isa_cap(), "avx512");
  EXPECT_EQ(Spec({"--precision=bf16", "--isa-cap=avx2"}).isa_cap(), "avx2");
}

}  // namespace
}  // namespace dsrun::launcher
