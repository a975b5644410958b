#include "worker/model/init.h"

#include <algorithm>
#include <cmath>

#include "worker/device/random_normal.h"

namespace dsrun::worker {
namespace {

constexpr double kStandardDeviation = 0.02;

// Elements [range.begin, range.end) of `tensor`.
void InitTensor(const ModelSpec& spec, const LogicalTensor& tensor, uint64_t seed, Range range,
                float* out) {
  double stddev = kStandardDeviation;
  switch (tensor.init) {
    case Init::kZeros:
      std::fill_n(out, range.size(), 0.0f);
      return;
    case Init::kOnes:
      std::fill_n(out, range.size(), 1.0f);
      return;
    case Init::kNormalResidual:
      stddev /= std::sqrt(2.0 * static_cast<double>(spec.num_layers));
      break;
    case Init::kNormal:
      break;
  }
  NormalRange(seed, StreamId("init", tensor.name), range.begin, range.size(),
              static_cast<float>(stddev), out);
}

}  // namespace

void InitParameterRange(const ModelSpec& spec, const FlatLayout& layout, uint64_t seed, Range range,
                        float* out) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const auto clip = [&](Range of) {
      return Range{std::max(range.begin, of.begin), std::min(range.end, of.end)};
    };
    const Range flat = clip(entry.flat());
    if (!flat.empty()) {
      InitTensor(spec, entry.tensor, seed, {flat.begin - entry.offset, flat.end - entry.offset},
                 out + (flat.begin - range.begin));
    }
    const Range padding = clip({entry.flat().end, entry.padded().end});
    if (!padding.empty()) std::fill_n(out + (padding.begin - range.begin), padding.size(), 0.0f);
  }
}

void InitParameters(const ModelSpec& spec, const FlatLayout& layout, uint64_t seed, float* arena,
                    ThreadPool* pool) {
  constexpr int64_t kPiece = 64 * kLeafElements;
  const auto fill = [&](int64_t index, int) {
    const Range range{index * kPiece, std::min((index + 1) * kPiece, layout.size())};
    InitParameterRange(spec, layout, seed, range, arena + range.begin);
  };
  const int64_t pieces = (layout.size() + kPiece - 1) / kPiece;
  if (pool != nullptr) {
    pool->ParallelFor(pieces, fill);
  } else {
    for (int64_t index = 0; index < pieces; ++index) fill(index, 0);
  }
}

}  // namespace dsrun::worker
