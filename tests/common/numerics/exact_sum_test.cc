// ExactSum against integers of any length (libcrypto's): every double times 2^1074 is one.

#include "common/numerics/exact_sum.h"

#include <gtest/gtest.h>
#include <openssl/bn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace dsrun {
namespace {

struct FreeBigNumber {
  void operator()(BIGNUM* number) const { BN_free(number); }
};
using BigNumber = std::unique_ptr<BIGNUM, FreeBigNumber>;

// x * 2^1074.
BigNumber Scaled(double x) {
  int exponent = 0;
  const double mantissa = std::frexp(std::fabs(x), &exponent);  // in [0.5, 1)
  BigNumber number(BN_new());
  BN_set_word(number.get(), static_cast<BN_ULONG>(std::ldexp(mantissa, 53)));
  const int shift = exponent - 53 + 1074;
  if (shift >= 0) {
    BN_lshift(number.get(), number.get(), shift);
  } else {
    BN_rshift(number.get(), number.get(), -shift);  // of a subnormal one: those bits are 0
  }
  BN_set_negative(number.get(), x < 0 ? 1 : 0);
  return number;
}

// The double nearest to number * 2^-1074, ties to even: by comparing it with the two around it.
double Nearest(const BigNumber& number) {
  const int bits = BN_num_bits(number.get());
  if (bits == 0) return 0;
  const int drop = std::max(bits - 53, 0);
  BigNumber high(BN_new());
  BN_rshift(high.get(), number.get(), drop);
  BN_set_negative(high.get(), 0);
  auto kept = static_cast<uint64_t>(BN_get_word(high.get()));
  BigNumber rest(BN_new());
  BN_lshift(rest.get(), high.get(), drop);
  BigNumber magnitude(BN_dup(number.get()));
  BN_set_negative(magnitude.get(), 0);
  BN_sub(rest.get(), magnitude.get(), rest.get());
  BN_lshift1(rest.get(), rest.get());  // twice what is left, against one unit of the last place
  BigNumber unit(BN_new());
  BN_one(unit.get());
  BN_lshift(unit.get(), unit.get(), drop);
  const int compared = BN_cmp(rest.get(), unit.get());
  if (drop > 0 && (compared > 0 || (compared == 0 && (kept & 1) != 0))) ++kept;
  const double value = std::ldexp(static_cast<double>(kept), drop - 1074);
  return BN_is_negative(number.get()) != 0 ? -value : value;
}

double SumOf(const std::vector<double>& terms) {
  ExactSum sum;
  for (const double term : terms) sum.Add(term);
  return sum.Round();
}

double SumByIntegers(const std::vector<double>& terms) {
  BigNumber sum(BN_new());
  BN_zero(sum.get());
  for (const double term : terms) BN_add(sum.get(), sum.get(), Scaled(term).get());
  return Nearest(sum);
}

TEST(ExactSum, OfNothing_IsZero) {
  EXPECT_EQ(std::bit_cast<uint64_t>(ExactSum().Round()), 0u);
  EXPECT_EQ(std::bit_cast<uint64_t>(SumOf({-0.0})), 0u);
  EXPECT_EQ(std::bit_cast<uint64_t>(SumOf({1e300, -3.5, -1e300, 3.5})), 0u);
}

TEST(ExactSum, WhatRoundingWouldLose_Stays) {
  EXPECT_EQ(SumOf({1e100, 1.0, -1e100}), 1.0);
  EXPECT_EQ(SumOf({1.0, 0x1p-53}), 1.0);                     // a tie, to even
  EXPECT_EQ(SumOf({1.0 + 0x1p-52, 0x1p-53}), 1 + 0x1p-51);   // a tie, to even
  EXPECT_EQ(SumOf({1.0, 0x1p-53, 0x1p-1074}), 1 + 0x1p-52);  // no tie any more
  EXPECT_EQ(SumOf({-1.0, -0x1p-53, -0x1p-1074}), -1 - 0x1p-52);
  EXPECT_EQ(SumOf({0x1p-1074, 0x1p-1074}), 0x1p-1073);
  const double largest = std::numeric_limits<double>::max();
  EXPECT_EQ(SumOf({largest, largest, -largest}), largest);
  EXPECT_EQ(SumOf({largest, largest}), std::numeric_limits<double>::infinity());
}

TEST(ExactSum, InfinitiesAndNan_AreAsByAddition) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(SumOf({1, inf, 2}), inf);
  EXPECT_EQ(SumOf({-inf, 5}), -inf);
  EXPECT_TRUE(std::isnan(SumOf({inf, 1, -inf})));
  EXPECT_TRUE(std::isnan(SumOf({std::nan(""), inf})));
}

// Exponents all over, or close together so that terms cancel; in parts, as ranks add them, in
// another order, through the words that travel.
TEST(ExactSum, RandomSums_AreTheNearestDouble_InAnyOrderAndGrouping) {
  constexpr uint32_t kSeed = 20261127;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<double> terms(1 + random() % 12);
    const bool close = i % 2 == 0;
    for (double& term : terms) {
      const uint64_t exponent = close ? 1000 + random() % 60 : random() % 2046;
      term = std::bit_cast<double>((random() & 0x800fffffffffffff) | (exponent << 52));
    }
    if (i % 5 == 0) terms.push_back(-terms[0]);
    const double expected = SumByIntegers(terms);
    ASSERT_EQ(std::bit_cast<uint64_t>(SumOf(terms)), std::bit_cast<uint64_t>(expected)) << i;
    std::shuffle(terms.begin(), terms.end(), random);
    std::array<ExactSum, 3> parts;
    for (size_t k = 0; k < terms.size(); ++k) parts[random() % 3].Add(terms[k]);
    ExactSum together;
    for (const ExactSum& part : parts) {
      std::array<int64_t, ExactSum::kWords> words{};
      part.WriteTo(words);
      together.Add(ExactSum::ReadFrom(words));
    }
    ASSERT_EQ(std::bit_cast<uint64_t>(together.Round()), std::bit_cast<uint64_t>(expected)) << i;
  }
}

TEST(ExactSum, SameSum_HasTheSameWords) {
  std::array<int64_t, ExactSum::kWords> one{};
  std::array<int64_t, ExactSum::kWords> other{};
  ExactSum a;
  for (const double term : {3.0, -5e30, 0x1p-300, 5e30}) a.Add(term);
  ExactSum b;
  for (const double term : {0x1p-300, 3.0}) b.Add(term);
  a.WriteTo(one);
  b.WriteTo(other);
  EXPECT_EQ(one, other);
}

}  // namespace
}  // namespace dsrun
