// A layer written by hand: radial units (Broomhead and Lowe, 1988) with the inverse quadratic
//
//   out_j = 1 / (1 + s_j^2 |x - c_j|^2)
//
// Each has a centre c_j among the inputs and a scale s_j of its own, both learned. It is what a new
// layer looks like: a function that describes it (Radial), and a class with Forward and Backward.

#ifndef DSRUN_EXAMPLES_SPIRALS_RADIAL_LAYER_H_
#define DSRUN_EXAMPLES_SPIRALS_RADIAL_LAYER_H_

#include <cstdint>
#include <string>

#include "worker/api/model.h"

namespace dsrun::examples {

// NAME.centres (units, in), normal with a standard deviation of `spread`; NAME.scales (units),
// ones. Neither decays: there is nothing about a centre at the origin that is simpler.
OwnLayer Radial(std::string name, int64_t in, int64_t units, double spread);

}  // namespace dsrun::examples

#endif  // DSRUN_EXAMPLES_SPIRALS_RADIAL_LAYER_H_
