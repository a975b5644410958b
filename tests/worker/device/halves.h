// Arrays of 16 bits for tests, and what their numbers are, by the formats' definitions.

#ifndef DSRUN_TESTS_WORKER_DEVICE_HALVES_H_
#define DSRUN_TESTS_WORKER_DEVICE_HALVES_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/worker/device/reference.h"
#include "worker/device/reals.h"

namespace dsrun::worker::testing {

struct HalfFormat {
  int mantissa_bits;
  int least_exponent;  // of a normal number
  double greatest;
  bool has_subnormals;  // that a store makes
};
inline HalfFormat FormatOf(DType dtype) {
  if (dtype == DType::kBF16) return {7, -126, 0x1.fep127, false};
  return {10, -14, 65504, true};
}

inline double ValueOf(uint16_t bits, DType dtype) {
  const HalfFormat format = FormatOf(dtype);
  const int exponent_bits = 15 - format.mantissa_bits;
  const int exponent = (bits & 0x7fff) >> format.mantissa_bits;
  const double mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  const double fraction = std::ldexp(mantissa, -format.mantissa_bits) + (exponent == 0 ? 0 : 1);
  return sign * std::ldexp(fraction, format.least_exponent + (exponent == 0 ? 0 : exponent - 1));
}

// x as the nearest number of the format, ties to even; infinity beyond its greatest. What is no
// normal float counts as zero.
inline double Nearest(double x, DType dtype) {
  const HalfFormat format = FormatOf(dtype);
  if (std::isnan(x) || std::isinf(x)) return x;
  if (std::fabs(x) < 0x1p-126) return std::copysign(0, x);
  const int exponent = std::max(std::ilogb(x), format.least_exponent);
  const double step = std::ldexp(1, exponent - format.mantissa_bits);
  const double rounded = std::nearbyint(x / step) * step;
  if (std::fabs(rounded) <= format.greatest) return rounded;
  return std::copysign(std::numeric_limits<double>::infinity(), x);
}

// The bits of a number of the format.
inline uint16_t BitsOf(double x, DType dtype) {
  const HalfFormat format = FormatOf(dtype);
  const int sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(x);
  if (std::isinf(x))
    return static_cast<uint16_t>(sign | (0x7fff >> format.mantissa_bits << format.mantissa_bits));
  const double least = std::ldexp(1, format.least_exponent);
  if (magnitude < least) {
    return static_cast<uint16_t>(
        sign | static_cast<int>(magnitude / std::ldexp(least, -format.mantissa_bits)));
  }
  const int exponent = std::ilogb(magnitude);
  const int mantissa = static_cast<int>(std::ldexp(magnitude, format.mantissa_bits - exponent)) -
                       (1 << format.mantissa_bits);
  return static_cast<uint16_t>(
      sign | (exponent - format.least_exponent + 1) << format.mantissa_bits | mantissa);
}

struct Halves {
  DType dtype;
  std::vector<uint16_t> bits;

  Halves(DType type, int64_t n, double fill = 99) : dtype(type), bits(Z(n), BitsOf(fill, type)) {}
  operator Reals() { return {bits.data(), dtype}; }  // NOLINT(google-explicit-constructor)
  operator ConstReals() const {
    return {bits.data(), dtype};
  }  // NOLINT(google-explicit-constructor)
  Doubles wide() const {
    Doubles values(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) values[i] = ValueOf(bits[i], dtype);
    return values;
  }
};

inline Halves Rounded(const Doubles& x, DType dtype) {
  Halves halves(dtype, static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) halves.bits[i] = BitsOf(Nearest(x[i], dtype), dtype);
  return halves;
}
inline Halves RandomHalves(int64_t n, uint32_t seed, DType dtype, double scale = 1) {
  return Rounded(Wide(Random(n, seed, scale)), dtype);
}

// Every element within half a step of the format at `expected`, and `tolerance` x (1 + the largest
// magnitude) for the arithmetic before.
inline void ExpectRounded(const Halves& actual, const Doubles& expected, double tolerance,
                          const std::string& what) {
  ASSERT_EQ(actual.bits.size(), expected.size()) << what;
  const HalfFormat format = FormatOf(actual.dtype);
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  const double error = tolerance * (1 + largest);
  const double least = std::ldexp(1, format.least_exponent - format.mantissa_bits - 1);
  for (size_t i = 0; i < expected.size(); ++i) {
    const double half_step =
        std::ldexp(std::fabs(expected[i]) + error, -format.mantissa_bits - 1) + least;
    ASSERT_NEAR(ValueOf(actual.bits[i], actual.dtype), expected[i], half_step + error)
        << what << " element " << i;
  }
}

}  // namespace dsrun::worker::testing

#endif  // DSRUN_TESTS_WORKER_DEVICE_HALVES_H_
