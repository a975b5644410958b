#include "common/schedule/deterministic_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsrun {
namespace {

double Ulps(double a, double b) {
  const double larger = std::max(std::abs(a), std::abs(b));
  if (a == b) return 0;
  return std::abs(a - b) / (std::nextafter(larger, std::numeric_limits<double>::max()) - larger);
}

TEST(DeterministicMathTest, IsTheLibrarysToOneUlp) {
  for (int i = 1; i < 20000; ++i) {
    const double x = i * 0.37;
    ASSERT_LE(Ulps(DeterministicLog(x), std::log(x)), 1) << x;
    ASSERT_LE(Ulps(DeterministicLog(1 / x), std::log(1 / x)), 1) << 1 / x;
    if (i == 10000) continue;  // a cosine of nearly 0: below
    const double y = i / 20000.0 * M_PI;
    ASSERT_LE(Ulps(DeterministicCos(y), std::cos(y)), 1) << y;
  }
  EXPECT_EQ(DeterministicLog(1), 0);
  EXPECT_EQ(DeterministicCos(0), 1);
  EXPECT_NEAR(DeterministicCos(M_PI / 2), 0, 1e-16);
  EXPECT_EQ(DeterministicCos(M_PI), -1);
}

}  // namespace
}  // namespace dsrun
