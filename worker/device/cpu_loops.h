// LoopTable: our vectorised loops, as one table per instruction set. One source (cpu_loops.cc) is
// compiled three times; LoopsFor picks a table once, at start. All three give the same bits
// (docs/numerics.md, rule k), which tests check for every entry.
//
// These are serial pieces: cpu_kernels.cc cuts operations into them. All outputs are overwritten
// unless said otherwise. Thread-safe (no state).

#ifndef DSRUN_WORKER_DEVICE_CPU_LOOPS_H_
#define DSRUN_WORKER_DEVICE_CPU_LOOPS_H_

#include "common/base/cpu_isa.h"
#include "worker/device/loop_table.h"

namespace dsrun::worker {

// REQUIRES: this CPU has `isa`.
const LoopTable& LoopsFor(CpuIsa isa);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_LOOPS_H_
