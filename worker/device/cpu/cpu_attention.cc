#include "worker/device/cpu/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/model/layer_plan.h"
#include "common/numerics/portable_math.h"
#include "worker/device/cpu/cpu_loops.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kQueries = kAttentionQueries;
constexpr int64_t kKeys = kAttentionKeys;
// No tile of keys begins inside a tile of queries, and tiles begin at whole vectors.
static_assert(kQueries == kTileStride && kKeys % kQueries == 0 && kQueries % 16 == 0);

}  // namespace

HeadAttention::HeadAttention(const HeadRows& rows, CpuIsa isa, float* scratch)
    : rows_of_(rows),
      length_(rows.length),
      head_size_(rows.head_size),
      scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(rows.head_size)))),
      loops_(LoopsFor(isa)),
      tiles_(AttentionFor(isa)),
      scores_(scratch),
      dscores_(scores_ + kQueries * kKeys),
      q_columns_(dscores_ + kQueries * kKeys),
      dout_columns_(q_columns_ + kQueries * head_size_),
      rows_(dout_columns_ + kQueries * head_size_) {}

AttentionTile HeadAttention::Tile(const HeadMask& mask, int64_t q0, int64_t k0) const {
  const int64_t queries = std::min(kQueries, length_ - q0);
  return {.queries = queries,
          .keys = std::min(kKeys, q0 + queries - k0),
          .behind = q0 - k0,
          .window = rows_of_.window,
          .head_size = head_size_,
          .q_stride = rows_of_.q_stride,
          .stride = rows_of_.kv_stride,
          .out_stride = rows_of_.out_stride,
          .first_keys = k0 == FirstKey(q0),
          .first_queries = q0 + queries == length_,  // backward begins with the last queries
          .mask = {.key = {mask.key[0], mask.key[1]},
                   .threshold = mask.threshold,
                   .scale = mask.scale,
                   .head = static_cast<uint32_t>(mask.head),
                   .query = q0,
                   .of_key = k0}};
}

int64_t HeadAttention::FirstKey(int64_t q0) const {
  if (rows_of_.window == 0) return 0;
  return std::max<int64_t>(0, q0 - rows_of_.window + 1) / kQueries * kQueries;
}

void HeadAttention::Forward(const HeadMask& mask, const float* q, const float* k, const float* v,
                            float* out, float* log_sum_exp) const {
  const int64_t stride = rows_of_.q_stride;
  const int64_t kv_stride = rows_of_.kv_stride;
  const int64_t out_stride = rows_of_.out_stride;
  float* const maximum = rows_;
  float* const sum = rows_ + kQueries;
  for (int64_t q0 = 0; q0 < length_; q0 += kQueries) {
    const int64_t queries = std::min(kQueries, length_ - q0);
    float* const out_tile = out + q0 * out_stride;
    std::fill_n(maximum, kQueries, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, kQueries, 0.0f);
    tiles_.transpose(queries, head_size_, stride, q + q0 * stride, scale_, q_columns_);
    for (int64_t k0 = FirstKey(q0); k0 < q0 + queries; k0 += kKeys) {
      tiles_.forward(Tile(mask, q0, k0), q_columns_, k + k0 * kv_stride, v + k0 * kv_stride,
                     scores_, maximum, sum, out_tile);
    }
    for (int64_t i = 0; i < queries; ++i) {
      loops_.scale(head_size_, mask.scale / sum[i], out_tile + i * out_stride);
    }
    // Apart from the calls above, so that several logarithms are under way at once.
    for (int64_t i = 0; i < queries; ++i) {
      log_sum_exp[q0 + i] = static_cast<float>(double{maximum[i]} + PortableLog(double{sum[i]}));
    }
  }
}

void HeadAttention::Backward(const HeadMask& mask, const float* q, const float* k, const float* v,
                             const float* out, const float* log_sum_exp, const float* dout,
                             bool first_of_keys, float* dq, float* dk, float* dv) const {
  const int64_t stride = rows_of_.q_stride;
  const int64_t kv_stride = rows_of_.kv_stride;
  const int64_t out_stride = rows_of_.out_stride;
  float* const shifts = rows_;
  float* const delta = rows_ + kQueries;
  // The last queries see every key: they store the gradients of keys and values, earlier ones add.
  // Where there is a window they do not, and all add to zero.
  const bool store = first_of_keys && rows_of_.window == 0;
  for (int64_t row = 0; row < length_ && first_of_keys && !store; ++row) {
    std::fill_n(dk + row * kv_stride, head_size_, 0.0f);
    std::fill_n(dv + row * kv_stride, head_size_, 0.0f);
  }
  for (int64_t q0 = (length_ - 1) / kQueries * kQueries; q0 >= 0; q0 -= kQueries) {
    const int64_t queries = std::min(kQueries, length_ - q0);
    std::fill_n(rows_, 2 * kQueries, 0.0f);
    std::copy_n(log_sum_exp + q0, queries, shifts);
    for (int64_t i = 0; i < queries; ++i) {
      delta[i] = loops_.dot(head_size_, out + (q0 + i) * out_stride, dout + (q0 + i) * out_stride);
    }
    tiles_.transpose(queries, head_size_, stride, q + q0 * stride, scale_, q_columns_);
    tiles_.transpose(queries, head_size_, out_stride, dout + q0 * out_stride, 1, dout_columns_);
    for (int64_t k0 = FirstKey(q0); k0 < q0 + queries; k0 += kKeys) {
      AttentionTile tile = Tile(mask, q0, k0);
      tile.first_queries = tile.first_queries && store;
      tiles_.backward(tile, {.q = q + q0 * stride,
                             .k = k + k0 * kv_stride,
                             .v = v + k0 * kv_stride,
                             .dout = dout + q0 * out_stride,
                             .q_columns = q_columns_,
                             .dout_columns = dout_columns_,
                             .log_sum_exp = shifts,
                             .delta = delta,
                             .scale = scale_,
                             .scores = scores_,
                             .dscores = dscores_,
                             .dq = dq + q0 * stride,
                             .dk = dk + k0 * kv_stride,
                             .dv = dv + k0 * kv_stride});
    }
  }
}

}  // namespace dsrun::worker
