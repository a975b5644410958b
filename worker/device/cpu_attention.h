// Causal attention on the CPU, one head of one sequence at a time, in tiles of queries x keys with
// a running softmax; the backward pass makes the probabilities again from the saved log-sum-exp
// (Dao et al., 2022). At most two tiles exist at a time, whatever the sequence length. A head is
// one thread's work, so its sums have one order.
//
// Thread-safe (no state but the loop table); callers bring scratch per thread.

#ifndef DSRUN_WORKER_DEVICE_CPU_ATTENTION_H_
#define DSRUN_WORKER_DEVICE_CPU_ATTENTION_H_

#include <cstdint>

#include "worker/device/kernels.h"
#include "worker/device/loop_table.h"

namespace dsrun::worker {

// One head of one sequence. Rows of q, k, v and their gradients are 3 width apart, those of out and
// dout `width` apart.
class HeadAttention {
 public:
  // `loops` must outlive this. `scratch`: AttentionScratchPerThread floats.
  HeadAttention(const SequenceShape& shape, const LoopTable& loops, float* scratch);

  void Forward(const float* q, const float* k, const float* v, float* out,
               float* log_sum_exp) const;  // (seq_length)
  void Backward(const float* q, const float* k, const float* v, const float* out,
                const float* log_sum_exp, const float* dout, float* dq, float* dk, float* dv) const;

 private:
  struct Tile;

  const int64_t length_;
  const int64_t head_size_;
  const int64_t width_;
  const float scale_;  // 1 / sqrt(head_size)
  const LoopTable& loops_;
  float* const scores_;   // (kAttentionQueries, kAttentionKeys)
  float* const dscores_;  // (kAttentionQueries, kAttentionKeys)
  float* const rows_;     // (2, kAttentionQueries)
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_ATTENTION_H_
