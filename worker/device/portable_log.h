// PortableLog: a natural logarithm whose bits do not depend on the C library or the CPU.

#ifndef DSRUN_WORKER_DEVICE_PORTABLE_LOG_H_
#define DSRUN_WORKER_DEVICE_PORTABLE_LOG_H_

#include <stdint.h>

namespace dsrun::worker {

// ln x for normal x > 0, to about 1e-16: x = 2^e f with f in [sqrt(1/2), sqrt(2)), ln f =
// 2 artanh((f - 1) / (f + 1)) by its series; |s| <= 0.172, so the first dropped term is below
// 1e-18. Static: each user has its own copy, compiled with its own instructions (lanes.h says why).
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

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_PORTABLE_LOG_H_
