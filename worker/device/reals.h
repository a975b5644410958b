// Reals: an array of the type that a model computes in, fp32, bf16 or fp16: where it begins, and
// what its elements are. A pointer, not an owner. ConstReals: the same, only read.
//
// Every kernel loads its Reals as fp32, computes in fp32 and rounds once where it stores (to
// nearest, ties to even), so a type decides where results are rounded and nothing else
// (docs/numerics.md).

#ifndef DSRUN_WORKER_DEVICE_REALS_H_
#define DSRUN_WORKER_DEVICE_REALS_H_

#include <cstddef>
#include <cstdint>

#include "common/base/dtype.h"
#include "common/base/logging.h"

namespace dsrun::worker {

constexpr bool IsReal(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

namespace reals_internal {

// Void: void or const void; Float: float or const float; Half: of its bits.
template <typename Void, typename Float, typename Half, typename Byte>
class Array {
 public:
  Array() = default;
  Array(std::nullptr_t) {}             // NOLINT(google-explicit-constructor)
  Array(Float* data) : data_(data) {}  // NOLINT(google-explicit-constructor)
  Array(Void* data, DType dtype) : data_(data), dtype_(dtype) { CHECK(IsReal(dtype)); }

  Void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  int64_t bytes_of(int64_t elements) const { return elements * BytesOf(dtype_); }
  // REQUIRES: it is fp32, or null.
  Float* f32() const {
    CHECK(dtype_ == DType::kF32 || data_ == nullptr) << "an array of " << NameOf(dtype_);
    return static_cast<Float*>(data_);
  }
  // The bits of its elements. REQUIRES: it is bf16 or fp16, or null.
  Half* bits16() const {
    CHECK(dtype_ != DType::kF32 || data_ == nullptr) << "an array of f32";
    return static_cast<Half*>(data_);
  }

  friend Array operator+(Array array, int64_t elements) {
    array.data_ = static_cast<Byte*>(array.data_) + array.bytes_of(elements);
    return array;
  }
  friend bool operator==(Array array, std::nullptr_t) { return array.data_ == nullptr; }

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::kF32;
};

}  // namespace reals_internal

using Reals = reals_internal::Array<void, float, uint16_t, char>;

class ConstReals
    : public reals_internal::Array<const void, const float, const uint16_t, const char> {
 public:
  using Array::Array;
  ConstReals(Reals reals)
      : Array(reals.data(), reals.dtype()) {}  // NOLINT(google-explicit-constructor)
  ConstReals(Array array) : Array(array) {}    // NOLINT(google-explicit-constructor)
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_REALS_H_
