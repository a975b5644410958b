// Values of stored elements as other types: what is exact, and what is asked for.
//
// BF16 is the upper half of an fp32; F16 is IEEE 754's binary16: every value of both is an fp32, so
// the conversion to it is exact, the bits of what is not a number included (they stay so, and keep
// their sign and the upper bits of their payload). Little-endian. Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_ELEMENT_VALUES_H_
#define DSRUN_COMMON_FORMAT_ELEMENT_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/format/piece.h"

namespace dsrun {

// Whether a value of this type is an fp32 without rounding: F32, BF16 and F16 are.
bool IsExactAsF32(ElementType type);

// Elements of such a type. REQUIRES: IsExactAsF32(type); bytes.size() is ElementBytes(type) times
// the elements that `into` has room for.
void ToF32(ElementType type, std::span<const std::byte> bytes, float* into);

// The element of any type that is stored at `at`, as fp64: of I64 rounded to nearest.
double ValueOf(ElementType type, const std::byte* at);
// use(ValueOf) for every element. REQUIRES: whole elements.
template <typename Use>
void ForValues(ElementType type, std::span<const std::byte> bytes, const Use& use);

// ---- Implementation

template <typename Use>
void ForValues(ElementType type, std::span<const std::byte> bytes, const Use& use) {
  const auto step = static_cast<size_t>(ElementBytes(type));
  for (size_t at = 0; at + step <= bytes.size(); at += step) {
    use(ValueOf(type, bytes.data() + at));
  }
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_ELEMENT_VALUES_H_
