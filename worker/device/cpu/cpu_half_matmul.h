// HalfMatmul: matrix products of operands of 16 bits, bf16 or fp16, summed up in fp32; in the tiles
// of TiledMatmul, which depend on the shape alone, each on one thread. So no bit depends on the
// number of threads.
//
// bf16 is multiplied as it is where the library has instructions for it (Bf16IsNative). Elsewhere,
// and fp16 everywhere, operands become fp32, exactly, in pieces of kHalfInner of the inner
// dimension, which are added up in order: the copies are then bounded by the tile. Which way it
// goes follows from the library's instruction set, which the numerics fingerprint has.
//
// An operand may be fp32 (gradients of logits): it is rounded to the type of the other one first.
//
// Tiles and copies take kHalfProductBytes a thread (common/plan/library_plan.h), allocated at the
// first product.
//
// Threads: as ThreadPool.

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_HALF_MATMUL_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_HALF_MATMUL_H_

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "common/base/dtype.h"
#include "common/base/range.h"
#include "worker/device/cpu/cpu_matmul.h"
#include "worker/device/cpu/loop_table.h"
#include "worker/device/cpu/thread_pool.h"

namespace dsrun::worker {

// A constant of the numerics (kernels_version.h): sums of another have other bits.
inline constexpr int64_t kHalfInner = 256;

class HalfMatmul {
 public:
  // Both must outlive this.
  HalfMatmul(ThreadPool& pool, const LoopTable& loops) : pool_(pool), loops_(loops) {}

  // after(rows, columns, tile, stride), which is `work`, for each tile of a (m, k) b (k, n) while
  // it is in the cache; its rows are `stride` floats apart, and its memory is the next tile's.
  // REQUIRES: a or b is of 16 bits; not both of two such types.
  template <typename After>
  void Run(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, TileWork work,
           const After& after) {
    Reserve();
    ForTiles(pool_, m, n, work, [&](Range rows, Range columns, int thread) {
      const Scratch scratch = ScratchOf(thread);
      Tile(scratch, rows.size(), columns.size(), k, RowsFrom(a, rows.begin),
           ColumnsFrom(b, columns.begin), /*beta=*/0, scratch.tile, columns.size());
      after(rows, columns, scratch.tile, columns.size());
    });
  }

  // c (m, n; rows c_stride apart) = beta c + a b; beta 0 or 1.
  void RunToFloats(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, float beta,
                   float* c, int64_t c_stride);

 private:
  struct Scratch {
    float* tile;  // (kMostTileM, kMostTileN)
    float* a;     // (kMostTileM, kHalfInner), in any order
    float* b;     // (kHalfInner, kMostTileN)
  };
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };

  void Reserve();
  Scratch ScratchOf(int thread) const;
  void Tile(const Scratch& scratch, int64_t m, int64_t n, int64_t k, const Operand& a,
            const Operand& b, float beta, float* c, int64_t c_stride) const;
  // x (rows, columns as they stand in memory) as `wanted`, by way of `type`; in `copy` unless it is
  // so already.
  Operand Converted(const Operand& x, int64_t rows, int64_t columns, DType type, DType wanted,
                    float* copy) const;

  ThreadPool& pool_;
  const LoopTable& loops_;
  std::unique_ptr<float[], Free> scratch_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_HALF_MATMUL_H_
