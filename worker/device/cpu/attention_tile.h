// AttentionTable: the arithmetic of one tile of causal attention, queries x keys of one head, as
// one table per instruction set (attention_tiles.cc, compiled like cpu_loops.cc). cpu_attention.cc
// goes from tile to tile.
//
// A tile of scores stands with its keys as rows and its queries as lanes: the softmax over the keys
// needs no sum across lanes. Products are fused multiply-adds in registers, the inner index
// ascending: calls of the matrix library for such small pieces cost as much as what they calculate,
// and it does not know which half of a tile is hidden.
//
// No includes but <stdint.h>: this header is compiled with instructions that not every CPU has.

#ifndef DSRUN_WORKER_DEVICE_CPU_ATTENTION_TILE_H_
#define DSRUN_WORKER_DEVICE_CPU_ATTENTION_TILE_H_

#include <stdint.h>

namespace dsrun::worker {

// Floats from one row of a tile, or of columns, to the next: the most queries a tile has.
constexpr int64_t kTileStride = 32;

// Which probabilities of a tile are dropped (common/numerics/dropout.h).
struct TileMask {
  uint32_t key[2] = {};
  uint32_t threshold = 0;  // 0: none
  float scale = 1;
  uint32_t head = 0;
  int64_t query = 0;   // the tile's first
  int64_t of_key = 0;  // and its first key, a multiple of 4
};

struct AttentionTile {
  int64_t queries;  // 1 to kTileStride
  int64_t keys;     // 1 to behind + queries
  // How far the first query is behind the first key, a multiple of 16: query i sees the keys
  // 0 to behind + i. The keys that a query does not see are hidden.
  int64_t behind;
  // 0, or query i does not see the keys up to behind + i - window: they are too old.
  int64_t window;
  int64_t head_size;
  int64_t q_stride;    // floats from one row of q or its gradient to the next
  int64_t stride;      // of k, v or their gradients
  int64_t out_stride;  // and of out and its gradient
  bool first_keys;     // no tile with earlier keys of these queries was before this one
  bool first_queries;  // no tile with other queries of these keys was before this one
  TileMask mask = {};
};

// What backward reads and writes; the gradients of the first tile are stored, the others added.
struct AttentionGradients {
  const float *q, *k, *v, *dout;          // from the tile's first row on
  const float *q_columns, *dout_columns;  // (head_size, kTileStride)
  const float *log_sum_exp, *delta;       // (queries, rounded up to 16); delta: dout . out
  float scale;                            // of the scores
  float *scores, *dscores;                // (keys, kTileStride), overwritten
  float *dq, *dk, *dv;
};

struct AttentionTable {
  // x (rows, columns) times `factor`, a row every `stride` floats, becomes (columns, kTileStride).
  // Lanes from `rows` to the next multiple of 16 are 0.
  void (*transpose)(int64_t rows, int64_t columns, int64_t stride, const float* x, float factor,
                    float* out);
  // Scores become e^(score - maximum); the running maximum and sum of each query (rounded up to 16
  // of them) go on, and `out` is the sum so far of e^(score - maximum) v.
  // What the mask drops is not in `out`; its scale is the caller's to multiply by, at the end.
  void (*forward)(const AttentionTile& tile, const float* q_columns, const float* k, const float* v,
                  float* scores, float* maximum, float* sum, float* out);
  void (*backward)(const AttentionTile& tile, const AttentionGradients& gradients);
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_ATTENTION_TILE_H_
