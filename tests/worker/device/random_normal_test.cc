#include "worker/device/random_normal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/numerics/portable_math.h"

namespace dsrun::worker {
namespace {

TEST(RandomNormalTest, NormalRange_AnyRangeAloneHasTheBitsOfTheWhole) {
  const int64_t n = 1000;
  std::vector<float> whole(n);
  NormalRange(42, StreamId("init", "wte.weight"), 0, n, 0.02f, whole.data());
  for (const int64_t begin : {0, 1, 2, 3, 4, 5, 511, 998}) {
    for (const int64_t size : {1, 2, 3, 4, 7, 200}) {
      const int64_t count = std::min(size, n - begin);
      std::vector<float> part(static_cast<size_t>(count));
      NormalRange(42, StreamId("init", "wte.weight"), begin, count, 0.02f, part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin));
    }
  }
}

// 400,000 draws: the standard error of the mean is 0.0016, of the variance 0.0022, of the fourth
// moment 0.015; five of them are allowed.
TEST(RandomNormalTest, NormalRange_HasNormalMoments) {
  const int64_t n = 400000;
  std::vector<float> x(n);
  NormalRange(1, StreamId("test", "moments"), 0, n, 1.0f, x.data());
  double mean = 0;
  double variance = 0;
  double fourth = 0;
  int64_t beyond_two = 0;
  for (const float value : x) {
    mean += value / static_cast<double>(n);
    variance += value * value / static_cast<double>(n);
    fourth += std::pow(value, 4) / static_cast<double>(n);
    beyond_two += std::fabs(value) > 2;
  }
  EXPECT_NEAR(mean, 0, 0.008);
  EXPECT_NEAR(variance, 1, 0.011);
  EXPECT_NEAR(fourth, 3, 0.08);
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, 0.0455, 0.0017);
}

TEST(RandomNormalTest, NormalRange_MatchesBoxMullerByTheLibrary) {
  const uint64_t stream = StreamId("test", "formula");
  std::vector<float> x(400);
  NormalRange(3, stream, 0, 400, 1.0f, x.data());
  for (uint64_t pair = 0; pair < 200; ++pair) {
    const double u = (UniformWord(3, stream, 2 * pair) + 1.0) * 0x1p-32;
    const double angle = 2 * M_PI * UniformWord(3, stream, 2 * pair + 1) * 0x1p-32;
    const double radius = std::sqrt(-2 * std::log(u));
    EXPECT_NEAR(x[2 * pair], radius * std::cos(angle), 1e-6);
    EXPECT_NEAR(x[2 * pair + 1], radius * std::sin(angle), 1e-6);
  }
}

TEST(RandomNormalTest, Streams_DifferByPurposeNameAndSeed) {
  EXPECT_NE(StreamId("init", "a"), StreamId("init", "b"));
  EXPECT_NE(StreamId("init", "a"), StreamId("data", "a"));
  EXPECT_NE(StreamId("ab", "c"), StreamId("a", "bc"));
  EXPECT_NE(UniformWord(1, 2, 3), UniformWord(2, 2, 3));
}

TEST(RandomNormalTest, PortableLog_MatchesTheLibrary) {
  for (double x = 1e-10; x < 1e10; x *= 1.0037) {
    ASSERT_NEAR(PortableLog(x), std::log(x), 1e-14 * (1 + std::fabs(std::log(x)))) << x;
  }
}

}  // namespace
}  // namespace dsrun::worker
