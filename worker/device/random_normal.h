// Normal and uniform numbers drawn from Philox (common/base/philox.h). A value is a pure function
// of (seed, stream, index): any range can be made alone, in any order, on any rank
// (docs/numerics.md, rule g). Pure; the same bits on every CPU (no libm, no fused multiply-add).

#ifndef DSRUN_WORKER_DEVICE_RANDOM_NORMAL_H_
#define DSRUN_WORKER_DEVICE_RANDOM_NORMAL_H_

#include <cstdint>
#include <string>

namespace dsrun::worker {

// Names a stream: what the numbers are for ("init") and which logical thing they belong to
// ("h.0.attn.c_attn.weight"). 64-bit FNV-1a of both.
uint64_t StreamId(const std::string& purpose, const std::string& name);

// Word `index` of a stream: uniform over 32 bits.
uint32_t UniformWord(uint64_t seed, uint64_t stream, uint64_t index);

// Elements [begin, begin + n) of the stream of standard normals (Box and Muller, 1958), times
// stddev.
void NormalRange(uint64_t seed, uint64_t stream, int64_t begin, int64_t n, float stddev,
                 float* out);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_RANDOM_NORMAL_H_
