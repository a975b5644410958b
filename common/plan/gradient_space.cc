#include "common/plan/gradient_space.h"

#include <algorithm>

namespace dsrun {

int64_t DefaultBucketBytes(int64_t parameter_count) {
  const int64_t eighth = parameter_count * static_cast<int64_t>(sizeof(float)) / 8;
  return std::clamp<int64_t>(eighth, 256 << 10, 25 << 20);
}

GradientSpace::GradientSpace(const FlatLayout& layout, const ShardPlan& shards,
                             int64_t bucket_bytes)
    : layout_(layout), shards_(shards), tied_(layout.Find("wte.weight").padded()) {
  const int64_t leaf_bytes = kLeafElements * static_cast<int64_t>(sizeof(float));
  const int64_t step =
      std::max<int64_t>((bucket_bytes + leaf_bytes - 1) / leaf_bytes, 1) * kLeafElements;
  for (int64_t end = size(); end > layout.size();) {
    const int64_t begin = std::max(layout.size(), end - step);
    buckets_.push_back({begin, end});
    end = begin;
  }
  buckets_.insert(buckets_.end(), shards.buckets().begin(), shards.buckets().end());
}

std::vector<std::vector<Range>> GradientSpace::OwnedByRank(Range within) const {
  const int64_t shift = within.begin >= layout_.size() ? layout_.size() - tied_.begin : 0;
  std::vector<std::vector<Range>> owned;
  for (int64_t rank = 0; rank < shards_.width(); ++rank) {
    owned.push_back(shards_.Owned(rank, {within.begin - shift, within.end - shift}));
    for (Range& range : owned.back()) {
      range.begin += shift;
      range.end += shift;
    }
  }
  return owned;
}

int64_t GradientSpace::OwnedSize(int64_t rank, Range within) const {
  const std::vector<std::vector<Range>> owned = OwnedByRank(within);
  int64_t elements = 0;
  for (const Range& range : owned[static_cast<size_t>(rank)]) elements += range.size();
  return elements;
}

}  // namespace dsrun
