// Logarithm and cosine of doubles from nothing but +, -, * and / in extended
// precision: the same bits on every x86-64 machine, which the C library does not promise (it picks
// code by the processor). Within 0.51 units in the last place, where
// common/numerics/portable_math.h, for many values at once, is within some. Slow: some hundred
// nanoseconds. Pure.

#ifndef DSRUN_COMMON_SCHEDULE_DETERMINISTIC_MATH_H_
#define DSRUN_COMMON_SCHEDULE_DETERMINISTIC_MATH_H_

namespace dsrun {

// Natural logarithm. REQUIRES: x is positive and finite.
double DeterministicLog(double x);

// REQUIRES: 0 <= x <= pi. Near pi / 2 the error is absolute, below 2^-64.
double DeterministicCos(double x);

}  // namespace dsrun

#endif  // DSRUN_COMMON_SCHEDULE_DETERMINISTIC_MATH_H_
