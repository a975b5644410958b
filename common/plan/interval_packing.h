// Where buffers lie in one arena when each is needed for a part of the time only: those that live
// together lie apart, others may share bytes. Greedy by size (Pisarchyk and Lee, 2020, "Efficient
// Memory Management for Deep Neural Net Inference"): the largest first, each in the tightest gap
// that is free all its life. Pure; the same buffers in the same order get the same places.

#ifndef DSRUN_COMMON_PLAN_INTERVAL_PACKING_H_
#define DSRUN_COMMON_PLAN_INTERVAL_PACKING_H_

#include <cstdint>
#include <vector>

namespace dsrun {

// Needed from moment `first` to moment `last`, both included.
struct Lifetime {
  int64_t first = 0;
  int64_t last = 0;
  bool Meets(const Lifetime& other) const { return first <= other.last && other.first <= last; }
};

struct PackedBuffer {
  int64_t bytes = 0;  // at least 1
  Lifetime life;
  int64_t offset = 0;  // out: a multiple of 64
};

// Fills in the offsets; returns the bytes of the arena, at least what lives together at any moment.
int64_t PackIntervals(std::vector<PackedBuffer>& buffers);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_INTERVAL_PACKING_H_
