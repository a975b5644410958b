#include "common/model/rotary.h"

#include <algorithm>

#include "common/numerics/portable_math.h"

namespace dsrun {
namespace {

constexpr double kTwoPi = 6.28318530717958647693;

// How much of a frequency stays as it is: 1 all of it, 0 nothing. Of Llama 3.1: by how often it
// turns over the original context.
double KeptByTurns(const ModelSpec& spec, double frequency) {
  const double turns = static_cast<double>(spec.rope_original_length) * frequency / kTwoPi;
  return std::clamp((turns - spec.rope_low_turns) / (spec.rope_high_turns - spec.rope_low_turns),
                    0.0, 1.0);
}

// Of YaRN: a ramp over the pairs, between those that turn so often, in whole pairs.
double KeptByPair(const ModelSpec& spec, int64_t pair) {
  const double channels = static_cast<double>(spec.head_size());
  const auto pair_of = [&](double turns) {
    const double place =
        channels * PortableLog(static_cast<double>(spec.rope_original_length) / (turns * kTwoPi)) /
        (2 * PortableLog(spec.rope_base));
    return std::clamp(place, -1.0, channels);  // for a base near 1 it is beyond any integer
  };
  const auto down = [](double x) {
    const double whole = static_cast<double>(static_cast<int64_t>(x));
    return whole > x ? whole - 1 : whole;
  };
  const double first = std::max(down(pair_of(spec.rope_high_turns)), 0.0);
  double last = std::min(-down(-pair_of(spec.rope_low_turns)), channels - 1);
  if (last == first) last += 0.001;
  return 1 - std::clamp((static_cast<double>(pair) - first) / (last - first), 0.0, 1.0);
}

}  // namespace

RotaryPlan PlanRotary(const ModelSpec& spec) {
  const int64_t pairs = spec.head_size() / 2;
  const double step = PortableLog(spec.rope_base) / static_cast<double>(pairs);
  RotaryPlan plan;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const double frequency = PortableExp(-step * static_cast<double>(pair));
    double kept = spec.rope_scaling == "linear" ? 0 : 1;
    if (spec.rope_scaling == "llama3") kept = KeptByTurns(spec, frequency);
    if (spec.rope_scaling == "yarn") kept = KeptByPair(spec, pair);
    const double slower = spec.rope_scaling.empty() ? frequency : frequency / spec.rope_factor;
    plan.frequencies.push_back(kept * frequency + (1 - kept) * slower);
  }
  if (spec.rope_scaling == "yarn") {
    plan.magnitude =
        spec.rope_magnitude > 0 ? spec.rope_magnitude : 0.1 * PortableLog(spec.rope_factor) + 1;
  }
  return plan;
}

void FillRotaryTables(const RotaryPlan& plan, int64_t positions, float* cosines, float* sines) {
  for (int64_t position = 0; position < positions; ++position) {
    for (const double frequency : plan.frequencies) {
      double sine;
      double cosine;
      PortableSinCos(static_cast<double>(position) * frequency, &sine, &cosine);
      *cosines++ = static_cast<float>(cosine * plan.magnitude);
      *sines++ = static_cast<float>(sine * plan.magnitude);
    }
  }
}

}  // namespace dsrun
