#include "common/numerics/portable_math.h"

#include <cmath>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(PortableMathTest, Exp_MatchesTheLibrary) {
  EXPECT_EQ(PortableExp(0), 1);
  for (double x = -690; x < 690; x += 0.37) {
    ASSERT_NEAR(PortableExp(x) / std::exp(x), 1, 1e-14) << x;
  }
}

TEST(PortableMathTest, SineAndCosine_MatchTheLibraryInEveryQuarter) {
  for (double angle = 0; angle < 1e6; angle = angle * 1.001 + 0.0137) {
    double sine;
    double cosine;
    PortableSinCos(angle, &sine, &cosine);
    ASSERT_NEAR(sine, std::sin(angle), 1e-15 + 1e-16 * angle) << angle;
    ASSERT_NEAR(cosine, std::cos(angle), 1e-15 + 1e-16 * angle) << angle;
  }
}

}  // namespace
}  // namespace dsrun
