#include "common/format/element_values.h"

#include <bit>
#include <cstring>

namespace dsrun {
namespace {

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

float FromBf16(uint16_t half) { return std::bit_cast<float>(static_cast<uint32_t>(half) << 16); }

float FromF16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent > 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // mantissa * 2^-24, whose leading bit becomes implicit.
  const auto shift = static_cast<uint32_t>(std::countl_zero(mantissa)) - 21;
  mantissa = (mantissa << shift) & 0x3ffu;
  return std::bit_cast<float>(sign | ((113 - shift) << 23) | (mantissa << 13));
}

}  // namespace

bool IsExactAsF32(ElementType type) {
  return type == ElementType::kF32 || type == ElementType::kBF16 || type == ElementType::kF16;
}

void ToF32(ElementType type, std::span<const std::byte> bytes, float* into) {
  if (type == ElementType::kF32) {
    if (!bytes.empty()) std::memcpy(into, bytes.data(), bytes.size());
    return;
  }
  const bool bf16 = type == ElementType::kBF16;
  for (size_t i = 0; i < bytes.size() / 2; ++i) {
    const auto half = Load<uint16_t>(bytes.data() + 2 * i);
    into[i] = bf16 ? FromBf16(half) : FromF16(half);
  }
}

double ValueOf(ElementType type, const std::byte* at) {
  switch (type) {
    case ElementType::kF32:
      return Load<float>(at);
    case ElementType::kBF16:
      return FromBf16(Load<uint16_t>(at));
    case ElementType::kF16:
      return FromF16(Load<uint16_t>(at));
    case ElementType::kF64:
      return Load<double>(at);
    case ElementType::kI64:
      return static_cast<double>(Load<int64_t>(at));
    case ElementType::kI32:
      return Load<int32_t>(at);
    case ElementType::kU8:
      break;
  }
  return Load<uint8_t>(at);
}

}  // namespace dsrun
