#include "worker/device/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/plan/activation_plan.h"
#include "worker/device/cpu_matmul.h"
#include "worker/device/log.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kQueries = kAttentionQueries;
constexpr int64_t kKeys = kAttentionKeys;

}  // namespace

// Queries [q0, q0 + queries) against keys [k0, k0 + keys).
struct HeadAttention::Tile {
  int64_t q0;
  int64_t queries;
  int64_t k0;
  int64_t keys;

  // How many of the tile's keys query q0 + i may see.
  int64_t Visible(int64_t i) const { return std::clamp<int64_t>(q0 + i + 1 - k0, 0, keys); }
};

HeadAttention::HeadAttention(const SequenceShape& shape, const LoopTable& loops, float* scratch)
    : length_(shape.seq_length),
      head_size_(shape.head_size()),
      width_(shape.width),
      scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_size())))),
      loops_(loops),
      scores_(scratch),
      dscores_(scratch + kQueries * kKeys),
      rows_(scratch + 2 * kQueries * kKeys) {}

void HeadAttention::Forward(const float* q, const float* k, const float* v, float* out,
                            float* log_sum_exp) const {
  float* const maximum = rows_;
  float* const sum = rows_ + kQueries;
  for (int64_t q0 = 0; q0 < length_; q0 += kQueries) {
    const int64_t queries = std::min(kQueries, length_ - q0);
    float* const out_tile = out + q0 * width_;
    std::fill_n(maximum, queries, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, queries, 0.0f);
    for (int64_t k0 = 0; k0 < q0 + queries; k0 += kKeys) {
      const Tile tile{q0, queries, k0, std::min(kKeys, q0 + queries - k0)};
      SerialMatmul(queries, tile.keys, head_size_, scale_, {q + q0 * 3 * width_, 3 * width_},
                   {k + k0 * 3 * width_, 3 * width_, true}, 0, scores_, kKeys);
      for (int64_t i = 0; i < queries; ++i) {
        float* const row = scores_ + i * kKeys;
        const int64_t visible = tile.Visible(i);
        if (visible == 0) {  // only where a key tile begins inside a query tile
          std::fill_n(row, tile.keys, 0.0f);
          continue;
        }
        const float factor = loops_.softmax_row(visible, tile.keys, row, &maximum[i], &sum[i]);
        if (k0 > 0) loops_.scale(head_size_, factor, out_tile + i * width_);
      }
      SerialMatmul(queries, head_size_, tile.keys, 1, {scores_, kKeys},
                   {v + k0 * 3 * width_, 3 * width_}, k0 > 0 ? 1.0f : 0.0f, out_tile, width_);
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
  const int64_t last_q0 = (length_ - 1) / kQueries * kQueries;
  // The last queries see every key: they store the gradients of keys and values, earlier ones add.
  for (int64_t q0 = last_q0; q0 >= 0; q0 -= kQueries) {
    const int64_t queries = std::min(kQueries, length_ - q0);
    const float add_keys = q0 == last_q0 ? 0.0f : 1.0f;
    const Operand q_tile{q + q0 * stride, stride};
    const Operand dout_tile{dout + q0 * width_, width_};
    float* const delta = rows_;
    for (int64_t i = 0; i < queries; ++i) {
      delta[i] = loops_.dot(head_size_, out + (q0 + i) * width_, dout + (q0 + i) * width_);
    }
    for (int64_t k0 = 0; k0 < q0 + queries; k0 += kKeys) {
      const Tile tile{q0, queries, k0, std::min(kKeys, q0 + queries - k0)};
      SerialMatmul(queries, tile.keys, head_size_, scale_, q_tile, {k + k0 * stride, stride, true},
                   0, scores_, kKeys);
      SerialMatmul(queries, tile.keys, head_size_, 1, dout_tile, {v + k0 * stride, stride, true}, 0,
                   dscores_, kKeys);
      for (int64_t i = 0; i < queries; ++i) {
        loops_.softmax_backward_row(tile.Visible(i), tile.keys, log_sum_exp[q0 + i], delta[i],
                                    scale_, scores_ + i * kKeys, dscores_ + i * kKeys);
      }
      SerialMatmul(tile.keys, head_size_, queries, 1, {scores_, kKeys, true}, dout_tile, add_keys,
                   dv + k0 * stride, stride);
      SerialMatmul(tile.keys, head_size_, queries, 1, {dscores_, kKeys, true}, q_tile, add_keys,
                   dk + k0 * stride, stride);
      SerialMatmul(queries, head_size_, tile.keys, 1, {dscores_, kKeys}, {k + k0 * stride, stride},
                   k0 > 0 ? 1.0f : 0.0f, dq + q0 * stride, stride);
    }
  }
}

}  // namespace dsrun::worker
