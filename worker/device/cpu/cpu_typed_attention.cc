#include "worker/device/cpu/cpu_typed_attention.h"

#include "common/model/layer_plan.h"
#include "worker/device/cpu/cpu_loops.h"

namespace dsrun::worker {
namespace {

HeadRows Dense(const HeadRows& rows) {
  const int64_t size = rows.head_size;
  return {rows.length, size, size, size, size, rows.window};
}

}  // namespace

int64_t TypedAttentionScratch(int64_t head_size, int64_t length, DType dtype) {
  return AttentionScratch(head_size) +
         (dtype == DType::kF32 ? 0 : HalfAttentionScratch(head_size, length));
}

TypedAttention::TypedAttention(const HeadRows& rows, CpuIsa isa, DType dtype, float* scratch)
    : rows_(rows),
      dtype_(dtype),
      loops_(LoopsOf(LoopsFor(isa), dtype)),
      attention_(dtype == DType::kF32 ? rows : Dense(rows), isa, scratch),
      copies_(scratch + AttentionScratch(rows.head_size)) {}

float* TypedAttention::Widen(ConstReals x, int64_t stride, Copy copy) const {
  for (int64_t row = 0; row < rows_.length; ++row) {
    loops_.widen(rows_.head_size, (x + row * stride).data(), At(copy) + row * rows_.head_size);
  }
  return At(copy);
}

void TypedAttention::Round(Copy copy, int64_t stride, Reals out) const {
  for (int64_t row = 0; row < rows_.length; ++row) {
    loops_.round(rows_.head_size, At(copy) + row * rows_.head_size, (out + row * stride).data());
  }
}

void TypedAttention::Forward(const HeadMask& mask, ConstReals q, ConstReals k, ConstReals v,
                             Reals out, float* log_sum_exp) const {
  if (dtype_ == DType::kF32) {
    attention_.Forward(mask, q.f32(), k.f32(), v.f32(), out.f32(), log_sum_exp);
    return;
  }
  attention_.Forward(mask, Widen(q, rows_.q_stride, kQ), Widen(k, rows_.kv_stride, kK),
                     Widen(v, rows_.kv_stride, kV), At(kOut), log_sum_exp);
  Round(kOut, rows_.out_stride, out);
}

void TypedAttention::Backward(const HeadMask& mask, ConstReals q, ConstReals k, ConstReals v,
                              ConstReals out, const float* log_sum_exp, ConstReals dout, Turn turn,
                              Reals dq, Reals dk, Reals dv) const {
  if (dtype_ == DType::kF32) {
    attention_.Backward(mask, q.f32(), k.f32(), v.f32(), out.f32(), log_sum_exp, dout.f32(),
                        turn.first, dq.f32(), dk.f32(), dv.f32());
    return;
  }
  if (turn.first) {
    Widen(k, rows_.kv_stride, kK);
    Widen(v, rows_.kv_stride, kV);
  }
  attention_.Backward(mask, Widen(q, rows_.q_stride, kQ), At(kK), At(kV),
                      Widen(out, rows_.out_stride, kOut), log_sum_exp,
                      Widen(dout, rows_.out_stride, kDOut), turn.first, At(kDQ), At(kDK), At(kDV));
  Round(kDQ, rows_.q_stride, dq);
  if (turn.last) {
    Round(kDK, rows_.kv_stride, dk);
    Round(kDV, rows_.kv_stride, dv);
  }
}

}  // namespace dsrun::worker
