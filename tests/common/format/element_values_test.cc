#include "common/format/element_values.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace dsrun {
namespace {

float Half(ElementType type, uint16_t half) {
  float value = -1;
  ToF32(type, std::as_bytes(std::span(&half, 1)), &value);
  return value;
}

// From the definition of binary16: (-1)^s * 2^(e-15) * 1.m, or 2^-14 * 0.m.
TEST(ElementValues, EveryF16_IsExactAsF32) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Half(ElementType::kF16, static_cast<uint16_t>(bits));
    const int exponent = static_cast<int>((bits >> 10) & 0x1f);
    const int mantissa = static_cast<int>(bits & 0x3ff);
    EXPECT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0) << bits;
      EXPECT_EQ(std::isinf(value), mantissa == 0) << bits;
      continue;
    }
    const double expected =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(std::abs(static_cast<double>(value)), expected) << bits;
  }
}

TEST(ElementValues, EveryBf16_IsTheUpperHalf) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Half(ElementType::kBF16, static_cast<uint16_t>(bits));
    ASSERT_EQ(std::bit_cast<uint32_t>(value), bits << 16);
  }
}

TEST(ElementValues, EveryType_HasItsNameSizeAndValue) {
  const auto values = [](ElementType type, std::span<const std::byte> bytes) {
    std::vector<double> found;
    ForValues(type, bytes, [&](double value) { found.push_back(value); });
    return found;
  };
  const int64_t i64[] = {-5, 1 << 30};
  EXPECT_EQ(values(ElementType::kI64, std::as_bytes(std::span(i64))),
            (std::vector<double>{-5, 1 << 30}));
  const int32_t i32[] = {-7};
  EXPECT_EQ(values(ElementType::kI32, std::as_bytes(std::span(i32))), std::vector<double>{-7});
  const uint8_t u8[] = {200, 3};
  EXPECT_EQ(values(ElementType::kU8, std::as_bytes(std::span(u8))), (std::vector<double>{200, 3}));
  const double f64[] = {0.1};
  EXPECT_EQ(values(ElementType::kF64, std::as_bytes(std::span(f64))), std::vector<double>{0.1});
  for (const auto& [name, bytes] : {std::pair("F32", 4),
                                    {"BF16", 2},
                                    {"F16", 2},
                                    {"F64", 8},
                                    {"I64", 8},
                                    {"I32", 4},
                                    {"U8", 1}}) {
    const auto type = ParseElementType(name);
    ASSERT_TRUE(type.has_value()) << name;
    EXPECT_EQ(std::string(ElementTypeName(*type)), name);
    EXPECT_EQ(ElementBytes(*type), bytes);
  }
  EXPECT_FALSE(ParseElementType("F8").has_value());
}

}  // namespace
}  // namespace dsrun
