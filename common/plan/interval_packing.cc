#include "common/plan/interval_packing.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>

namespace dsrun {
namespace {

constexpr int64_t kAlignBytes = 64;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes; }

struct Taken {
  int64_t begin;
  int64_t end;
  Lifetime life;
};

bool IsBefore(const Taken& a, const Taken& b) { return a.begin < b.begin; }

// What is placed, found by when it lives. A model of a hundred layers has thousands of buffers,
// most of which live for a moment: to look at all of them for each would be most of the time of a
// plan.
//
// Moments are numbered by the lives that begin in them. A life is a range of numbers, kept in the
// nodes of a binary tree that make it up: those of one moment lie on its way to the root.
class PlacedBuffers {
 public:
  explicit PlacedBuffers(const std::vector<PackedBuffer>& buffers) {
    for (const PackedBuffer& buffer : buffers) begins_.push_back(buffer.life.first);
    std::sort(begins_.begin(), begins_.end());
    begins_.erase(std::unique(begins_.begin(), begins_.end()), begins_.end());
    while (leaves_ < begins_.size()) leaves_ *= 2;
    nodes_.resize(2 * leaves_);
    beginning_.resize(begins_.size());
  }

  void Add(const Taken& taken) {
    all_.insert(std::upper_bound(all_.begin(), all_.end(), taken, IsBefore), taken);
    const Lifetime& life = taken.life;
    const size_t first = NumberOf(life.first);
    beginning_[first].push_back(taken);
    size_t low = first + leaves_;
    for (size_t high = NumberOf(life.last) + leaves_ + 1; low < high; low /= 2, high /= 2) {
      if (low % 2 == 1) nodes_[low++].push_back(taken);
      if (high % 2 == 1) nodes_[--high].push_back(taken);
    }
  }

  // What meets `life`, each once, in the order of their places.
  const std::vector<Taken>& Meeting(const Lifetime& life) {
    meeting_.clear();
    size_t count = 0;
    ForListsOf(life, [&](const std::vector<Taken>& list) { count += list.size(); });
    if (count * kScanned > all_.size()) {
      for (const Taken& taken : all_) {
        if (taken.life.Meets(life)) meeting_.push_back(taken);
      }
      return meeting_;
    }
    ForListsOf(life, [&](const std::vector<Taken>& list) {
      meeting_.insert(meeting_.end(), list.begin(), list.end());
    });
    std::sort(meeting_.begin(), meeting_.end(), IsBefore);
    return meeting_;
  }

 private:
  // So many are looked at in the time in which one is sorted.
  static constexpr size_t kScanned = 16;

  // The lists of what lives when `life` begins, and of what begins later in it.
  template <typename Use>
  void ForListsOf(const Lifetime& life, const Use& use) const {
    const size_t first = NumberOf(life.first);
    for (size_t node = first + leaves_; node > 0; node /= 2) use(nodes_[node]);
    const size_t last = NumberOf(life.last);
    for (size_t number = first + 1; number <= last; ++number) use(beginning_[number]);
  }

  // Of the last beginning at or before `moment`. REQUIRES: there is one.
  size_t NumberOf(int64_t moment) const {
    const auto after = std::upper_bound(begins_.begin(), begins_.end(), moment);
    return static_cast<size_t>(after - begins_.begin()) - 1;
  }

  std::vector<int64_t> begins_;  // ascending
  size_t leaves_ = 1;
  std::vector<std::vector<Taken>> nodes_;      // of the tree, as of a heap; the root is 1
  std::vector<std::vector<Taken>> beginning_;  // by number
  std::vector<Taken> all_;                     // in the order of their places
  std::vector<Taken> meeting_;
};

// The tightest gap for so many bytes between what is taken.
int64_t FindPlace(const std::vector<Taken>& taken, int64_t bytes) {
  int64_t best = -1;
  int64_t tightest = std::numeric_limits<int64_t>::max();
  int64_t end = 0;  // of what is taken, so far
  for (const Taken& other : taken) {
    const int64_t gap = other.begin - end;
    if (gap >= bytes && gap < tightest) {
      tightest = gap;
      best = end;
    }
    end = std::max(end, other.end);
  }
  return best >= 0 ? best : end;
}

}  // namespace

int64_t PackIntervals(std::vector<PackedBuffer>& buffers) {
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });
  PlacedBuffers placed(buffers);
  int64_t total = 0;
  for (const size_t index : order) {
    PackedBuffer& buffer = buffers[index];
    const int64_t bytes = Aligned(buffer.bytes);
    buffer.offset = FindPlace(placed.Meeting(buffer.life), bytes);
    total = std::max(total, buffer.offset + bytes);
    placed.Add({buffer.offset, buffer.offset + bytes, buffer.life});
  }
  return total;
}

}  // namespace dsrun
