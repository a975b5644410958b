// Pieces: what one rank holds of a logical tensor, and which of its elements another piece holds
// too. A piece is a flat range inside a box. The box (*shard*) is what a tensor-parallel rank
// holds: an offset and an extent in each dimension, row-major and contiguous in that rank's memory;
// the range is what a data-parallel owner holds of it. Without tensor parallelism the box is the
// whole tensor. From these two alone any set of pieces can be read into any other.
//
// Elements are counted; bytes are the caller's. Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_PIECE_H_
#define DSRUN_COMMON_FORMAT_PIECE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/range.h"

namespace dsrun {

// How elements are stored, little-endian. All pieces of a tensor have its type. What the engine
// trains is F32; the others are raw bytes to everybody but those who ask for conversion
// (element_values.h).
enum class ElementType : uint8_t { kF32, kBF16, kF16, kF64, kI64, kI32, kU8 };
const char* ElementTypeName(ElementType type);  // as in safetensors: "F32", ...
std::optional<ElementType> ParseElementType(std::string_view name);  // nullopt: none of these
int64_t ElementBytes(ElementType type);

// Part of a tensor: [offset[i], offset[i] + extent[i]) in dimension i.
struct Box {
  std::vector<int64_t> offset;
  std::vector<int64_t> extent;
  int64_t volume() const;  // elements; of no dimensions: 1
  friend bool operator==(const Box&, const Box&) = default;
};

Box WholeBox(const std::vector<int64_t>& shape);
// Inside the tensor, every extent at least 1 (or the tensor has none).
bool IsInside(const Box& box, const std::vector<int64_t>& shape);
bool Overlap(const Box& a, const Box& b);

struct Piece {
  std::string tensor;
  Box shard;
  int64_t begin = 0;  // elements [begin, end) of the shard, row-major
  int64_t end = 0;
  ElementType type = ElementType::kF32;
  friend bool operator==(const Piece&, const Piece&) = default;
};

// Elements that lie one after the other in both of two boxes.
struct CommonRun {
  int64_t from = 0;  // elements from the start of the first box
  int64_t to = 0;    // ... of the second
  int64_t count = 0;
  friend bool operator==(const CommonRun&, const CommonRun&) = default;
};

// use(CommonRun) for all elements that are in both `from_range` of box `from` and `to_range` of box
// `to`, ascending on both sides; adjacent runs may be two. REQUIRES: boxes of one tensor.
template <typename Use>
void ForRuns(const Box& from, Range from_range, const Box& to, Range to_range, const Use& use);

// ---- Implementation

namespace piece_internal {

// What two boxes have in common, as rows that are contiguous in both.
struct CommonRows {
  size_t outer = 0;                  // dimensions [0, outer) are walked through
  std::vector<int64_t> first, past;  // of what is common, in those
  std::vector<int64_t> from_stride, to_stride;
  std::vector<int64_t> from_offset, to_offset;
  int64_t from_start = 0, to_start = 0;  // of a row, besides the outer dimensions
  int64_t length = 0;                    // of a row; 0: nothing is common
};
CommonRows RowsOf(const Box& from, const Box& to);

// The rows of the outermost dimension that can meet `range`.
void Narrow(int64_t stride, int64_t offset, Range range, int64_t& first, int64_t& past);

inline bool Clip(Range from_range, Range to_range, CommonRun& run) {
  const int64_t skip = std::max({from_range.begin - run.from, to_range.begin - run.to, int64_t{0}});
  const int64_t count =
      std::min({run.count, from_range.end - run.from, to_range.end - run.to}) - skip;
  run = {run.from + skip, run.to + skip, count};
  return count > 0;
}

}  // namespace piece_internal

template <typename Use>
void ForRuns(const Box& from, Range from_range, const Box& to, Range to_range, const Use& use) {
  piece_internal::CommonRows rows = piece_internal::RowsOf(from, to);
  if (rows.length == 0) return;
  if (rows.outer > 0) {
    piece_internal::Narrow(rows.from_stride[0], rows.from_offset[0], from_range, rows.first[0],
                           rows.past[0]);
    piece_internal::Narrow(rows.to_stride[0], rows.to_offset[0], to_range, rows.first[0],
                           rows.past[0]);
    if (rows.first[0] >= rows.past[0]) return;
  }
  std::vector<int64_t> at = rows.first;
  while (true) {
    CommonRun run{rows.from_start, rows.to_start, rows.length};
    for (size_t i = 0; i < rows.outer; ++i) {
      run.from += (at[i] - rows.from_offset[i]) * rows.from_stride[i];
      run.to += (at[i] - rows.to_offset[i]) * rows.to_stride[i];
    }
    if (piece_internal::Clip(from_range, to_range, run)) use(run);
    size_t dimension = rows.outer;
    while (dimension > 0 && ++at[dimension - 1] == rows.past[dimension - 1]) {
      at[dimension - 1] = rows.first[dimension - 1];
      --dimension;
    }
    if (dimension == 0) return;
  }
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_PIECE_H_
