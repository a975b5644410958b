#include "common/plan/interval_packing.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>

namespace dsrun {
namespace {

constexpr int64_t kAlignBytes = 64;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes; }

// The tightest gap for `buffer` between `placed`, which are in the order of their offsets.
int64_t FindPlace(const std::vector<PackedBuffer>& buffers, const std::vector<size_t>& placed,
                  const PackedBuffer& buffer) {
  int64_t best = -1;
  int64_t tightest = std::numeric_limits<int64_t>::max();
  int64_t end = 0;  // of what lives together with it, so far
  for (const size_t index : placed) {
    const PackedBuffer& other = buffers[index];
    if (!other.life.Meets(buffer.life)) continue;
    const int64_t gap = other.offset - end;
    if (gap >= Aligned(buffer.bytes) && gap < tightest) {
      tightest = gap;
      best = end;
    }
    end = std::max(end, other.offset + Aligned(other.bytes));
  }
  return best >= 0 ? best : end;
}

}  // namespace

int64_t PackIntervals(std::vector<PackedBuffer>& buffers) {
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });
  std::vector<size_t> placed;  // by offset
  int64_t total = 0;
  for (const size_t index : order) {
    PackedBuffer& buffer = buffers[index];
    buffer.offset = FindPlace(buffers, placed, buffer);
    total = std::max(total, buffer.offset + Aligned(buffer.bytes));
    const auto at = std::upper_bound(placed.begin(), placed.end(), index, [&](size_t a, size_t b) {
      return buffers[a].offset < buffers[b].offset;
    });
    placed.insert(at, index);
  }
  return total;
}

}  // namespace dsrun
