#include "worker/model/init.h"

#include <algorithm>

#include "common/model/logical_tensor.h"
#include "worker/device/random_normal.h"

namespace dsrun::worker {
namespace {

// Elements [range.begin, range.end) of `tensor`.
void InitTensor(const LogicalTensor& tensor, uint64_t seed, Range range, float* out) {
  switch (tensor.init) {
    case Init::kZeros:
      std::fill_n(out, range.size(), 0.0f);
      return;
    case Init::kOnes:
      std::fill_n(out, range.size(), 1.0f);
      return;
    case Init::kNormal:
      break;
  }
  NormalRange(seed, StreamId("init", tensor.name), range.begin, range.size(),
              static_cast<float>(tensor.stddev), out);
}

}  // namespace

void InitParameterRange(const FlatLayout& layout, uint64_t seed, Range range, float* out) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const auto clip = [&](Range of) {
      return Range{std::max(range.begin, of.begin), std::min(range.end, of.end)};
    };
    const Range flat = clip(entry.flat());
    if (!flat.empty()) {
      InitTensor(entry.tensor, seed, {flat.begin - entry.offset, flat.end - entry.offset},
                 out + (flat.begin - range.begin));
    }
    const Range padding = clip({entry.flat().end, entry.padded().end});
    if (!padding.empty()) std::fill_n(out + (padding.begin - range.begin), padding.size(), 0.0f);
  }
}

void InitParameters(const FlatLayout& layout, uint64_t seed, float* arena, ThreadPool* pool) {
  constexpr int64_t kPiece = 64 * kLeafElements;
  const auto fill = [&](int64_t index, int) {
    const Range range{index * kPiece, std::min((index + 1) * kPiece, layout.size())};
    InitParameterRange(layout, seed, range, arena + range.begin);
  };
  const int64_t pieces = (layout.size() + kPiece - 1) / kPiece;
  if (pool != nullptr) {
    pool->ParallelFor(pieces, fill);
  } else {
    for (int64_t index = 0; index < pieces; ++index) fill(index, 0);
  }
}

}  // namespace dsrun::worker
