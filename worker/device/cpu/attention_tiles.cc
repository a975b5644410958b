// Compiled once per instruction set, with DSRUN_ATTENTION naming the table. Every element of a
// product is one chain of fused multiply-adds, the inner index ascending, whatever the blocks:
// the same bits for every instruction set.

#include "worker/device/cpu/attention_tile.h"
#include "worker/device/cpu/lanes.h"
#include "worker/device/cpu/philox_lanes.h"

namespace dsrun::worker {
extern const AttentionTable DSRUN_ATTENTION;
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

DSRUN_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
DSRUN_INLINE int64_t RoundUpToLanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// --- Products in registers

// Element (r, k) is at[r * row + k * step].
struct Left {
  const float* at;
  int64_t row;
  int64_t step;
};
// Row k begins at at + k * step.
struct Right {
  const float* at;
  int64_t step;
};
// Row r begins at at + r * row; products are stored, or added to what is there.
struct Result {
  float* at;
  int64_t row;
  bool add;
};

// Rows of the result that are calculated together. Divides kLanes.
constexpr int kRows = 8;

// R rows by V vectors of the result, all in registers.
template <int R, int V>
DSRUN_INLINE void Block(int64_t depth, const Left& a, const Right& b, const Result& c) {
  F16 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = Set(0);
  }
  for (int64_t k = 0; k < depth; ++k) {
    F16 x[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = Load(b.at + k * b.step + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F16 y = Set(a.at[r * a.row + k * a.step]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = Fma(y, x[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* const at = c.at + r * c.row + v * kLanes;
      Store(at, c.add ? Load(at) + sum[r][v] : sum[r][v]);
    }
  }
}

// One row by less than a vector.
void Rest(int64_t n, int64_t depth, const Left& a, const Right& b, const Result& c) {
  F16 sum = Set(0);
  for (int64_t k = 0; k < depth; ++k) {
    sum = Fma(Set(a.at[k * a.step]), LoadTail(b.at + k * b.step, n, 0), sum);
  }
  StoreTail(c.at, n, c.add ? LoadTail(c.at, n, 0) + sum : sum);
}

// R rows by n columns, in the widest blocks that the registers hold.
template <int R>
void Rows(int64_t n, int64_t depth, const Left& a, const Right& b, const Result& c) {
  constexpr int kAtOnce = R < 4 ? R : 4;
  const auto below = [&](int r) { return Left{a.at + r * a.row, a.row, a.step}; };
  int64_t i = 0;
  const auto right = [&] { return Right{b.at + i, b.step}; };
  const auto result = [&](int r) { return Result{c.at + r * c.row + i, c.row, c.add}; };
  if constexpr (kParts == 1) {
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      for (int r = 0; r < R; r += kAtOnce) Block<kAtOnce, 4>(depth, below(r), right(), result(r));
    }
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) Block<R, 2>(depth, a, right(), result(0));
    for (; i + kLanes <= n; i += kLanes) Block<R, 1>(depth, a, right(), result(0));
  }
  for (; i + kLanes <= n; i += kLanes) {
    for (int r = 0; r < R; r += kAtOnce) Block<kAtOnce, 1>(depth, below(r), right(), result(r));
  }
  if (i < n) {
    for (int r = 0; r < R; ++r) Rest(n - i, depth, below(r), right(), result(r));
  }
}

// Up to kRows rows.
void Product(int64_t rows, int64_t n, int64_t depth, const Left& a, const Right& b,
             const Result& c) {
  if (rows == kRows) return Rows<kRows>(n, depth, a, b, c);
  for (int64_t r = 0; r < rows; ++r) {
    Rows<1>(n, depth, {a.at + r * a.row, a.row, a.step}, b, {c.at + r * c.row, c.row, c.add});
  }
}

// --- Which part of a tile is seen

// The first lane of the first vector in which some query sees key j. The same for the kRows keys of
// a block.
DSRUN_INLINE int64_t FirstLane(const AttentionTile& tile, int64_t j) {
  return j > tile.behind ? (j - tile.behind) / kLanes * kLanes : 0;
}
// All queries of the vector that begins at `lane` see the keys before this one,
DSRUN_INLINE int64_t SeenByAll(const AttentionTile& tile, int64_t lane) {
  return Least(tile.keys, tile.behind + lane + 1);
}
// none sees this one or a later one,
DSRUN_INLINE int64_t SeenByAny(const AttentionTile& tile, int64_t lane) {
  return Least(tile.keys, tile.behind + lane + kLanes);
}
// and key j in between is hidden from its first queries.
DSRUN_INLINE int64_t HiddenLanes(const AttentionTile& tile, int64_t lane, int64_t j) {
  return j - tile.behind - lane;
}

// None before this one is too old for any query of the vector.
DSRUN_INLINE int64_t FirstSeenByAll(const AttentionTile& tile, int64_t lane) {
  const int64_t first = tile.window == 0 ? 0 : tile.behind + lane + kLanes - tile.window;
  return first < 0 ? 0 : Least(first, SeenByAll(tile, lane));
}
// Key j for the queries of a vector, `fill` for those that do not see it.
DSRUN_INLINE F16 Hide(const AttentionTile& tile, int64_t lane, int64_t j, const F16& x,
                      float fill) {
  const int64_t hidden = HiddenLanes(tile, lane, j);
  const F16 seen = DropFirst(x, hidden, fill);
  return tile.window == 0 ? seen : KeepFirst(seen, hidden + tile.window, fill);
}

// --- The five products. `tile_matrix` is (keys, kTileStride); only vectors with a seen score are
// calculated, and read.

// rows (keys, head_size) times columns (head_size, queries).
void Scores(const AttentionTile& tile, const float* rows, int64_t stride, const float* columns,
            float* tile_matrix) {
  const int64_t lanes = RoundUpToLanes(tile.queries);
  for (int64_t j = 0; j < tile.keys; j += kRows) {
    const int64_t first = FirstLane(tile, j);
    Product(Least(kRows, tile.keys - j), lanes - first, tile.head_size,
            {rows + j * stride, stride, 1}, {columns + first, kTileStride},
            {tile_matrix + j * kTileStride + first, kTileStride, false});
  }
}

// out row i: the sum over the keys of tile_matrix(j, i) rows(j).
void SumOverKeys(const AttentionTile& tile, const float* tile_matrix, const float* rows,
                 const Result& out) {
  for (int64_t i = 0; i < tile.queries; i += kRows) {
    const int64_t together = Least(kRows, tile.queries - i);
    Product(together, tile.head_size, Least(tile.keys, tile.behind + i + together),
            {tile_matrix + i, 1, kTileStride}, {rows, tile.stride},
            {out.at + i * out.row, out.row, out.add});
  }
}

// out row j: the sum over the queries of tile_matrix(j, i) rows(i).
void SumOverQueries(const AttentionTile& tile, const float* tile_matrix, const float* rows,
                    int64_t stride, float* out) {
  for (int64_t j = 0; j < tile.keys; j += kRows) {
    const int64_t first = FirstLane(tile, j);
    Product(Least(kRows, tile.keys - j), tile.head_size, tile.queries - first,
            {tile_matrix + j * kTileStride + first, kTileStride, 1},
            {rows + first * stride, stride},
            {out + j * tile.stride, tile.stride, !tile.first_queries});
  }
}

// --- Softmax over the keys, sixteen queries at a time

// Hides scores; the greatest ones.
DSRUN_INLINE F16 HideAndMax(const AttentionTile& tile, int64_t lane, float* scores, F16 max) {
  const int64_t first = FirstSeenByAll(tile, lane);
  const int64_t all = SeenByAll(tile, lane);
  const auto hide = [&](int64_t j) {
    float* const at = scores + j * kTileStride;
    const F16 seen = Hide(tile, lane, j, Load(at), kMinusInfinity);
    Store(at, seen);
    max = Max(seen, max);
  };
  for (int64_t j = 0; j < first; ++j) hide(j);
  for (int64_t j = first; j < all; ++j) max = Max(Load(scores + j * kTileStride), max);
  for (int64_t j = all; j < SeenByAny(tile, lane); ++j) hide(j);
  return max;
}

// x of key j for the queries of a vector, 0 where it is dropped. Keys come one after the other,
// from 0 on: `words` serve four of them.
DSRUN_INLINE F16 Keep(const TileMask& mask, int64_t lane, int64_t j, U16 (&words)[4],
                      const F16& x) {
  if (j % 4 == 0) {
    PhiloxLanes(static_cast<uint32_t>(mask.query + lane),
                static_cast<uint32_t>((mask.of_key + j) / 4), mask.head, mask.key, words);
  }
  return KeepLanes(words[j % 4], mask.threshold, x);
}

template <bool kDrops>
void Softmax(const AttentionTile& tile, float* scores, float* maximum, float* sum, float* factor) {
  for (int64_t lane = 0; lane < tile.queries; lane += kLanes) {
    const F16 before = Load(maximum + lane);
    const F16 max = HideAndMax(tile, lane, scores + lane, before);
    F16 total = Set(0);
    U16 words[4] = {};
    for (int64_t j = 0; j < SeenByAny(tile, lane); ++j) {
      float* const at = scores + j * kTileStride + lane;
      const F16 e = Exp(Load(at) - max);
      Store(at, kDrops ? Keep(tile.mask, lane, j, words, e) : e);
      total = total + e;
    }
    const F16 smaller = Exp(before - max);  // 0 at the first tile, where `before` is -infinity
    Store(sum + lane, Load(sum + lane) * smaller + total);
    Store(maximum + lane, max);
    Store(factor + lane, smaller);
  }
}

// Scores become probabilities p; dscores, so far the gradient dp of p, that of the unscaled scores:
// p (dp - delta) scale. With a mask p is dropped for whoever reads it, and dp is what the dropped
// ones hand back: both are 0, or times the mask's scale. `delta` is the same either way.
template <bool kDrops>
void SoftmaxBackward(const AttentionTile& tile, const AttentionGradients& g) {
  const F16 scale = Set(g.scale);
  for (int64_t lane = 0; lane < tile.queries; lane += kLanes) {
    const F16 shift = Load(g.log_sum_exp + lane);
    const F16 delta = Load(g.delta + lane);
    const int64_t first = FirstSeenByAll(tile, lane);
    const int64_t all = SeenByAll(tile, lane);
    U16 words[4] = {};
    for (int64_t j = 0; j < SeenByAny(tile, lane); ++j) {
      float* const score = g.scores + j * kTileStride + lane;
      float* const dscore = g.dscores + j * kTileStride + lane;
      F16 p = Exp(Load(score) - shift);
      F16 dp = Load(dscore);
      if (kDrops) dp = Keep(tile.mask, lane, j, words, dp * Set(tile.mask.scale));
      F16 ds = p * (dp - delta) * scale;
      if (kDrops) p = KeepLanes(words[j % 4], tile.mask.threshold, p * Set(tile.mask.scale));
      if (j < first || j >= all) {
        p = Hide(tile, lane, j, p, 0);
        ds = Hide(tile, lane, j, ds, 0);
      }
      Store(score, p);
      Store(dscore, ds);
    }
  }
}

// --- The table

// Rows become columns: pairs of rows at distance 1, 2, 4, ... exchange lanes.
DSRUN_INLINE void TransposeSquare(NativeF (&x)[kNative]) {
#pragma GCC unroll 4
  for (int distance = 1; distance < kNative; distance *= 2) {
    const NativeI odd = (Iota() & distance) != 0;
    const NativeI from_low = odd ? Iota() - distance + kNative : Iota();
    const NativeI from_high = odd ? Iota() + kNative : Iota() + distance;
#pragma GCC unroll 16
    for (int i = 0; i < kNative; ++i) {
      if ((i & distance) != 0) continue;
      const NativeF low = x[i];
      const NativeF high = x[i + distance];
      x[i] = __builtin_shuffle(low, high, from_low);
      x[i + distance] = __builtin_shuffle(low, high, from_high);
    }
  }
}

void TransposeTile(int64_t rows, int64_t columns, int64_t stride, const float* x, float factor,
                   float* out) {
  const NativeF times = SetNative(factor);
  const int64_t lanes = RoundUpToLanes(rows);
  for (int64_t c = 0; c < columns; c += kNative) {
    for (int64_t r = 0; r < lanes; r += kNative) {
      if (r + kNative <= rows && c + kNative <= columns) {
        NativeF square[kNative];
        for (int i = 0; i < kNative; ++i) {
          __builtin_memcpy(&square[i], x + (r + i) * stride + c, sizeof(NativeF));
        }
        TransposeSquare(square);
        for (int i = 0; i < kNative; ++i) {
          const NativeF column = square[i] * times;
          __builtin_memcpy(out + (c + i) * kTileStride + r, &column, sizeof(NativeF));
        }
        continue;
      }
      for (int64_t i = c; i < Least(c + kNative, columns); ++i) {
        for (int64_t k = r; k < r + kNative; ++k) {
          out[i * kTileStride + k] = k < rows ? x[k * stride + i] * factor : 0;
        }
      }
    }
  }
}

void ForwardTile(const AttentionTile& tile, const float* q_columns, const float* k, const float* v,
                 float* scores, float* maximum, float* sum, float* out) {
  float factor[kTileStride];
  Scores(tile, k, tile.stride, q_columns, scores);
  if (tile.mask.threshold == 0) {
    Softmax<false>(tile, scores, maximum, sum, factor);
  } else {
    Softmax<true>(tile, scores, maximum, sum, factor);
  }
  for (int64_t i = 0; i < tile.queries && !tile.first_keys; ++i) {
    float* const row = out + i * tile.out_stride;
    for (int64_t c = 0; c < tile.head_size; ++c) row[c] *= factor[i];
  }
  SumOverKeys(tile, scores, v, {out, tile.out_stride, !tile.first_keys});
}

void BackwardTile(const AttentionTile& tile, const AttentionGradients& g) {
  Scores(tile, g.k, tile.stride, g.q_columns, g.scores);
  Scores(tile, g.v, tile.stride, g.dout_columns, g.dscores);
  if (tile.mask.threshold == 0) {
    SoftmaxBackward<false>(tile, g);
  } else {
    SoftmaxBackward<true>(tile, g);
  }
  SumOverQueries(tile, g.scores, g.dout, tile.out_stride, g.dv);
  SumOverQueries(tile, g.dscores, g.q, tile.q_stride, g.dk);
  SumOverKeys(tile, g.dscores, g.k, {g.dq, tile.q_stride, !tile.first_keys});
}

}  // namespace

const AttentionTable DSRUN_ATTENTION = {
    .transpose = TransposeTile,
    .forward = ForwardTile,
    .backward = BackwardTile,
};

}  // namespace dsrun::worker
