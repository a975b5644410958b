#include "worker/parallel/gradient_exponents.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace dsrun::worker {
namespace {

using Verdict = GradientExponents::Verdict;

uint32_t Bits(float x) { return std::bit_cast<uint32_t>(x); }

GradientExponents Known(int reference, int64_t contributions = 16) {
  GradientExponents exponents({contributions}, 8);
  exponents.Restore({reference});
  return exponents;
}

// 63 bits, less 4 for 16 contributions, less what is left of the point: up to 2^13 times 2^e_ref.
TEST(GradientExponents, Scale_LeavesRoomForAllContributions) {
  EXPECT_EQ(Known(0).Scale(0), 63 - 4 - 13);
  EXPECT_EQ(Known(-20).Scale(0), 63 - 4 + 7);
  EXPECT_EQ(Known(0, 17).Scale(0), 63 - 5 - 13);
  EXPECT_EQ(Known(0, 1).Scale(0), 63 - 13);
}

// Whatever fits by the rule fits into the integer: 2^(e_ref + m + 1) times 2^s times their number.
TEST(GradientExponents, LargestThatCounts_AddsUpToLessThanTwoToThe63) {
  for (const int64_t count : {1, 2, 3, 16, 17, 1000}) {
    for (const int reference : {-100, -3, 0, 60}) {
      const GradientExponents exponents = Known(reference, count);
      const int top = reference + GradientExponents::kHeadroom + 1 + exponents.Scale(0);
      EXPECT_LE(static_cast<long double>(count) * __builtin_powil(2.0L, top),
                __builtin_powil(2.0L, 63));
    }
  }
}

TEST(GradientExponents, StepIsVoid_JustAboveTheHeadroom) {
  const GradientExponents exponents = Known(3);
  EXPECT_EQ(exponents.Judge(std::vector{Bits(0x1.fffffep15f)}), Verdict::kCounts);
  EXPECT_EQ(exponents.Judge(std::vector{Bits(0x1p16f)}), Verdict::kVoid);
  EXPECT_EQ(exponents.Judge(std::vector{Bits(0x1p-100f)}), Verdict::kCounts);
  EXPECT_EQ(exponents.Judge(std::vector{uint32_t{0}}), Verdict::kCounts);
}

TEST(GradientExponents, InfinityAndNan_TakePrecedence) {
  GradientExponents exponents({16, 16, 16}, 8);
  exponents.Restore({0, 0, 0});
  const uint32_t jump = Bits(0x1p40f);
  EXPECT_EQ(exponents.Judge(std::vector{jump, 0u, Bits(std::numeric_limits<float>::infinity())}),
            Verdict::kNotFinite);
  EXPECT_EQ(exponents.Judge(std::vector{0x7fc00000u, jump, 0u}), Verdict::kNotFinite);
}

TEST(GradientExponents, AVoidStep_FitsTheSecondTime) {
  GradientExponents exponents({16, 16}, 8);
  exponents.Restore({0, 5});
  const std::vector<uint32_t> seen = {Bits(0x1.8p20f), Bits(1.0f)};
  ASSERT_EQ(exponents.Judge(seen), Verdict::kVoid);
  exponents.MakeRoom(seen);
  EXPECT_EQ(exponents.state(), (GradientExponents::State{20, 5}));  // the other keeps its own
  EXPECT_EQ(exponents.Judge(seen), Verdict::kCounts);
  exponents.Commit(seen);
  EXPECT_EQ(exponents.state(), (GradientExponents::State{20, 4}));
}

TEST(GradientExponents, Reference_FollowsUpAtOnceAndDownByOne) {
  GradientExponents exponents = Known(0);
  for (const auto& [seen, expected] : std::vector<std::pair<float, int>>{
           {0x1p7f, 7}, {0x1p2f, 6}, {0x1p-30f, 5}, {0.0f, 5}, {0x1p5f, 5}}) {
    exponents.Commit(std::vector{Bits(seen)});
    EXPECT_EQ(exponents.state()[0], expected) << seen;
  }
}

TEST(GradientExponents, ProvisionalTensor_IsVoidAlsoWhereTheGuessWasMuchTooHigh) {
  GradientExponents exponents({16}, 8);
  EXPECT_EQ(exponents.Judge(std::vector{Bits(0x1p-8f)}), Verdict::kCounts);
  EXPECT_EQ(exponents.Judge(std::vector{Bits(0x1p21f)}), Verdict::kVoid);
  const std::vector<uint32_t> tiny = {Bits(0x1p-9f)};
  ASSERT_EQ(exponents.Judge(tiny), Verdict::kVoid);
  exponents.MakeRoom(tiny);
  EXPECT_EQ(exponents.state()[0], -9);
  EXPECT_EQ(exponents.Judge(tiny), Verdict::kCounts);
}

// Not yet known stays not yet known until there is something to know.
TEST(GradientExponents, ProvisionalTensorWithoutGradient_StaysProvisional) {
  GradientExponents exponents({16}, 8);
  exponents.Commit(std::vector{0u});
  EXPECT_EQ(exponents.state()[0], std::nullopt);
  exponents.Commit(std::vector{Bits(0x1p-3f)});
  EXPECT_EQ(exponents.state()[0], -3);
}

TEST(GradientExponents, State_GoesThroughTheFloatsOfACheckpoint) {
  GradientExponents exponents({16, 16, 16}, 8);
  exponents.Restore({-127, std::nullopt, 127});
  std::vector<float> floats(3);
  exponents.WriteTo(floats);
  GradientExponents other({16, 16, 16}, 8);
  ASSERT_TRUE(other.ReadFrom(floats).ok());
  EXPECT_EQ(other.state(), exponents.state());
  for (const std::vector<float>& damaged : std::vector<std::vector<float>>{
           {1, 2}, {1, 2, 3, 4}, {0.5f, 0, 0}, {0, 128, 0}, {0, 0, std::nanf("")}}) {
    EXPECT_EQ(other.ReadFrom(damaged).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(other.state(), exponents.state());  // as it was
  }
}

TEST(GradientExponents, Guess_GrowsWithTheTokensOfAMicroBatch) {
  EXPECT_EQ(GuessExponent(1), 0);
  EXPECT_EQ(GuessExponent(256), 8);
  EXPECT_EQ(GuessExponent(257), 9);
}

}  // namespace
}  // namespace dsrun::worker
