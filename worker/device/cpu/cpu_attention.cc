#include "worker/device/cpu/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/model/layer_plan.h"
#include "worker/device/cpu/cpu_loops.h"
#include "worker/device/portable_log.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kQueries = kAttentionQueries;
constexpr int64_t kKeys = kAttentionKeys;
// No tile of keys begins inside a tile of queries, and tiles begin at whole vectors.
static_assert(kQueries == kTileStride && kKeys % kQueries == 0 && kQueries % 16 == 0);

}  // namespace

HeadAttention::HeadAttention(const SequenceShape& shape, CpuIsa isa, float* scratch)
    : length_(shape.seq_length),
      head_size_(shape.head_size()),
      width_(shape.width),
      scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_size())))),
      loops_(LoopsFor(isa)),
      tiles_(AttentionFor(isa)),
      scores_(scratch),
      dscores_(scores_ + kQueries * kKeys),
      q_columns_(dscores_ + kQueries * kKeys),
      dout_columns_(q_columns_ + kQueries * head_size_),
      rows_(dout_columns_ + kQueries * head_size_) {}

AttentionTile HeadAttention::Tile(int64_t q0, int64_t k0) const {
  const int64_t queries = std::min(kQueries, length_ - q0);
  return {.queries = queries,
          .keys = std::min(kKeys, q0 + queries - k0),
          .behind = q0 - k0,
          .head_size = head_size_,
          .stride = 3 * width_,
          .out_stride = width_,
          .first_keys = k0 == 0,
          .first_queries = q0 + queries == length_};  // backward begins with the last queries
}

void HeadAttention::Forward(const float* q, const float* k, const float* v, float* out,
                            float* log_sum_exp) const {
  const int64_t stride = 3 * width_;
  float* const maximum = rows_;
  float* const sum = rows_ + kQueries;
  for (int64_t q0 = 0; q0 < length_; q0 += kQueries) {
    const int64_t queries = std::min(kQueries, length_ - q0);
    float* const out_tile = out + q0 * width_;
    std::fill_n(maximum, kQueries, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, kQueries, 0.0f);
    tiles_.transpose(queries, head_size_, stride, q + q0 * stride, scale_, q_columns_);
    for (int64_t k0 = 0; k0 < q0 + queries; k0 += kKeys) {
      tiles_.forward(Tile(q0, k0), q_columns_, k + k0 * stride, v + k0 * stride, scores_, maximum,
                     sum, out_tile);
    }
    for (int64_t i = 0; i < queries; ++i) {
      loops_.scale(head_size_, 1.0f / sum[i], out_tile + i * width_);
    }
    // Apart from the calls above, so that several logarithms are under way at once.
    for (int64_t i = 0; i < queries; ++i) {
      log_sum_exp[q0 + i] = static_cast<float>(double{maximum[i]} + PortableLog(double{sum[i]}));
    }
  }
}

void HeadAttention::Backward(const float* q, const float* k, const float* v, const float* out,
                             const float* log_sum_exp, const float* dout, float* dq, float* dk,
                             float* dv) const {
  const int64_t stride = 3 * width_;
  float* const shifts = rows_;
  float* const delta = rows_ + kQueries;
  // The last queries see every key: they store the gradients of keys and values, earlier ones add.
  for (int64_t q0 = (length_ - 1) / kQueries * kQueries; q0 >= 0; q0 -= kQueries) {
    const int64_t queries = std::min(kQueries, length_ - q0);
    std::fill_n(rows_, 2 * kQueries, 0.0f);
    std::copy_n(log_sum_exp + q0, queries, shifts);
    for (int64_t i = 0; i < queries; ++i) {
      delta[i] = loops_.dot(head_size_, out + (q0 + i) * width_, dout + (q0 + i) * width_);
    }
    tiles_.transpose(queries, head_size_, stride, q + q0 * stride, scale_, q_columns_);
    tiles_.transpose(queries, head_size_, width_, dout + q0 * width_, 1, dout_columns_);
    for (int64_t k0 = 0; k0 < q0 + queries; k0 += kKeys) {
      tiles_.backward(Tile(q0, k0), {.q = q + q0 * stride,
                                     .k = k + k0 * stride,
                                     .v = v + k0 * stride,
                                     .dout = dout + q0 * width_,
                                     .q_columns = q_columns_,
                                     .dout_columns = dout_columns_,
                                     .log_sum_exp = shifts,
                                     .delta = delta,
                                     .scale = scale_,
                                     .scores = scores_,
                                     .dscores = dscores_,
                                     .dq = dq + q0 * stride,
                                     .dk = dk + k0 * stride,
                                     .dv = dv + k0 * stride});
    }
  }
}

}  // namespace dsrun::worker
