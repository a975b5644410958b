// Sums in fixed point against integers of 128 bits, which hold every sum of these tests exactly:
// under every instruction set of this CPU, in any order, over a million random cases and a million
// hard ones on each: ties, subnormals, the largest totals of either sign, integers from 2^50 to
// 2^62 (above 2^51 the loops take another way), totals that a second rounding would spoil.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/device/reference.h"
#include "worker/device/cpu/cpu_kernels.h"

namespace dsrun::worker {
namespace {

using testing::Floats;
using testing::Z;
using Wide128 = __int128;

std::vector<CpuIsa> IsasHere() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa <= BestIsa()) isas.push_back(isa);
  }
  return isas;
}

// value / 2^drop, to the nearest, ties to even.
Wide128 ShiftedDown(Wide128 value, int drop) {
  if (drop <= 0) return value << -drop;
  const bool negative = value < 0;
  auto magnitude = static_cast<unsigned __int128>(negative ? -value : value);
  if (drop > 120) return 0;
  const auto rest = magnitude & ((static_cast<unsigned __int128>(1) << drop) - 1);
  const auto half = static_cast<unsigned __int128>(1) << (drop - 1);
  magnitude >>= drop;
  if (rest > half || (rest == half && (magnitude & 1) != 0)) ++magnitude;
  return negative ? -static_cast<Wide128>(magnitude) : static_cast<Wide128>(magnitude);
}

// x * 2^scale, rounded, by x's own bits.
Wide128 FixedOf(float x, int scale) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const int field = static_cast<int>(bits >> 23 & 0xff);
  if (field == 0) return 0;
  const auto mantissa = static_cast<Wide128>((bits & 0x7fffff) | 0x800000);
  return ShiftedDown((bits >> 31) != 0 ? -mantissa : mantissa, -(field - 127 - 23 + scale));
}

// The float nearest to sum * 2^-scale.
float FloatOf(Wide128 sum, int scale) {
  const auto magnitude = static_cast<unsigned __int128>(sum < 0 ? -sum : sum);
  int width = 0;
  while (width < 128 && magnitude >> width != 0) ++width;
  const int drop = std::max(width - 24, 0);
  const Wide128 kept = ShiftedDown(sum, drop);
  const double value = std::ldexp(static_cast<double>(kept), drop - scale);
  return std::fabs(value) < 0x1p-126 ? 0.0f : static_cast<float>(value);
}

struct Cases {
  int scale = 0;
  std::vector<Floats> contributions;  // all of one length: a case is a column
};

// Contributions below 2^(highest + 1) that, all together, stay below 2^63 (docs/numerics.md).
Cases RandomCases(std::mt19937_64& random, size_t count, size_t columns) {
  Cases cases;
  const int highest = static_cast<int>(random() % 200) - 100;
  const int room = std::bit_width(count - 1);  // ceil(log2(count))
  cases.scale = 63 - room - (highest + 1);
  cases.contributions.assign(count, Floats(columns));
  for (size_t column = 0; column < columns; ++column) {
    // Near the top, in the middle, below the quantum: each column in its own band.
    const int band = static_cast<int>(random() % 70);
    for (size_t k = 0; k < count; ++k) {
      const int exponent = std::max(highest - band - static_cast<int>(random() % 4), -126);
      const auto mantissa = static_cast<uint32_t>(random() % 3 == 0 ? random() & 0x7 : random());
      const uint32_t bits = (static_cast<uint32_t>(exponent + 127) << 23) | (mantissa & 0x7fffff) |
                            (static_cast<uint32_t>(random()) & 0x80000000);
      cases.contributions[k][column] = std::bit_cast<float>(bits);
    }
  }
  return cases;
}

float FloatOfBits(bool negative, int exponent, uint32_t mantissa) {
  return std::bit_cast<float>((negative ? 0x80000000u : 0u) |
                              (static_cast<uint32_t>(exponent + 127) << 23) |
                              (mantissa & 0x7fffff));
}

