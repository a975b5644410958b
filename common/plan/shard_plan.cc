#include "common/plan/shard_plan.h"

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace dsrun {
namespace {

int64_t RoundUpToLeaf(int64_t elements) {
  return (elements + kLeafElements - 1) / kLeafElements * kLeafElements;
}

// Gives every rank its part of every bucket; `buckets` descend, and lie above what was given.
void Divide(const std::vector<Range>& buckets, int64_t width,
            std::vector<std::vector<Range>>& by_rank) {
  for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {  // ascending
    const int64_t leaves = bucket->size() / kLeafElements;
    for (int64_t rank = 0; rank < width; ++rank) {
      const Range part = EvenPart(leaves, width, rank);
      if (part.empty()) continue;
      const Range flat{bucket->begin + part.begin * kLeafElements,
                       bucket->begin + part.end * kLeafElements};
      std::vector<Range>& mine = by_rank[static_cast<size_t>(rank)];
      if (!mine.empty() && mine.back().end == flat.begin) {
        mine.back().end = flat.end;
      } else {
        mine.push_back(flat);
      }
    }
  }
}

// Buckets close when they are full, also in the middle of a tensor, and always on a leaf boundary.
std::vector<Range> CutIntoBuckets(Range all, int64_t bucket_bytes) {
  const int64_t bucket_elements =
      RoundUpToLeaf(std::max<int64_t>(bucket_bytes / static_cast<int64_t>(sizeof(float)), 1));
  std::vector<Range> buckets;
  for (int64_t end = all.end; end > all.begin;) {
    const int64_t begin = std::max(all.begin, end - bucket_elements);
    buckets.push_back({begin, end});
    end = begin;
  }
  return buckets;
}

int64_t SizeOf(const std::vector<Range>& ranges) {
  int64_t elements = 0;
  for (const Range& range : ranges) elements += range.size();
  return elements;
}

// `ranges` ascend.
std::vector<Range> Inside(const std::vector<Range>& ranges, Range within) {
  std::vector<Range> parts;
  auto range = std::upper_bound(ranges.begin(), ranges.end(), within.begin,
                                [](int64_t at, const Range& one) { return at < one.end; });
  for (; range != ranges.end() && range->begin < within.end; ++range) {
    const Range part{std::max(range->begin, within.begin), std::min(range->end, within.end)};
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

// Of `at` among `ranges`, laid one after the other; -1: it is in none.
int64_t OffsetIn(const std::vector<Range>& ranges, int64_t at) {
  int64_t before = 0;
  for (const Range& range : ranges) {
    if (at >= range.begin && at < range.end) return before + (at - range.begin);
    before += range.size();
  }
  return -1;
}

// The same; ends the program where it is in none.
int64_t OffsetOrEnd(const char* function, const std::vector<Range>& ranges, int64_t rank,
                    int64_t at) {
  const int64_t offset = OffsetIn(ranges, at);
  if (offset >= 0) return offset;
  std::fprintf(stderr, "ShardPlan::%s: rank %lld does not have position %lld\n", function,
               static_cast<long long>(rank), static_cast<long long>(at));
  std::abort();
}

}  // namespace

int64_t DefaultBucketBytes(int64_t parameter_count) {
  const int64_t eighth = parameter_count * static_cast<int64_t>(sizeof(float)) / 8;
  return std::clamp<int64_t>(eighth, 256 << 10, 25 << 20);
}

Range FlatLayout::Entry::padded() const { return {offset, offset + RoundUpToLeaf(tensor.size())}; }

FlatLayout::FlatLayout(std::vector<LogicalTensor> tensors) {
  for (LogicalTensor& tensor : tensors) {
    const bool trainable = tensor.trainable;
    assert(!trainable || trainable_count_ == entries_.size());
    entries_.push_back({std::move(tensor), size_});
    size_ = entries_.back().padded().end;
    if (trainable) {
      trainable_count_ = entries_.size();
      trainable_size_ = size_;
    }
  }
}

const FlatLayout::Entry& FlatLayout::Find(const std::string& name) const {
  for (const Entry& entry : entries_) {
    if (entry.tensor.name == name) return entry;
  }
  std::fprintf(stderr, "FlatLayout::Find: no tensor \"%s\"\n", name.c_str());
  std::abort();
}

int64_t FlatLayout::padding() const {
  int64_t elements = 0;
  for (const Entry& entry : entries_) elements += entry.tensor.size();
  return size_ - elements;
}

ShardPlan::ShardPlan(const FlatLayout& layout, int64_t width, int64_t bucket_bytes)
    : width_(width), owned_(static_cast<size_t>(width)) {
  assert(width >= 1 && bucket_bytes >= 1);
  buckets_ = CutIntoBuckets({0, layout.trainable_size()}, bucket_bytes);
  Divide(buckets_, width, owned_);
  stored_ = owned_;
  Divide(CutIntoBuckets({layout.trainable_size(), layout.size()}, bucket_bytes), width, stored_);
}

std::vector<Range> ShardPlan::Owned(int64_t rank, Range within) const {
  return Inside(Owned(rank), within);
}
std::vector<Range> ShardPlan::Stored(int64_t rank, Range within) const {
  return Inside(Stored(rank), within);
}

std::vector<std::vector<Range>> ShardPlan::OwnedByRank(Range within) const {
  std::vector<std::vector<Range>> owned;
  for (int64_t rank = 0; rank < width_; ++rank) owned.push_back(Owned(rank, within));
  return owned;
}

int64_t ShardPlan::OwnedSize(int64_t rank) const { return SizeOf(Owned(rank)); }
int64_t ShardPlan::StoredSize(int64_t rank) const { return SizeOf(Stored(rank)); }

int64_t ShardPlan::OwnedOffset(int64_t rank, int64_t at) const {
  return OffsetOrEnd("OwnedOffset", Owned(rank), rank, at);
}
int64_t ShardPlan::StoredOffset(int64_t rank, int64_t at) const {
  return OffsetOrEnd("StoredOffset", Stored(rank), rank, at);
}

ShardSizes::ShardSizes(const FlatLayout& layout, int64_t width, int64_t bucket_bytes)
    : width_(width),
      buckets_(CutIntoBuckets({0, layout.trainable_size()}, bucket_bytes)),
      owned_(BySize(buckets_)),
      frozen_(BySize(CutIntoBuckets({layout.trainable_size(), layout.size()}, bucket_bytes))) {}

std::vector<ShardSizes::SameSize> ShardSizes::BySize(const std::vector<Range>& buckets) {
  std::vector<SameSize> sizes;
  for (const Range& bucket : buckets) {
    if (sizes.empty() || sizes.back().elements != bucket.size())
      sizes.push_back({bucket.size(), 0});
    ++sizes.back().buckets;
  }
  return sizes;
}

int64_t ShardSizes::OwnedOf(const Range& bucket, int64_t rank) const {
  return EvenPart(bucket.size() / kLeafElements, width_, rank).size() * kLeafElements;
}

int64_t ShardSizes::ShareOf(const std::vector<SameSize>& sizes, int64_t rank) const {
  int64_t elements = 0;
  for (const SameSize& size : sizes) elements += size.buckets * OwnedOf({0, size.elements}, rank);
  return elements;
}

int64_t ShardSizes::OwnedSize(int64_t rank) const { return ShareOf(owned_, rank); }
int64_t ShardSizes::StoredSize(int64_t rank) const {
  return ShareOf(owned_, rank) + ShareOf(frozen_, rank);
}

}  // namespace dsrun
