// The lanes as they are compiled for a CPU without newer instructions; that all three compilations
// agree is bits_test's.

#include "worker/device/cpu/lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/base/philox.h"

namespace dsrun::worker {
namespace {

#if defined(__FMA__) || defined(__AVX512F__)
#error "this test is for the code that makes up for a missing instruction"
#endif

float Fused(float a, float b, float c) { return Fma(Set(a), Set(b), Set(c)).part[kParts - 1][1]; }

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

TEST(LanesTest, FmaWithoutTheInstruction_RoundsOnce) {
  const float tiny = 0x1p-23f;
  // The exact sum is 2^-70 below the middle between two floats; rounded to double it is the middle.
  const float a = 1 + tiny;
  const float b = 0x1p-24f * (1 - tiny);
  const float c = 1 + tiny;
  EXPECT_EQ(Fused(a, b, c), 1 + tiny);
  EXPECT_EQ(static_cast<float>(double{a} * double{b} + double{c}), 1 + 2 * tiny) << "rounds twice";
  EXPECT_EQ(Fused(-a, b, -c), -(1 + tiny));
  EXPECT_EQ(Fused(3, 5, -15), 0);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Fused(infinity, 2, 1), infinity);
  EXPECT_EQ(Fused(0x1p127f, 2, 0), infinity);
  EXPECT_TRUE(std::isnan(Fused(infinity, 1, -infinity)));
  EXPECT_TRUE(std::isnan(Fused(std::nanf(""), 1, 1)));
}

// Operands of like size, where digits are lost and where they cancel.
TEST(LanesTest, FmaWithoutTheInstruction_IsTheLibrarysForRandomOperands) {
  int64_t wrong = 0;
  for (uint64_t i = 0; i < 2'000'000; ++i) {
    const PhiloxBlock words = Philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {1, 2});
    const auto number = [](uint32_t word, int scale) {
      const float fraction = 1 + static_cast<float>(word >> 9) * 0x1p-23f;
      return std::ldexp((word & 1) != 0 ? -fraction : fraction, scale);
    };
    const float a = number(words[0], 0);
    const float b = number(words[1], 0);
    const float c = number(words[2], static_cast<int>(words[3] % 60) - 30);
    if (!SameBits(Fused(a, b, c), std::fma(a, b, c))) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(LanesTest, Exp_IsCloseAndEndsAtZeroAndKeepsNaN) {
  double worst = 0;
  for (int i = -86'000; i <= 88'000; ++i) {
    const float x = static_cast<float>(i) * 1e-3f;
    const double expected = std::exp(double{x});
    worst = std::max(worst, std::abs(double{Exp(Set(x)).part[0][0]} / expected - 1));
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(Exp(Set(-89)).part[0][0], 0);
  EXPECT_EQ(Exp(Set(-std::numeric_limits<float>::infinity())).part[0][0], 0);
  EXPECT_EQ(Exp(Set(0)).part[0][0], 1);
  EXPECT_TRUE(std::isnan(Exp(Set(std::nanf(""))).part[0][0]));
}

}  // namespace
}  // namespace dsrun::worker
