#include "common/format/piece.h"

#include <iterator>

namespace dsrun {

namespace {

struct TypeFacts {
  const char* name;
  int64_t bytes;
};

// In the order of ElementType.
constexpr TypeFacts kTypes[] = {{"F32", 4}, {"BF16", 2}, {"F16", 2}, {"F64", 8},
                                {"I64", 8}, {"I32", 4},  {"U8", 1}};

}  // namespace

const char* ElementTypeName(ElementType type) { return kTypes[static_cast<size_t>(type)].name; }

std::optional<ElementType> ParseElementType(std::string_view name) {
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (name == kTypes[i].name) return static_cast<ElementType>(i);
  }
  return std::nullopt;
}

int64_t ElementBytes(ElementType type) { return kTypes[static_cast<size_t>(type)].bytes; }

int64_t Box::volume() const {
  int64_t elements = 1;
  for (const int64_t size : extent) elements *= size;
  return elements;
}

Box WholeBox(const std::vector<int64_t>& shape) {
  return {std::vector<int64_t>(shape.size(), 0), shape};
}

bool IsInside(const Box& box, const std::vector<int64_t>& shape) {
  if (box.offset.size() != shape.size() || box.extent.size() != shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (box.offset[i] < 0 || box.extent[i] < std::min<int64_t>(shape[i], 1) ||
        box.extent[i] > shape[i] || box.offset[i] > shape[i] - box.extent[i]) {
      return false;
    }
  }
  return true;
}

bool Overlap(const Box& a, const Box& b) {
  for (size_t i = 0; i < a.offset.size(); ++i) {
    if (a.offset[i] + a.extent[i] <= b.offset[i] || b.offset[i] + b.extent[i] <= a.offset[i]) {
      return false;
    }
  }
  return true;
}

namespace piece_internal {

CommonRows RowsOf(const Box& from, const Box& to) {
  CommonRows rows;
  if (from.extent.empty()) {
    rows.length = 1;
    return rows;
  }
  if (!Overlap(from, to)) return rows;
  // Behind the last dimension in which the boxes differ, both are contiguous.
  size_t row = from.extent.size() - 1;
  int64_t inner = 1;
  while (row > 0 && from.offset[row] == to.offset[row] && from.extent[row] == to.extent[row]) {
    inner *= from.extent[row--];
  }
  const auto first = [&](size_t i) { return std::max(from.offset[i], to.offset[i]); };
  const auto past = [&](size_t i) {
    return std::min(from.offset[i] + from.extent[i], to.offset[i] + to.extent[i]);
  };
  rows.outer = row;
  rows.length = (past(row) - first(row)) * inner;
  rows.from_start = (first(row) - from.offset[row]) * inner;
  rows.to_start = (first(row) - to.offset[row]) * inner;
  rows.from_stride.resize(row);
  rows.to_stride.resize(row);
  int64_t from_stride = inner * from.extent[row], to_stride = inner * to.extent[row];
  for (size_t i = row; i-- > 0;) {
    rows.from_stride[i] = from_stride;
    rows.to_stride[i] = to_stride;
    from_stride *= from.extent[i];
    to_stride *= to.extent[i];
  }
  for (size_t i = 0; i < row; ++i) {
    rows.first.push_back(first(i));
    rows.past.push_back(past(i));
    rows.from_offset.push_back(from.offset[i]);
    rows.to_offset.push_back(to.offset[i]);
  }
  return rows;
}

void Narrow(int64_t stride, int64_t offset, Range range, int64_t& first, int64_t& past) {
  first = std::max(first, offset + range.begin / stride);
  past = std::min(past, offset + (range.end + stride - 1) / stride);
}

}  // namespace piece_internal
}  // namespace dsrun
