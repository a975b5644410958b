// DType: what an element of a buffer is. Pure.

#ifndef DSRUN_COMMON_BASE_DTYPE_H_
#define DSRUN_COMMON_BASE_DTYPE_H_

#include <cstdint>
#include <string_view>

namespace dsrun {

enum class DType { kF32, kF64, kBF16, kF16, kI32, kU32, kI64, kU8 };

constexpr int64_t BytesOf(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr std::string_view NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF64:
      return "f64";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
    case DType::kU32:
      return "u32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
  }
  return "";
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_DTYPE_H_
