// TiledMatmul: matrix products in fp32 by oneDNN's sgemm, cut by us (docs/numerics.md, rule a). The
// output is cut into tiles whose sizes depend on its shape alone; each tile is one call of the
// library, on one thread, over the whole inner dimension; tiles are shared out over the pool. So no
// bit depends on the number of threads.
//
// Threads: as ThreadPool.

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_MATMUL_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_MATMUL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/base/cpu_isa.h"
#include "common/base/range.h"
#include "worker/device/cpu/thread_pool.h"
#include "worker/device/reals.h"

namespace dsrun::worker {

// Caps what the library may use; without it the best of the CPU. Once per process, before the first
// product. Errors: FAILED_PRECONDITION: the library has chosen already.
absl::Status CapLibraryIsa(CpuIsa isa);

struct MatrixLibrary {
  std::string name;     // "oneDNN"
  std::string version;  // "2.6.3"
  std::string isa;      // the effective one, as IsaName; "avx512-bf16" and the like without a cap
};
// From the first call on the cap is fixed.
MatrixLibrary MatrixLibraryInUse();

// Whether the library multiplies bf16 by instructions made for it: from AVX-512 BF16 on, if its cap
// does not forbid. A function of MatrixLibrary::isa.
bool Bf16IsNative();

// An operand: dense rows `stride` elements apart, perhaps to be read transposed.
struct Operand {
  ConstReals data;
  int64_t stride;
  bool transposed = false;
};

// c (m, n; rows c_stride apart) = alpha a b + beta c, on this thread alone. REQUIRES: a and b are
// both fp32, or both bf16.
void SerialMatmul(int64_t m, int64_t n, int64_t k, float alpha, const Operand& a, const Operand& b,
                  float beta, float* c, int64_t c_stride);

// The tiles of an (m, n) output, of at most so many rows and columns.
inline constexpr int64_t kMostTileM = 512;
inline constexpr int64_t kMostTileN = 384;
struct Tiling {
  int64_t tile_m;
  int64_t tile_n;
  int64_t count_m;
  int64_t count_n;
};
// What is done to a tile while it is in the cache: a little, or work with a second matrix of the
// output's size, so that the level 2 cache must hold two tiles.
enum class TileWork { kLittle, kSecondMatrix };
Tiling TilesOf(int64_t m, int64_t n, TileWork work = TileWork::kLittle);

inline Operand RowsFrom(const Operand& a, int64_t row) {
  return {a.data + (a.transposed ? row : row * a.stride), a.stride, a.transposed};
}
inline Operand ColumnsFrom(const Operand& b, int64_t column) {
  return {b.data + (b.transposed ? column * b.stride : column), b.stride, b.transposed};
}

// body(rows, columns, thread) for each tile of an (m, n) output.
template <typename Body>
void ForTiles(ThreadPool& pool, int64_t m, int64_t n, TileWork work, const Body& body) {
  const Tiling tiling = TilesOf(m, n, work);
  const auto part = [](int64_t index, int64_t size, int64_t total) {
    const int64_t begin = index * size;
    return Range{begin, begin + size < total ? begin + size : total};
  };
  pool.ParallelFor(tiling.count_m * tiling.count_n, [&](int64_t index, int thread) {
    body(part(index % tiling.count_m, tiling.tile_m, m),
         part(index / tiling.count_m, tiling.tile_n, n), thread);
  });
}

class TiledMatmul {
 public:
  // `pool` must outlive this.
  explicit TiledMatmul(ThreadPool& pool) : pool_(pool) {}

  // c (m, n; rows c_stride apart) = a (m, k) b (k, n); then after(rows, columns), which is `work`,
  // for each tile while it is in the cache.
  template <typename After>
  void Run(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, float* c,
           int64_t c_stride, TileWork work, const After& after) {
    RunTiles(m, n, k, a, b, /*beta=*/0, c, c_stride, work, after);
  }
  void Run(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, float* c,
           int64_t c_stride) {
    Run(m, n, k, a, b, c, c_stride, TileWork::kLittle, [](Range, Range) {});
  }
  // c += a b.
  void Add(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, float* c,
           int64_t c_stride) {
    RunTiles(m, n, k, a, b, /*beta=*/1, c, c_stride, TileWork::kLittle, [](Range, Range) {});
  }

 private:
  template <typename After>
  void RunTiles(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, float beta,
                float* c, int64_t c_stride, TileWork work, const After& after) {
    ForTiles(pool_, m, n, work, [&](Range rows, Range columns, int) {
      SerialMatmul(rows.size(), columns.size(), k, 1, RowsFrom(a, rows.begin),
                   ColumnsFrom(b, columns.begin), beta, c + rows.begin * c_stride + columns.begin,
                   c_stride);
      after(rows, columns);
    });
  }

  ThreadPool& pool_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_MATMUL_H_
