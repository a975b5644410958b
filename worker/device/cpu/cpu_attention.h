// Causal attention on the CPU, one head of one sequence at a time, in tiles of queries x keys with
// a running softmax; the backward pass makes the probabilities again from the saved log-sum-exp
// (Dao et al., 2022). At most two tiles exist at a time, whatever the sequence length. A head is
// one thread's work, so its sums have one order. The arithmetic of a tile: attention_tile.h.
//
// Thread-safe (no state but the tables); callers bring scratch per thread.

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_ATTENTION_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_ATTENTION_H_

#include <cstdint>

#include "common/base/cpu_isa.h"
#include "common/base/philox.h"
#include "worker/device/cpu/attention_tile.h"
#include "worker/device/cpu/loop_table.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

// Where the rows of one head of one sequence are, in floats from one to the next.
struct HeadRows {
  int64_t length;
  int64_t head_size;
  int64_t q_stride;    // of q and dq
  int64_t kv_stride;   // of k, v, dk, dv
  int64_t out_stride;  // of out and dout
  int64_t window;      // 0, or the number of keys that a query sees, itself the last
};

// Which of its probabilities are dropped: the mask's key of the sequence.
struct HeadMask {
  PhiloxKey key = {};
  uint32_t threshold = 0;  // 0: none
  float scale = 1;
  int64_t head = 0;  // of queries
};

// One head of one sequence.
class HeadAttention {
 public:
  // `scratch`: AttentionScratch(head_size) floats. REQUIRES: this CPU has `isa`.
  HeadAttention(const HeadRows& rows, CpuIsa isa, float* scratch);

  void Forward(const HeadMask& mask, const float* q, const float* k, const float* v, float* out,
               float* log_sum_exp) const;  // (seq_length)
  // first_of_keys: dk and dv are overwritten; otherwise another head of queries has added to them.
  void Backward(const HeadMask& mask, const float* q, const float* k, const float* v,
                const float* out, const float* log_sum_exp, const float* dout, bool first_of_keys,
                float* dq, float* dk, float* dv) const;

 private:
  // Queries from q0 on against keys from k0 on.
  AttentionTile Tile(const HeadMask& mask, int64_t q0, int64_t k0) const;
  // Where the keys begin that queries from q0 on see: a multiple of the queries of a tile, and
  // every query sees a key of the first tile.
  int64_t FirstKey(int64_t q0) const;

  const HeadRows rows_of_;
  const int64_t length_;
  const int64_t head_size_;
  const float scale_;  // 1 / sqrt(head_size)
  const LoopTable& loops_;
  const AttentionTable& tiles_;
  float* const scores_;        // (kAttentionKeys, kAttentionQueries)
  float* const dscores_;       // (kAttentionKeys, kAttentionQueries)
  float* const q_columns_;     // (head_size, kAttentionQueries)
  float* const dout_columns_;  // (head_size, kAttentionQueries)
  float* const rows_;          // (2, kAttentionQueries)
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_ATTENTION_H_
