#include "examples/spirals/spirals.h"

#include <cmath>

#include "common/base/philox.h"

namespace dsrun::examples {

void SpiralPoint(int64_t index, const Sample& sample) {
  constexpr uint64_t kSeed = 20261128;
  constexpr double kTurn = 2 * 3.14159265358979323846;
  constexpr double kSize = 3;
  constexpr double kNoise = 0.15;
  // Four random words by index: they are the same on every rank and after every restart.
  const PhiloxBlock random =
      RandomAt(kSeed, RandomPurpose::kDataOrder, 0, static_cast<uint64_t>(index));
  const int64_t spiral = index % kSpirals;
  const double along = std::sqrt(double{RandomUnitFloat(random[0])});  // even in area
  const double angle = kTurn * (static_cast<double>(spiral) / kSpirals + 0.75 * along);
  const auto noise = [&](size_t word) {
    return kNoise * (double{RandomUnitFloat(random[word])} - 0.5);
  };
  sample.inputs[0] = static_cast<float>(kSize * along * std::cos(angle) + noise(1));
  sample.inputs[1] = static_cast<float>(kSize * along * std::sin(angle) + noise(2));
  sample.target_ids[0] = static_cast<int32_t>(spiral);
}

}  // namespace dsrun::examples
