// CpuKernels: Kernels on host memory. Matrix products by oneDNN in our tiles (cpu_matmul), our own
// vectorised loops (cpu_loops) around them; what follows a product is done tile by tile while the
// tile is in the cache. Work is cut into pieces that write disjoint outputs, so no sum crosses a
// thread.

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_KERNELS_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_KERNELS_H_

#include <cstdint>

#include "common/base/cpu_isa.h"
#include "common/numerics/fingerprint.h"
#include "worker/device/cpu/cpu_matmul.h"
#include "worker/device/cpu/inline_stream.h"
#include "worker/device/cpu/loop_table.h"
#include "worker/device/cpu/thread_pool.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

class CpuKernels final : public Kernels {
 public:
  // `pool` must outlive this. `isa` is that of our loops; CapLibraryIsa sets the library's.
  // REQUIRES: this CPU has `isa`.
  CpuKernels(ThreadPool& pool, CpuIsa isa);

  Stream& stream() override { return stream_; }
  NumericsFingerprint Fingerprint() const override;

  void EmbeddingForward(const SequenceShape& shape, const int32_t* tokens, const float* token_table,
                        const float* position_table, float* out) override;
  void EmbeddingBackward(const SequenceShape& shape, int64_t vocab_size, int64_t positions,
                         const int32_t* tokens, const float* dout, float* dtoken_table,
                         float* dposition_table) override;

  void LayerNormForward(int64_t rows, int64_t width, const float* x, const float* weight,
                        const float* bias, float* out, float* mean, float* rstd) override;
  void LayerNormBackward(int64_t rows, int64_t width, const float* x, const float* weight,
                         const float* mean, const float* rstd, const float* dout,
                         const float* residual, float* dx, float* dweight, float* dbias) override;

  void RmsNormForward(int64_t rows, int64_t width, float epsilon, const float* x,
                      const float* weight, float* out, float* rstd) override;
  void RmsNormBackward(int64_t rows, int64_t width, const float* x, const float* weight,
                       const float* rstd, const float* dout, const float* residual, float* dx,
                       float* dweight) override;

  void RotaryForward(const RotaryShape& shape, const float* cosines, const float* sines,
                     float* x) override;
  void RotaryBackward(const RotaryShape& shape, const float* cosines, const float* sines,
                      float* dx) override;

  void LinearForward(const LinearShape& shape, const float* x, const float* w, const float* bias,
                     float* out) override;
  void LinearResidualForward(const LinearShape& shape, const float* x, const float* w,
                             const float* bias, const float* residual, float* out) override;
  void LinearGeluForward(const LinearShape& shape, const float* x, const float* w,
                         const float* bias, float* slope, float* out) override;
  void LinearBackwardInput(const LinearShape& shape, const float* dout, const float* w,
                           float* dx) override;
  void AccumulateLinearBackwardInput(const LinearShape& shape, const float* dout, const float* w,
                                     float* dx) override;
  void LinearBackwardInputGelu(const LinearShape& shape, const float* dout, const float* w,
                               const float* slope, float* dpre) override;
  void LinearBackwardWeight(const LinearShape& shape, const float* x, const float* dout,
                            float* dw) override;
  void LinearBackwardBias(const LinearShape& shape, const float* dout, float* dbias) override;

  void HeadForward(const HeadShape& shape, const float* x, const float* token_table,
                   float* logits) override;
  void HeadBackwardInput(const HeadShape& shape, const float* dlogits, const float* token_table,
                         float* dx) override;
  void HeadBackwardWeight(const HeadShape& shape, const float* dlogits, const float* x,
                          float* dtoken_table) override;
  void AccumulateHeadBackwardWeight(const HeadShape& shape, const float* dlogits, const float* x,
                                    float* dtoken_table) override;

  void SwiGluForward(int64_t n, const float* gate, const float* up, float* out) override;
  void SwiGluBackward(int64_t n, const float* gate, const float* up, const float* dout,
                      float* dgate, float* dup) override;
  void Accumulate(int64_t n, const float* src, float* dst) override;

  void StoreFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                  uint32_t* magnitude) override;
  void AccumulateFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                       uint32_t* magnitude) override;
  void AccumulateSums(int64_t n, const uint64_t* src, uint64_t* dst) override;
  void RoundFixed(int64_t n, int scale, const uint64_t* sums, float* out) override;

  int64_t AttentionScratch(const SequenceShape& shape) const override;
  void AttentionForward(const SequenceShape& shape, const float* qkv, float* scratch, float* out,
                        float* log_sum_exp) override;
  void AttentionBackward(const SequenceShape& shape, const float* qkv, const float* out,
                         const float* log_sum_exp, const float* dout, float* scratch,
                         float* dqkv) override;

  void GroupedAttentionForward(const GroupedAttentionShape& shape, const float* q, const float* k,
                               const float* v, float* scratch, float* out,
                               float* log_sum_exp) override;
  void GroupedAttentionBackward(const GroupedAttentionShape& shape, const float* q, const float* k,
                                const float* v, const float* out, const float* log_sum_exp,
                                const float* dout, float* scratch, float* dq, float* dk,
                                float* dv) override;

  void CrossEntropy(const HeadShape& shape, const int32_t* targets, float* logits,
                    double* losses) override;

  void AdamW(int64_t n, const AdamWArguments& arguments, const float* grad, float* param, float* m,
             float* v) override;
  void Adam(int64_t n, const AdamWArguments& arguments, const float* grad, float* param, float* m,
            float* v) override;
  void LambDirection(int64_t n, const AdamWArguments& arguments, const float* param, float* grad,
                     float* m, float* v) override;
  void Descend(int64_t n, float rate, const float* direction, float* param) override;
  void Lion(int64_t n, const LionArguments& arguments, const float* grad, float* param,
            float* m) override;
  void Adagrad(int64_t n, const AdagradArguments& arguments, const float* grad, float* param,
               float* sum) override;
  void Sgd(int64_t n, const SgdArguments& arguments, const float* grad, float* param) override;
  void SgdMomentum(int64_t n, const SgdArguments& arguments, const float* grad, float* param,
                   float* buffer) override;
  void MuonMomentum(int64_t n, const MuonArguments& arguments, float* grad, float* m) override;
  void DescendAndDecay(int64_t n, float rate, float decay, const float* direction,
                       float* param) override;
  void Scale(int64_t n, float factor, float* x) override;
  void MatrixProduct(const ProductShape& shape, const float* a, const float* b,
                     float* out) override;
  void MatrixPolynomial(int64_t size, const Quadratic& of, const float* x, float* out) override;
  void LeafSquares(int64_t leaves, const float* x, double* squares) override;

 private:
  // body(begin, end) over pieces of [0, n) of `piece` elements.
  template <typename Body>
  void ForPieces(int64_t n, int64_t piece, const Body& body) {
    pool_.ParallelFor((n + piece - 1) / piece, [&](int64_t index, int) {
      const int64_t begin = index * piece;
      body(begin, begin + piece < n ? begin + piece : n);
    });
  }

  // By `direction` times the angle.
  void Rotate(const RotaryShape& shape, const float* cosines, const float* sines, float direction,
              float* x);

  using FixedLoop = uint32_t (*)(int64_t, int, const float*, uint64_t*);
  void RunFixed(FixedLoop loop, int64_t n, int scale, const float* x, uint64_t* sums,
                uint32_t* raised);

  InlineStream stream_;
  ThreadPool& pool_;
  const CpuIsa isa_;
  const LoopTable& loops_;
  TiledMatmul matmul_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_KERNELS_H_
