// TypedAttention: HeadAttention (cpu_attention.h) for heads of any type that a model computes in.
// fp32 is passed through. A head of 16 bits becomes fp32 in scratch, all of it, the same arithmetic
// runs, and results are rounded once, at the end: sums over tiles, and over the heads of queries
// that share a head of keys, are fp32 until then.
//
// Threads: as HeadAttention.

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_TYPED_ATTENTION_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_TYPED_ATTENTION_H_

#include <cstdint>

#include "common/base/cpu_isa.h"
#include "common/base/dtype.h"
#include "worker/device/cpu/cpu_attention.h"
#include "worker/device/cpu/loop_table.h"
#include "worker/device/reals.h"

namespace dsrun::worker {

// Floats of scratch that a thread needs.
int64_t TypedAttentionScratch(int64_t head_size, int64_t length, DType dtype);

class TypedAttention {
 public:
  // `scratch`: TypedAttentionScratch floats. REQUIRES: this CPU has `isa`.
  TypedAttention(const HeadRows& rows, CpuIsa isa, DType dtype, float* scratch);

  // As HeadAttention's.
  void Forward(const HeadMask& mask, ConstReals q, ConstReals k, ConstReals v, Reals out,
               float* log_sum_exp) const;
  // Heads of queries that share a head of keys come one after the other, on one thread; dk and dv
  // are theirs together, written by the last.
  struct Turn {
    bool first;
    bool last;
  };
  void Backward(const HeadMask& mask, ConstReals q, ConstReals k, ConstReals v, ConstReals out,
                const float* log_sum_exp, ConstReals dout, Turn turn, Reals dq, Reals dk,
                Reals dv) const;

 private:
  enum Copy { kQ, kK, kV, kOut, kDOut, kDQ, kDK, kDV };
  float* At(Copy copy) const { return copies_ + copy * rows_.length * rows_.head_size; }
  // Between the head in its array, a row every `stride` elements, and the copy, which is dense.
  float* Widen(ConstReals x, int64_t stride, Copy copy) const;
  void Round(Copy copy, int64_t stride, Reals out) const;

  const HeadRows rows_;
  const DType dtype_;
  const RealLoops& loops_;
  const HeadAttention attention_;  // of the arrays, or of the copies
  float* const copies_;            // (8, length, head_size)
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_TYPED_ATTENTION_H_
