#include "worker/api/gradient_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/worker/api/own_models.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

TEST(GradientCheck, LayersOfTheFolderAndOfTheEngine_AreRight) {
  const auto quarters = CheckGradients(QuarterModel(), QuarterSample);
  ASSERT_TRUE(quarters.ok()) << quarters.status();
  EXPECT_EQ(quarters->size(), 6u);
  // With attention, an MLP, a tensor that is used twice and a layer without any.
  const auto sums = CheckGradients(SumsModel(), SumsSample);
  ASSERT_TRUE(sums.ok()) << sums.status();
  EXPECT_EQ(sums->size(), 2u + 1 + 6 + 6 + 2);
  for (const GradientCheck& check : *sums) EXPECT_LT(check.worst, 2e-2) << check.tensor;
}

// With a layer that drops, and blocks that do: finite differences are of one mask.
TEST(GradientCheck, LayersThatDrop_AreRight) {
  const auto checks =
      CheckGradients(DroppingModel(), SumsSample, {.dropout = {.hidden = 0.1, .attention = 0.2}});
  EXPECT_TRUE(checks.ok()) << checks.status();
}

OwnModel With(Mistake mistake) {
  OwnModel model = QuarterModel();
  model.layers.insert(model.layers.begin() + 1, ScaleWith(mistake, "scale", 48));
  return model;
}

TEST(GradientCheck, EveryMistake_IsFound) {
  ASSERT_TRUE(CheckGradients(With(Mistake::kNone), QuarterSample).ok());
  struct Case {
    Mistake mistake;
    std::string message;
  };
  for (const Case& one :
       {Case{Mistake::kFactor, "the gradient of scale.scale, element"},
        Case{Mistake::kNotWritten,
             "the gradient of scale.scale, element 47: Backward has not written it"},
        Case{Mistake::kAdds, "the gradient of scale.scale, element 0: Backward has not written it"},
        Case{Mistake::kInfinite, "Backward has not written it, or as no number"},
        Case{Mistake::kKeepsState, "when the same pass was played again"}}) {
    const absl::Status status = CheckGradients(With(one.mistake), QuarterSample).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(one.message));
  }
}

// What a layer does to the stream shows in the tensors of the layers below it.
TEST(GradientCheck, WrongGradientOfTheStream_ShowsBelow) {
  OwnModel model = With(Mistake::kStream);
  model.layers[1].plan.tensors[0].init = Init::kNormal;
  model.layers[1].plan.tensors[0].stddev = 1;
  const absl::Status status = CheckGradients(model, QuarterSample).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the gradient of lift."));
  EXPECT_THAT(std::string(status.message()), HasSubstr("finite differences say"));
}

}  // namespace
}  // namespace dsrun
