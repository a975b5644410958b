// Frequencies against those that Hugging Face's transformers 5.24.0 gives (2026-11-26), tables
// against the library's sine and cosine.

#include "common/model/rotary.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

constexpr std::array<size_t, 15> kPairs = {0, 1, 8, 16, 24, 28, 29, 30, 31, 32, 34, 36, 40, 48, 63};

ModelSpec HeadOf128(double base) {
  ModelSpec spec{"rotary", 1, 128, 1, 16, 2};
  spec.family = "llama";
  spec.rope_base = base;
  return spec;
}

void ExpectFrequencies(const ModelSpec& spec, const std::array<double, 15>& expected) {
  const RotaryPlan plan = PlanRotary(spec);
  ASSERT_EQ(plan.frequencies.size(), 64u);
  for (size_t i = 0; i < kPairs.size(); ++i) {
    EXPECT_NEAR(plan.frequencies[kPairs[i]], expected[i], 1e-6 * expected[i])
        << "pair " << kPairs[i];
  }
}

ModelSpec Llama3(double factor) {
  ModelSpec spec = HeadOf128(5e5);
  spec.rope_scaling = "llama3";
  spec.rope_factor = factor;
  spec.rope_low_turns = 1;
  spec.rope_high_turns = 4;
  spec.rope_original_length = 8192;
  return spec;
}

TEST(RotaryTest, FrequenciesOfLlama31And32) {
  ExpectFrequencies(
      Llama3(8), {1, .814617217, .193922758, .0376060307, .00729266508, .00321144611, .00216657063,
                  .00137189368, .00085675146, .000524846022, .000178507791, 7.78465546e-5,
                  3.42810235e-5, 6.64786967e-6, 3.06892588e-7});
  ExpectFrequencies(
      Llama3(32), {1, .814617217, .193922758, .0376060307, .00729266508, .00321144611, .00211840682,
                   .00129054801, .000762541255, .000429556705, 9.70828623e-5, 1.94616387e-5,
                   8.57025589e-6, 1.66196742e-6, 7.67231469e-8});
}

TEST(RotaryTest, FrequenciesAndMagnitudeOfYarn) {
  ModelSpec spec = HeadOf128(1e6);
  spec.rope_scaling = "yarn";
  spec.rope_factor = 4;
  spec.rope_low_turns = 1;
  spec.rope_high_turns = 32;
  spec.rope_original_length = 32768;
  ExpectFrequencies(spec, {1, .805842221, .177827939, .0316227786, .00537532149, .00184827659,
                           .00140511245, .00106436096, .000802959781, .000602941145, .000334240554,
                           .000179841154, 4.44569851e-5, 7.90569356e-6, 3.10234441e-7});
  EXPECT_NEAR(PlanRotary(spec).magnitude, 1.138629436, 1e-9);
  spec.rope_magnitude = 0.5;
  EXPECT_EQ(PlanRotary(spec).magnitude, 0.5);
}

TEST(RotaryTest, Linear_DividesEveryFrequency) {
  ModelSpec spec = HeadOf128(1e4);
  const RotaryPlan plain = PlanRotary(spec);
  spec.rope_scaling = "linear";
  spec.rope_factor = 8;
  const RotaryPlan scaled = PlanRotary(spec);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_NEAR(plain.frequencies[i], std::pow(1e4, -static_cast<double>(i) / 64), 1e-15);
    EXPECT_EQ(scaled.frequencies[i], plain.frequencies[i] / 8);
  }
}

// The last bit of a float is half of what is allowed; an angle of 100,000 has 1e-11 of its own.
TEST(RotaryTest, Tables_AreSinesAndCosinesOfTheAngle) {
  RotaryPlan plan{{1, 0.37, 1e-3, 1e-7}, 1.5};
  constexpr int64_t kPositions = 100'000;
  std::vector<float> cosines(kPositions * 4);
  std::vector<float> sines(cosines.size());
  FillRotaryTables(plan, kPositions, cosines.data(), sines.data());
  for (int64_t position = 0; position < kPositions; ++position) {
    for (size_t pair = 0; pair < 4; ++pair) {
      const double angle = static_cast<double>(position) * plan.frequencies[pair];
      const size_t at = static_cast<size_t>(position) * 4 + pair;
      ASSERT_NEAR(cosines[at], 1.5 * std::cos(angle), 1.2e-7) << position << " " << pair;
      ASSERT_NEAR(sines[at], 1.5 * std::sin(angle), 1.2e-7) << position << " " << pair;
    }
  }
}

}  // namespace
}  // namespace dsrun
