// Logarithm, exponential, sine and cosine whose bits do not depend on the C library or the CPU:
// plain additions and multiplications in double precision, for code that is compiled without
// contraction. Static: each user has its own copy, compiled with its own instructions
// (worker/device/cpu/lanes.h says why). Pure; any thread.

#ifndef DSRUN_COMMON_NUMERICS_PORTABLE_MATH_H_
#define DSRUN_COMMON_NUMERICS_PORTABLE_MATH_H_

#include <stdint.h>

namespace dsrun {

// ln x for normal x > 0, to about 1e-16: x = 2^e f with f in [sqrt(1/2), sqrt(2)), ln f =
// 2 artanh((f - 1) / (f + 1)) by its series; |s| <= 0.172, so the first dropped term is below
// 1e-18.
static inline double PortableLog(double x) {
  constexpr double kTerms[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                               1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  double f;
  __builtin_memcpy(&f, &bits, sizeof(f));
  if (f > 1.4142135623730951) {
    f *= 0.5;
    ++exponent;
  }
  const double s = (f - 1) / (f + 1);
  const double s2 = s * s;
  double series = 0;
  for (const double term : kTerms) series = series * s2 + term;
  return static_cast<double>(exponent) * 0.693147180559945309417 + 2 * s * series;
}

// e^x for |x| <= 700, to about 1e-16: x = n ln 2 + r, |r| <= ln 2 / 2, e^r by Taylor's series; the
// first dropped term is below 1e-17. ln 2 is taken off in two parts, of which the first times n is
// exact (Cody and Waite, 1980).
static inline double PortableExp(double x) {
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  const double n =
      static_cast<double>(static_cast<int64_t>(x * 1.44269504088896338700 + (x < 0 ? -0.5 : 0.5)));
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double series = 1;
  for (int k = 14; k > 0; --k) series = 1 + series * (r / k);
  const uint64_t bits = static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52;
  double power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return series * power;
}

// Of an angle in radians, 0 <= angle < 1e9, to about 1e-16 and what the angle itself is rounded by:
// the nearest quarter turn is taken off in three parts, and the rest, at most pi / 4, goes into
// Taylor's series; the first dropped terms are below 1e-17.
static inline void PortableSinCos(double angle, double* sine, double* cosine) {
  constexpr double kQuarter1 = 1.57079632673412561417e+00;  // the first 33 bits of pi / 2
  constexpr double kQuarter2 = 6.07710050630396597660e-11;  // and the next 33
  constexpr double kQuarter3 = 2.02226624879595063154e-21;
  const int64_t turn = static_cast<int64_t>(angle * 0.63661977236758134308 + 0.5);
  const double n = static_cast<double>(turn);
  const double r = ((angle - n * kQuarter1) - n * kQuarter2) - n * kQuarter3;
  const double r2 = r * r;
  double s = 1;
  double c = 1;
  for (int k = 18; k > 1; k -= 2) {
    s = 1 - s * r2 / (k * (k + 1));
    c = 1 - c * r2 / (k * (k - 1));
  }
  s *= r;
  *sine = (turn & 1) == 0 ? s : c;
  *cosine = (turn & 1) == 0 ? c : s;
  if ((turn & 2) != 0) *sine = -*sine;
  if (((turn + 1) & 2) != 0) *cosine = -*cosine;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_PORTABLE_MATH_H_