// Kinds of hard cases. Each makes the contributions of one column, and says the scale and how many
// contributions there are.
struct Hard {
  const char* name;
  int scale;
  size_t count;
  std::function<void(std::mt19937_64& random, std::vector<float>& column)> make;
};

// n + 1/2, of either sign, to be rounded to even; n from 0 to 2^22.
void MakeTies(std::mt19937_64& random, std::vector<float>& column) {
  for (float& x : column) {
    const uint64_t n = random() & ((uint64_t{1} << (1 + random() % 22)) - 1);
    x = static_cast<float>(n) + 0.5f;
    if (random() % 2 == 0) x = -x;
  }
}

// Below the normal floats, which count as 0, and the smallest that do not.
void MakeSubnormals(std::mt19937_64& random, std::vector<float>& column) {
  for (float& x : column) {
    const int exponent = random() % 2 == 0 ? -127 : -126 + static_cast<int>(random() % 3);
    x = FloatOfBits(random() % 2 == 0, exponent, static_cast<uint32_t>(random()));
  }
}

// Of one sign, and as large as they may be (docs/numerics.md) or a few units less.
void MakeLargestTotals(std::mt19937_64& random, std::vector<float>& column) {
  const bool negative = random() % 2 == 0;
  for (float& x : column) {
    x = FloatOfBits(negative, 0, 0x7fffffu - static_cast<uint32_t>(random() % 4));
  }
}

// One from 2^50 to 2^62, and one near 2^51, where the loops change their way.
void MakeLarge(std::mt19937_64& random, std::vector<float>& column) {
  const auto exponent = [&](size_t i) {
    return 50 + static_cast<int>(random() % (i == 0 ? 12 : 2));
  };
  for (size_t i = 0; i < column.size(); ++i) {
    column[i] = FloatOfBits(random() % 2 == 0, exponent(i), static_cast<uint32_t>(random()));
  }
}

// A float, half a unit of its last place, and one more, less, or not. By way of a double the one
// would be lost where the float is above 2^53.
void MakeSecondRoundings(std::mt19937_64& random, std::vector<float>& column) {
  const int exponent = 24 + static_cast<int>(random() % 38);
  const bool negative = random() % 2 == 0;
  column[0] = FloatOfBits(negative, exponent, static_cast<uint32_t>(random()));
  column[1] = FloatOfBits(negative != (random() % 4 == 0), exponent - 24, 0);
  column[2] = static_cast<float>(static_cast<int>(random() % 3) - 1);
}

// 200,000 cases of each: a million.
constexpr size_t kHardColumns = 2'000;
constexpr int kHardRounds = 100;

std::vector<Hard> HardKinds(std::mt19937_64& random) {
  const size_t atoms = 1 + random() % 8;
  const size_t contributions = 2 * atoms;  // a tied tensor: U = 2
  const int room = std::bit_width(contributions - 1);
  return {
      {"ties", 0, 1 + random() % 4, MakeTies},
      // So that the smallest normal float is a few units, or a fraction of one.
      {"subnormals", 123 + static_cast<int>(random() % 10), 2, MakeSubnormals},
      {"largest totals", 63 - room - 1, contributions, MakeLargestTotals},
      {"2^50 to 2^62", 0, 2, MakeLarge},
      {"second roundings", 0, 3, MakeSecondRoundings},
  };
}

Cases HardCases(const Hard& kind, std::mt19937_64& random) {
  Cases cases{.scale = kind.scale,
              .contributions = std::vector<Floats>(kind.count, Floats(kHardColumns))};
  std::vector<float> column(kind.count);
  for (size_t i = 0; i < kHardColumns; ++i) {
    kind.make(random, column);
    for (size_t k = 0; k < kind.count; ++k) cases.contributions[k][i] = column[k];
  }
  return cases;
}

