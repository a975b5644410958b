// Our vectorised loops and the tiles of attention, as one table each per instruction set: one
// source (cpu_loops.cc, attention_tiles.cc) is compiled three times. All three give the same bits
// (docs/numerics.md, rule k), which tests check for every entry.
//
// These are serial pieces: cpu_kernels.cc cuts operations into them. All outputs are overwritten
// unless said otherwise. Thread-safe (no state).

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_LOOPS_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_LOOPS_H_

#include "common/base/cpu_isa.h"
#include "common/base/dtype.h"
#include "worker/device/cpu/attention_tile.h"
#include "worker/device/cpu/loop_table.h"

namespace dsrun::worker {

// REQUIRES: this CPU has `isa`.
const LoopTable& LoopsFor(CpuIsa isa);
const AttentionTable& AttentionFor(CpuIsa isa);

// Those for arrays of `dtype`. REQUIRES: IsReal(dtype).
inline const RealLoops& LoopsOf(const LoopTable& loops, DType dtype) {
  return dtype == DType::kBF16 ? loops.bf16 : dtype == DType::kF16 ? loops.f16 : loops.f32;
}

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_LOOPS_H_
