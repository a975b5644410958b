// Copies several pieces of host memory with several threads: one thread alone does not reach what a
// machine's memory can give. Blocks until all is copied.

#ifndef DSRUN_WORKER_ENGINE_PARALLEL_COPY_H_
#define DSRUN_WORKER_ENGINE_PARALLEL_COPY_H_

#include <cstddef>
#include <vector>

namespace dsrun::worker {

struct CopyPiece {
  void* to;
  const void* from;
  size_t bytes;
};

// REQUIRES: the pieces do not overlap. Where no further thread can be started, fewer do it.
void CopyInParallel(const std::vector<CopyPiece>& pieces, int threads);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_PARALLEL_COPY_H_
