// Range: a half-open range of indices, and its division into even parts. Pure.

#ifndef DSRUN_COMMON_BASE_RANGE_H_
#define DSRUN_COMMON_BASE_RANGE_H_

#include <algorithm>
#include <cstdint>

namespace dsrun {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

// Part `index` of `count` parts of [0, total), consecutive, sizes differing by at most one, longer
// parts first.
inline Range EvenPart(int64_t total, int64_t count, int64_t index) {
  const int64_t size = total / count;
  const int64_t longer = total % count;
  const int64_t begin = index * size + std::min(index, longer);
  return {begin, begin + size + (index < longer ? 1 : 0)};
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_RANGE_H_
