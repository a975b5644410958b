#include "worker/optim/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/model/model_plan.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"
#include "worker/optim/clip_factor.h"

namespace dsrun::worker {
namespace {

const ModelSpec kSpec{"tiny", 2, 48, 4, 12, 17};

class AdamWTest : public ::testing::Test {
 protected:
  std::vector<float> Numbers(const char* name, float scale) const {
    std::vector<float> x(static_cast<size_t>(layout_.size()));
    for (const FlatLayout::Entry& entry : layout_.entries()) {
      NormalRange(1, StreamId(name, entry.tensor.name), 0, entry.tensor.size(), scale,
                  x.data() + entry.offset);
    }
    return x;
  }

  FlatLayout layout_{LogicalTensors(kSpec)};
  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
  AdamWOptions options_;
  AdamW adamw_{kernels_, layout_, options_};
};

TEST_F(AdamWTest, Step_DecaysMatricesAlone_MatchesTheFormula) {
  const std::vector<float> start = Numbers("param", 1);
  const std::vector<float> grad = Numbers("grad", 1);
  std::vector<float> param = start;
  std::vector<float> m(param.size());
  std::vector<float> v(param.size());
  adamw_.Step(1, {.lr = 0.01}, 0.5, {0, layout_.size()}, grad.data(), param.data(), m.data(),
              v.data());
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    for (int64_t i = entry.offset; i < entry.padded().end; ++i) {
      const size_t at = static_cast<size_t>(i);
      const double g = 0.5 * grad[at];
      const double decay = entry.tensor.weight_decay ? 0.1 * start[at] : 0;
      // After one step the corrected moments are g and g^2.
      const double expected = start[at] - 0.01 * (g / (std::fabs(g) + 1e-8) + decay);
      ASSERT_NEAR(param[at], expected, 1e-6) << entry.tensor.name;
    }
  }
}

// Sharding decides nothing: ranges cut at any leaf give the bits of one call.
TEST_F(AdamWTest, Step_InRanges_HasTheBitsOfTheWhole) {
  const std::vector<float> grad = Numbers("grad", 1);
  std::vector<float> param = Numbers("param", 1);
  std::vector<float> m(param.size());
  std::vector<float> v(param.size());
  std::vector<float> cut_param = param;
  std::vector<float> cut_m = m;
  std::vector<float> cut_v = v;
  for (int64_t step = 1; step <= 2; ++step) {
    adamw_.Step(step, {.lr = 0.01}, 1, {0, layout_.size()}, grad.data(), param.data(), m.data(),
                v.data());
    for (int64_t begin = 0; begin < layout_.size(); begin += 3 * kLeafElements) {
      const int64_t end = std::min(begin + 3 * kLeafElements, layout_.size());
      adamw_.Step(step, {.lr = 0.01}, 1, {begin, end}, grad.data() + begin,
                  cut_param.data() + begin, cut_m.data() + begin, cut_v.data() + begin);
    }
  }
  EXPECT_EQ(param, cut_param);
  EXPECT_EQ(m, cut_m);
  EXPECT_EQ(v, cut_v);
}

// OneCycle's betas stand in place of the optimizer's own, in the moments and in their corrections.
TEST_F(AdamWTest, Step_WithBetasOfTheSchedule_TakesThose) {
  const std::vector<float> grad = Numbers("grad", 1);
  std::vector<float> param = Numbers("param", 1);
  std::vector<float> m(param.size());
  std::vector<float> v(param.size());
  std::vector<float> expected = param;
  std::vector<float> expected_m = m;
  std::vector<float> expected_v = v;
  adamw_.Step(3, {.lr = 0.01, .sets_betas = true, .beta1 = 0.85, .beta2 = 0.99}, 1,
              {0, layout_.size()}, grad.data(), param.data(), m.data(), v.data());
  AdamWOptions options = options_;
  options.beta1 = 0.85;
  options.beta2 = 0.99;
  AdamW(kernels_, layout_, options)
      .Step(3, {.lr = 0.01}, 1, {0, layout_.size()}, grad.data(), expected.data(),
            expected_m.data(), expected_v.data());
  EXPECT_EQ(param, expected);
  EXPECT_EQ(m, expected_m);
  EXPECT_EQ(v, expected_v);
}

TEST(ClipFactorTest, ScalesOnlyWhatIsTooLong) {
  EXPECT_EQ(ClipFactor(0.5, 1), 1);
  EXPECT_EQ(ClipFactor(1, 1), 1);
  EXPECT_EQ(ClipFactor(4, 1), 0.25);
  EXPECT_EQ(ClipFactor(4, 0), 1);
  EXPECT_EQ(ClipFactor(std::numeric_limits<double>::infinity(), 1), 1);
}

}  // namespace
}  // namespace dsrun::worker