class ExactSumsTest : public ::testing::TestWithParam<CpuIsa> {
 protected:
  std::vector<uint64_t> SumsOf(const Cases& cases, const std::vector<size_t>& order) {
    const auto n = static_cast<int64_t>(cases.contributions[0].size());
    std::vector<uint64_t> sums(Z(n), 0xdeadbeef);
    uint32_t magnitude = 0;
    bool first = true;
    for (const size_t k : order) {
      const float* const x = cases.contributions[k].data();
      if (first) {
        kernels_.StoreFixed(n, cases.scale, x, sums.data(), &magnitude);
      } else {
        kernels_.AccumulateFixed(n, cases.scale, x, sums.data(), &magnitude);
      }
      first = false;
    }
    return sums;
  }

  void ExpectExact(const Cases& cases, const std::vector<size_t>& order) {
    const std::vector<uint64_t> sums = SumsOf(cases, order);
    Floats rounded(sums.size());
    kernels_.RoundFixed(static_cast<int64_t>(sums.size()), cases.scale, sums.data(),
                        rounded.data());
    for (size_t column = 0; column < sums.size(); ++column) {
      Wide128 expected = 0;
      for (const Floats& x : cases.contributions) expected += FixedOf(x[column], cases.scale);
      ASSERT_EQ(static_cast<int64_t>(sums[column]), static_cast<int64_t>(expected))
          << "column " << column << " scale " << cases.scale;
      ASSERT_EQ(std::bit_cast<uint32_t>(rounded[column]),
                std::bit_cast<uint32_t>(FloatOf(expected, cases.scale)))
          << "column " << column << " scale " << cases.scale;
    }
  }

  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, GetParam()};
};

// 1,002,000 columns.
TEST_P(ExactSumsTest, RandomContributions_InAnyOrder_AreTheIntegersSum) {
  constexpr uint32_t kSeed = 20261127;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 334; ++round) {
    const size_t count = 1 + random() % 9;
    const Cases cases = RandomCases(random, count, 3'000);
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), random);
    ExpectExact(cases, order);
    if (HasFatalFailure()) return;
  }
}

