// The fastest that this CPU multiplies and adds floats: independent chains of fused multiply-adds
// in registers, of the widest kind it has. What products are measured against.

#ifndef DSRUN_BENCH_FMA_PEAK_H_
#define DSRUN_BENCH_FMA_PEAK_H_

#include <cstdint>

namespace dsrun::bench {

// Runs the loop on this thread.
void RunFmaLoop(int64_t iterations);
// Floating-point operations of one iteration.
double FmaLoopFlops();

}  // namespace dsrun::bench

#endif  // DSRUN_BENCH_FMA_PEAK_H_
