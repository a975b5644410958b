// The layer that the example has written by hand, against finite differences; and its data.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>

#include "examples/spirals/spirals_model.h"
#include "worker/api/gradient_check.h"

namespace dsrun::examples {
namespace {

TEST(Spirals, Gradients_AreThoseOfFiniteDifferences) {
  const auto checks = CheckGradients(SpiralsModel(16), SpiralPoint, {.samples = 8});
  ASSERT_TRUE(checks.ok()) << checks.status();
  ASSERT_EQ(checks->size(), 6u);
  EXPECT_EQ((*checks)[0].tensor, "radial.centres");
  EXPECT_EQ((*checks)[1].tensor, "radial.scales");
}

// As a second layer it has a gradient of its input, too.
TEST(Spirals, RadialLayerInsideOfAModel_PassesItsGradientOn) {
  OwnModel model = SpiralsModel(16);
  model.layers.insert(model.layers.begin() + 2, Radial("inner", 16, 8, 0.5));
  model.layers[3] = Dense("scores", 8, kSpirals, Activation::kNone);
  const auto checks = CheckGradients(model, SpiralPoint, {.samples = 8});
  EXPECT_TRUE(checks.ok()) << checks.status();
}

TEST(Spirals, Point_IsAFunctionOfItsIndex) {
  for (const int64_t index : {int64_t{0}, int64_t{1}, int64_t{5}, kFirstTestPoint + 2}) {
    std::array<float, 2> once{}, again{};
    int32_t spiral = -1;
    SpiralPoint(index, {.inputs = once, .target_ids = {&spiral, 1}});
    EXPECT_EQ(spiral, index % kSpirals);
    SpiralPoint(index, {.inputs = again, .target_ids = {&spiral, 1}});
    EXPECT_EQ(once, again);
    EXPECT_LT(std::hypot(once[0], once[1]), 3.2f);
  }
}

}  // namespace
}  // namespace dsrun::examples
