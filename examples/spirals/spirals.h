// The data of this example: three spirals, wound around one another, to be told apart by the place
// of a point. By formula: nothing is downloaded, and any sample can be had by its index.

#ifndef DSRUN_EXAMPLES_SPIRALS_SPIRALS_H_
#define DSRUN_EXAMPLES_SPIRALS_SPIRALS_H_

#include <cstdint>

#include "worker/api/model.h"

namespace dsrun::examples {

inline constexpr int64_t kSpirals = 3;

// Point `index`: inputs are its two coordinates, the target is the number of its spiral. Every
// index is another point; they never come again, so that what is learned is the rule and not the
// points.
void SpiralPoint(int64_t index, const Sample& sample);

// Points from here on are not trained on.
inline constexpr int64_t kFirstTestPoint = int64_t{1} << 40;

}  // namespace dsrun::examples

#endif  // DSRUN_EXAMPLES_SPIRALS_SPIRALS_H_
