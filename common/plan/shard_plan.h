// Where every element of the model lives: the flat layout of the parameter arena, and who owns
// which part of it under ZeRO (Rajbhandari et al., 2020). Pure.
//
//   Flat layout: the logical tensors in model order, each cut from its start into leaves of 1,024
//   elements; a tensor begins on a leaf boundary, the rest of its last leaf is padding (always
//   zero). All boundaries below are leaves, so sums over elements are sums over whole leaves
//   wherever they are computed (docs/numerics.md).
//
//   Frozen tensors come last: what has gradients and optimizer's state is a prefix of the arena.
//
//   Buckets: bucket_bytes of consecutive elements (whole leaves), from the end of the arena to its
//   start: the order in which backward finishes them. Ownership: every bucket's leaves are divided
//   evenly among the ranks, so that every bucket keeps all links busy. Frozen tensors have no
//   buckets; they are divided likewise among those who write them into checkpoints.

#ifndef DSRUN_COMMON_PLAN_SHARD_PLAN_H_
#define DSRUN_COMMON_PLAN_SHARD_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/range.h"
#include "common/model/logical_tensor.h"

namespace dsrun {

inline constexpr int64_t kLeafElements = 1024;

// Gradient bytes that are reduced together, unless the user says otherwise: an eighth of the model,
// so that about 7/8 of the reduction can hide behind the backward pass, but messages that are
// neither dominated by latency (256 KiB) nor late in starting (25 MiB).
int64_t DefaultBucketBytes(int64_t parameter_count);

class FlatLayout {
 public:
  struct Entry {
    LogicalTensor tensor;
    int64_t offset;  // elements from the start of the arena; a multiple of kLeafElements
    Range flat() const { return {offset, offset + tensor.size()}; }  // without padding
    Range padded() const;                                            // to the next leaf
  };

  // REQUIRES: trainable tensors come before frozen ones.
  explicit FlatLayout(std::vector<LogicalTensor> tensors);

  const std::vector<Entry>& entries() const { return entries_; }
  const Entry& Find(const std::string& name) const;  // CHECK-fails on an unknown name
  int64_t size() const { return size_; }             // elements, padding included
  // Of the tensors that are not frozen, the first ones.
  size_t trainable_count() const { return trainable_count_; }
  int64_t trainable_size() const { return trainable_size_; }  // elements, padding included
  int64_t padding() const;                                    // elements
  int64_t leaf_count() const { return size_ / kLeafElements; }
  // part(index of the entry, the part of `range` in its padded range), ascending.
  template <typename Part>
  void ForTensors(Range range, const Part& part) const;

 private:
  std::vector<Entry> entries_;
  int64_t size_ = 0;
  size_t trainable_count_ = 0;
  int64_t trainable_size_ = 0;
};

class ShardPlan {
 public:
  // REQUIRES: width >= 1, bucket_bytes >= 1. `layout` must outlive this.
  ShardPlan(const FlatLayout& layout, int64_t width, int64_t bucket_bytes);

  int64_t width() const { return width_; }
  // Flat ranges, in the order in which backward finishes them: descending, adjacent, covering the
  // arena's trainable part. Owned below: of this part.
  const std::vector<Range>& buckets() const { return buckets_; }
  // What `rank` owns inside flat range `within`, ascending, maximal, leaf-aligned where `within`
  // is.
  std::vector<Range> Owned(int64_t rank, Range within) const;
  // The same of every rank; index = rank.
  std::vector<std::vector<Range>> OwnedByRank(Range within) const;
  // All of it, and its size in elements.
  const std::vector<Range>& Owned(int64_t rank) const { return owned_[static_cast<size_t>(rank)]; }
  int64_t OwnedSize(int64_t rank) const;
  // What `rank` writes into checkpoints, ascending: what it owns, and its part of frozen tensors.
  // All ranks together: the arena.
  const std::vector<Range>& Stored(int64_t rank) const {
    return stored_[static_cast<size_t>(rank)];
  }
  int64_t StoredSize(int64_t rank) const;
  // As Owned, of what is stored.
  std::vector<Range> Stored(int64_t rank, Range within) const;
  // Where flat position `at` stands among what `rank` stores, laid one after the other; what it
  // owns comes first. REQUIRES: `rank` stores it.
  int64_t StoredOffset(int64_t rank, int64_t at) const;
  // Where flat position `at` stands among what `rank` owns, laid one after the other.
  // REQUIRES: `rank` owns it.
  int64_t OwnedOffset(int64_t rank, int64_t at) const;

 private:
  int64_t width_;
  std::vector<Range> buckets_;
  std::vector<std::vector<Range>> owned_;   // by rank
  std::vector<std::vector<Range>> stored_;  // likewise
};

// How much of the arena each rank of a ShardPlan has, without listing where: for plans of bytes,
// where a large model has ten thousands of buckets, each divided among hundreds of ranks.
class ShardSizes {
 public:
  // REQUIRES: as ShardPlan's.
  ShardSizes(const FlatLayout& layout, int64_t width, int64_t bucket_bytes);

  const std::vector<Range>& buckets() const { return buckets_; }  // ShardPlan::buckets
  // What `rank` owns of a bucket, in elements.
  int64_t OwnedOf(const Range& bucket, int64_t rank) const;
  int64_t OwnedSize(int64_t rank) const;   // ShardPlan::OwnedSize
  int64_t StoredSize(int64_t rank) const;  // ShardPlan::StoredSize

 private:
  struct SameSize {
    int64_t elements;  // of each bucket
    int64_t buckets;
  };
  static std::vector<SameSize> BySize(const std::vector<Range>& buckets);
  int64_t ShareOf(const std::vector<SameSize>& sizes, int64_t rank) const;

  int64_t width_;
  std::vector<Range> buckets_;
  std::vector<SameSize> owned_;
  std::vector<SameSize> frozen_;
};

template <typename Part>
void FlatLayout::ForTensors(Range range, const Part& part) const {
  auto entry = std::upper_bound(entries_.begin(), entries_.end(), range.begin,
                                [](int64_t at, const Entry& e) { return at < e.offset; });
  if (entry != entries_.begin()) --entry;
  for (; entry != entries_.end() && entry->offset < range.end; ++entry) {
    const Range padded = entry->padded();
    const Range both{std::max(padded.begin, range.begin), std::min(padded.end, range.end)};
    if (!both.empty()) part(static_cast<size_t>(entry - entries_.begin()), both);
  }
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_SHARD_PLAN_H_