TEST_P(ExactSumsTest, AMillionHardCases_AreTheIntegersSum) {
  constexpr uint32_t kSeed = 20261128;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < kHardRounds; ++round) {
    for (const Hard& kind : HardKinds(random)) {
      SCOPED_TRACE(kind.name);
      std::vector<size_t> order(kind.count);
      std::iota(order.begin(), order.end(), size_t{0});
      std::shuffle(order.begin(), order.end(), random);
      ExpectExact(HardCases(kind, random), order);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(ExactSumsTest, Ties_GoToEven) {
  Cases cases{.scale = 0, .contributions = {{0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 0.75f, 0.0f}}};
  ExpectExact(cases, {0});
  const std::vector<uint64_t> sums = SumsOf(cases, {0});
  const std::vector<int64_t> expected = {0, 2, 2, 0, -2, -2, 1, 0};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(static_cast<int64_t>(sums[i]), expected[i]) << i;
  }
}

// M * U contributions of the largest size: just below 2^63 and just above -2^63.
TEST_P(ExactSumsTest, LargestTotals_DoNotWrap) {
  for (const size_t count : {1, 2, 16, 1024}) {
    const int room = std::bit_width(count - 1);
    const float largest = std::nextafter(2.0f, 0.0f);  // below 2^(0 + 1)
    Cases cases{.scale = 63 - room - 1, .contributions = {}};
    for (size_t k = 0; k < count; ++k) {
      cases.contributions.push_back({largest, -largest, k % 2 == 0 ? largest : -largest, 0x1p-60f});
    }
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    ExpectExact(cases, order);
    const std::vector<uint64_t> sums = SumsOf(cases, order);
    EXPECT_GT(static_cast<int64_t>(sums[0]), int64_t{1} << 62);
    EXPECT_LT(static_cast<int64_t>(sums[1]), -(int64_t{1} << 62));
  }
}

// From 2^50 to 2^62 and beyond the way of doubles, alone and among small ones of the same block.
TEST_P(ExactSumsTest, EveryPowerOfTwo_IsConvertedExactly) {
  for (int power = -30; power < 63; ++power) {
    const float x = std::ldexp(1.0f + 0x1p-23f, power);
    Cases cases{.scale = 0, .contributions = {{x, -x, 1.0f, -2.5f, 0.0f}, {1.0f, 1.0f, x, 0, -x}}};
    ExpectExact(cases, {0, 1});
  }
}

// Half a unit of a float and one more: by way of a double it would be a tie, and go down.
TEST_P(ExactSumsTest, Rounding_HappensOnce) {
  std::vector<uint64_t> sums;
  for (int top = 26; top < 63; ++top) {
    const uint64_t tie = (uint64_t{1} << top) + (uint64_t{1} << (top - 24));
    for (const uint64_t value : {tie - 1, tie, tie + 1}) {
      sums.push_back(value);
      sums.push_back(0 - value);
    }
  }
  sums.push_back(uint64_t{1} << 63);  // the smallest of all
  Floats rounded(sums.size());
  for (const int scale : {0, 20, -40, 63}) {
    kernels_.RoundFixed(static_cast<int64_t>(sums.size()), scale, sums.data(), rounded.data());
    for (size_t i = 0; i < sums.size(); ++i) {
      const Wide128 sum = static_cast<int64_t>(sums[i]);
      EXPECT_EQ(rounded[i], FloatOf(sum, scale)) << static_cast<int64_t>(sums[i]);
    }
  }
}

TEST_P(ExactSumsTest, BelowTheNormalFloats_IsZero) {
  const std::vector<uint64_t> sums = {1, 2, 3, static_cast<uint64_t>(-1), uint64_t{1} << 30};
  Floats rounded(sums.size());
  kernels_.RoundFixed(static_cast<int64_t>(sums.size()), 127, sums.data(), rounded.data());
  EXPECT_EQ(rounded, (Floats{0, 0x1p-126f, 0x1.8p-126f, 0, 0x1p-97f}));
}

TEST_P(ExactSumsTest, Magnitude_IsTheGreatestOfAll) {
  Floats x(40'000, 0.25f);
  std::vector<uint64_t> sums(x.size());
  const auto magnitude = [&] {
    uint32_t greatest = 0;
    kernels_.StoreFixed(static_cast<int64_t>(x.size()), 10, x.data(), sums.data(), &greatest);
    return greatest;
  };
  EXPECT_EQ(magnitude(), std::bit_cast<uint32_t>(0.25f));
  x[39'999] = -3.5f;
  EXPECT_EQ(magnitude(), std::bit_cast<uint32_t>(3.5f));
  x[17'000] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(magnitude(), 0x7f800000u);
  x[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_GT(magnitude(), 0x7f800000u);
  std::fill(x.begin(), x.end(), 0x1p-130f);
  EXPECT_EQ(magnitude(), 0u);
  std::fill(x.begin(), x.end(), 0x1p-126f);
  EXPECT_EQ(magnitude(), std::bit_cast<uint32_t>(0x1p-126f));
}

TEST_P(ExactSumsTest, Magnitude_IsRaisedAndNeverLowered) {
  const Floats x(100, -2.0f);
  std::vector<uint64_t> sums(x.size());
  uint32_t magnitude = std::bit_cast<uint32_t>(3.0f);
  kernels_.StoreFixed(100, 10, x.data(), sums.data(), &magnitude);
  EXPECT_EQ(magnitude, std::bit_cast<uint32_t>(3.0f));
  magnitude = std::bit_cast<uint32_t>(1.0f);
  kernels_.AccumulateFixed(100, 10, x.data(), sums.data(), &magnitude);
  EXPECT_EQ(magnitude, std::bit_cast<uint32_t>(2.0f));
}

TEST_P(ExactSumsTest, SumsOfSums_WrapAndComeBack) {
  std::vector<uint64_t> a = {1, ~uint64_t{0}, uint64_t{1} << 63};
  const std::vector<uint64_t> b = {2, 1, uint64_t{1} << 63};
  kernels_.AccumulateSums(3, b.data(), a.data());
  EXPECT_EQ(a, (std::vector<uint64_t>{3, 0, 0}));
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, ExactSumsTest, ::testing::ValuesIn(IsasHere()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

}  // namespace
}  // namespace dsrun::worker
