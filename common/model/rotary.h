// Rotary positions (Su et al., 2021): pairs of a head's channels, i and i + half of them as Hugging
// Face has it, turn by an angle that grows with the position, each pair at a frequency of its own.
// Three ways to stretch them over a longer context: linear (Chen et al., 2023), that of Llama 3.1,
// and YaRN (Peng et al., 2023). Pure; the same bits on every machine (portable_math.h).

#ifndef DSRUN_COMMON_MODEL_ROTARY_H_
#define DSRUN_COMMON_MODEL_ROTARY_H_

#include <cstdint>
#include <vector>

#include "common/model/model_spec.h"

namespace dsrun {

struct RotaryPlan {
  std::vector<double> frequencies;  // radians a position, of each pair of a head
  double magnitude = 1;             // of sines and cosines
};

// REQUIRES: Validate(spec), and its family rotates.
RotaryPlan PlanRotary(const ModelSpec& spec);

// (positions, pairs) each, row-major: every element is computed in double precision from its
// position and pair alone, and rounded once.
void FillRotaryTables(const RotaryPlan& plan, int64_t positions, float* cosines, float* sines);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_ROTARY_H_
