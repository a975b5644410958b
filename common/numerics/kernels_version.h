// The version of the CPU kernels' bits, a field of the numerics fingerprint. It stands here, and
// not beside the kernels, so that the launcher, which does not link them, can refuse a checkpoint
// of another version before anything starts (docs/numerics.md, rule i).

#ifndef DSRUN_COMMON_NUMERICS_KERNELS_VERSION_H_
#define DSRUN_COMMON_NUMERICS_KERNELS_VERSION_H_

#include <cstdint>

namespace dsrun {

// Raised whenever a change to worker/device/cpu/cpu_kernels.cc, cpu_loops.cc, attention_tiles.cc,
// cpu_attention.cc, cpu_typed_attention.cc, cpu_matmul.cc, cpu_half_matmul.cc,
// worker/model/layers.cc, rotary_layers.cc, hidden_dropout.h, worker/device/cpu/philox_lanes.h,
// common/numerics/dropout.h or common/base/philox.h alters bits, of any model.
inline constexpr int64_t kCpuKernelsVersion = 4;

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_KERNELS_VERSION_H_
