#include "worker/device/cpu/cpu_half_matmul.h"

#include <algorithm>

#include "common/base/logging.h"
#include "common/plan/library_plan.h"
#include "worker/device/cpu/cpu_loops.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kTileFloats = kMostTileM * kMostTileN;
constexpr int64_t kFloatsOfA = kMostTileM * kHalfInner;
constexpr int64_t kFloatsOfB = kMostTileN * kHalfInner;
constexpr int64_t kFloats = kTileFloats + kFloatsOfA + kFloatsOfB;
static_assert(kFloats * int64_t{sizeof(float)} == kHalfProductBytes);
constexpr size_t kAlignBytes = 64;

// The type of 16 bits that a product is of.
DType TypeOf(const Operand& a, const Operand& b) {
  const DType type = a.data.dtype() == DType::kF32 ? b.data.dtype() : a.data.dtype();
  CHECK(type != DType::kF32 && IsReal(type));
  CHECK(b.data.dtype() == type || b.data.dtype() == DType::kF32)
      << NameOf(type) << " times " << NameOf(b.data.dtype());
  return type;
}

// From element `begin` of the inner dimension on.
Operand InnerOfA(const Operand& a, int64_t begin) {
  return {a.data + (a.transposed ? begin * a.stride : begin), a.stride, a.transposed};
}
Operand InnerOfB(const Operand& b, int64_t begin) {
  return {b.data + (b.transposed ? begin : begin * b.stride), b.stride, b.transposed};
}

}  // namespace

void HalfMatmul::RunToFloats(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b,
                             float beta, float* c, int64_t c_stride) {
  Reserve();
  ForTiles(pool_, m, n, TileWork::kLittle, [&](Range rows, Range columns, int thread) {
    Tile(ScratchOf(thread), rows.size(), columns.size(), k, RowsFrom(a, rows.begin),
         ColumnsFrom(b, columns.begin), beta, c + rows.begin * c_stride + columns.begin, c_stride);
  });
}

void HalfMatmul::Reserve() {
  if (scratch_ != nullptr) return;
  const auto bytes = static_cast<size_t>(pool_.threads() * kHalfProductBytes);
  scratch_.reset(static_cast<float*>(std::aligned_alloc(kAlignBytes, bytes)));
  CHECK(scratch_ != nullptr) << "no memory for " << bytes << " bytes of tiles";
}

HalfMatmul::Scratch HalfMatmul::ScratchOf(int thread) const {
  float* const tile = scratch_.get() + thread * kFloats;
  return {tile, tile + kTileFloats, tile + kTileFloats + kFloatsOfA};
}

void HalfMatmul::Tile(const Scratch& scratch, int64_t m, int64_t n, int64_t k, const Operand& a,
                      const Operand& b, float beta, float* c, int64_t c_stride) const {
  const DType type = TypeOf(a, b);
  const DType wanted = type == DType::kBF16 && Bf16IsNative() ? type : DType::kF32;
  const bool as_they_are = a.data.dtype() == wanted && b.data.dtype() == wanted;
  const int64_t piece = as_they_are ? k : kHalfInner;
  for (int64_t begin = 0; begin < k; begin += piece) {
    const int64_t inner = std::min(piece, k - begin);
    const Operand from_a = InnerOfA(a, begin);
    const Operand from_b = InnerOfB(b, begin);
    const Operand of_a = Converted(from_a, a.transposed ? inner : m, a.transposed ? m : inner, type,
                                   wanted, scratch.a);
    const Operand of_b = Converted(from_b, b.transposed ? n : inner, b.transposed ? inner : n, type,
                                   wanted, scratch.b);
    SerialMatmul(m, n, inner, 1, of_a, of_b, begin == 0 ? beta : 1, c, c_stride);
  }
}

Operand HalfMatmul::Converted(const Operand& x, int64_t rows, int64_t columns, DType type,
                              DType wanted, float* copy) const {
  if (x.data.dtype() == wanted && wanted != DType::kF32) return x;
  const RealLoops& loops = LoopsOf(loops_, type);
  const Reals to(copy, wanted);
  for (int64_t row = 0; row < rows; ++row) {
    const ConstReals from = x.data + row * x.stride;
    const Reals at = to + row * columns;
    if (from.dtype() != DType::kF32) {
      loops.widen(columns, from.data(), at.f32());
    } else if (wanted == DType::kF32) {
      loops.round_widen(columns, from.f32(), at.f32());
    } else {
      loops.round(columns, from.f32(), at.data());
    }
  }
  return {ConstReals(to), columns, x.transposed};
}

}  // namespace dsrun::worker
