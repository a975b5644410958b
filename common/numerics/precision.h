// Precision: what a model computes in, by the names of --precision. Parameters that an optimizer
// updates, its slots, gradients of parameters and their sums are fp32 in each (Micikevicius et al.,
// 2018). Pure.

#ifndef DSRUN_COMMON_NUMERICS_PRECISION_H_
#define DSRUN_COMMON_NUMERICS_PRECISION_H_

#include <array>
#include <optional>
#include <string_view>

#include "common/base/dtype.h"

namespace dsrun {

struct Precision {
  std::string_view name;
  DType dtype;
};
inline constexpr std::array<Precision, 3> kPrecisions = {
    {{"fp32", DType::kF32}, {"bf16", DType::kBF16}, {"fp16", DType::kF16}}};

// Empty: fp32. Nothing: no precision.
constexpr std::optional<DType> PrecisionNamed(std::string_view name) {
  if (name.empty()) return DType::kF32;
  for (const Precision& precision : kPrecisions) {
    if (precision.name == name) return precision.dtype;
  }
  return std::nullopt;
}

constexpr std::string_view PrecisionName(DType dtype) {
  for (const Precision& precision : kPrecisions) {
    if (precision.dtype == dtype) return precision.name;
  }
  return "";
}

// NumericsFingerprint::precision of a name.
constexpr std::string_view FingerprintPrecision(std::string_view name) {
  return name == "fp32" ? std::string_view() : name;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_PRECISION_H_
