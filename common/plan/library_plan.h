// LibraryPlan: what a rank takes beside the memory that its engine allocates from the memory plan:
// its process, the libraries that it calls, its connections. By formula, with constants that were
// measured; where each is from stands in its line. Pure.

#ifndef DSRUN_COMMON_PLAN_LIBRARY_PLAN_H_
#define DSRUN_COMMON_PLAN_LIBRARY_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/plan/planned_buffer.h"

namespace dsrun {

// Code, heap, stacks, messages. Seen of gpt2-nano with four ranks on a node and two threads each
// (2026-11-27, VmHWM of the workers): 24 MiB of files, most of it the libraries' code and shared by
// the ranks of a node, and 6 to 9 MiB of its own; the rest is for allocators that give pages back
// late.
inline constexpr int64_t kProcessBytes = int64_t{48} << 20;
// What oneDNN 2.6 packs its operands into while it computes a tile (worker/device/cpu/cpu_matmul.h)
// is bounded by the tile, whatever the inner dimension: 1.6 MB seen with AVX-512
// (tests/worker/engine/steady_memory_test.cc looks).
inline constexpr int64_t kProductBytes = int64_t{2} << 20;
// Beside that, where a model computes in 16 bits: a tile in fp32, and the operands that are
// converted for it (worker/device/cpu/cpu_half_matmul.h), for each thread.
inline constexpr int64_t kHalfProductBytes = int64_t{1664} << 10;
// A ring in shared memory from another rank of the node (worker/comm/shared_memory).
inline constexpr int64_t kRingBytes = int64_t{1} << 20;
// A connection to a rank of another node: what Linux gives a socket to begin with, 16 KiB to send
// and 64 KiB to receive in (tcp_wmem, the first window of tcp_rmem).
inline constexpr int64_t kConnectionBytes = int64_t{80} << 10;

struct LibraryInput {
  int64_t threads = 1;
  int64_t width = 1;             // ranks of the job
  int64_t ranks_of_machine = 1;  // of them where this one is, itself included
  DType precision = DType::kF32;
};

// Each in host memory, of group "libraries". REQUIRES: all at least 1, ranks_of_machine <= width.
std::vector<PlannedBuffer> PlanLibraries(const LibraryInput& input);
int64_t LibraryBytes(const LibraryInput& input);  // of all of them

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_LIBRARY_PLAN_H_
