// CpuKernels: Kernels on host memory. Matrix products by oneDNN in our tiles (cpu_matmul; of 16
// bits: cpu_half_matmul), our own vectorised loops (cpu_loops) around them; what follows a product
// is done tile by tile while the tile is in the cache. Work is cut into pieces that write disjoint
// outputs, so no sum crosses a thread.

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_KERNELS_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_KERNELS_H_

#include <cstdint>

#include "common/base/cpu_isa.h"
#include "common/base/dtype.h"
#include "common/base/range.h"
#include "common/numerics/fingerprint.h"
#include "worker/device/cpu/cpu_half_matmul.h"
#include "worker/device/cpu/cpu_loops.h"
#include "worker/device/cpu/cpu_matmul.h"
#include "worker/device/cpu/inline_stream.h"
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

  void EmbeddingForward(const SequenceShape& shape, const int32_t* tokens, ConstReals token_table,
                        ConstReals position_table, Reals out) override;
  void EmbeddingBackward(const SequenceShape& shape, int64_t vocab_size, int64_t positions,
                         const int32_t* tokens, ConstReals dout, float* dtoken_table,
                         float* dposition_table) override;

  void LayerNormForward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                        ConstReals bias, Reals out, float* mean, float* rstd) override;
  void LayerNormBackward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                         const float* mean, const float* rstd, ConstReals dout, ConstReals residual,
                         Reals dx, float* dweight, float* dbias) override;

  void RmsNormForward(int64_t rows, int64_t width, float epsilon, ConstReals x, ConstReals weight,
                      Reals out, float* rstd) override;
  void RmsNormBackward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                       const float* rstd, ConstReals dout, ConstReals residual, Reals dx,
                       float* dweight) override;

  void RotaryForward(const RotaryShape& shape, const float* cosines, const float* sines,
                     Reals x) override;
  void RotaryBackward(const RotaryShape& shape, const float* cosines, const float* sines,
                      Reals dx) override;

  void LinearForward(const LinearShape& shape, ConstReals x, ConstReals w, ConstReals bias,
                     Reals out) override;
  void LinearResidualForward(const LinearShape& shape, ConstReals x, ConstReals w, ConstReals bias,
                             ConstReals residual, Reals out) override;
  void LinearDropoutResidualForward(const LinearShape& shape, int64_t rows_of_sample,
                                    const DropoutMask& mask, ConstReals x, ConstReals w,
                                    ConstReals bias, ConstReals residual, Reals out) override;
  void LinearGeluForward(const LinearShape& shape, ConstReals x, ConstReals w, ConstReals bias,
                         Reals slope, Reals out) override;
  void LinearBackwardInput(const LinearShape& shape, ConstReals dout, ConstReals w,
                           Reals dx) override;
  void AccumulateLinearBackwardInput(const LinearShape& shape, ConstReals dout, ConstReals w,
                                     Reals dx) override;
  void LinearBackwardInputGelu(const LinearShape& shape, ConstReals dout, ConstReals w,
                               ConstReals slope, Reals dpre) override;
  void LinearBackwardWeight(const LinearShape& shape, ConstReals x, ConstReals dout,
                            float* dw) override;
  void LinearBackwardBias(const LinearShape& shape, ConstReals dout, float* dbias) override;

  void HeadForward(const HeadShape& shape, ConstReals x, ConstReals token_table,
                   float* logits) override;
  void HeadBackwardInput(const HeadShape& shape, const float* dlogits, ConstReals token_table,
                         Reals dx) override;
  void HeadBackwardWeight(const HeadShape& shape, const float* dlogits, ConstReals x,
                          float* dtoken_table) override;
  void AccumulateHeadBackwardWeight(const HeadShape& shape, const float* dlogits, ConstReals x,
                                    float* dtoken_table) override;

  void SwiGluForward(int64_t n, ConstReals gate, ConstReals up, Reals out) override;
  void SwiGluBackward(int64_t n, ConstReals gate, ConstReals up, ConstReals dout, Reals dgate,
                      Reals dup) override;
  void Dropout(const SequenceShape& shape, const DropoutMask& mask, ConstReals x,
               Reals out) override;
  void Accumulate(int64_t n, const float* src, float* dst) override;
  void Cast(int64_t n, const float* x, Reals out) override;

  void StoreFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                  uint32_t* magnitude) override;
  void AccumulateFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                       uint32_t* magnitude) override;
  void AccumulateSums(int64_t n, const uint64_t* src, uint64_t* dst) override;
  void RoundFixed(int64_t n, int scale, const uint64_t* sums, float* out) override;

  int64_t AttentionScratch(const SequenceShape& shape, DType dtype) const override;
  void AttentionForward(const SequenceShape& shape, const DropoutMask& mask, ConstReals qkv,
                        float* scratch, Reals out, float* log_sum_exp) override;
  void AttentionBackward(const SequenceShape& shape, const DropoutMask& mask, ConstReals qkv,
                         ConstReals out, const float* log_sum_exp, ConstReals dout, float* scratch,
                         Reals dqkv) override;

  void GroupedAttentionForward(const GroupedAttentionShape& shape, const DropoutMask& mask,
                               ConstReals q, ConstReals k, ConstReals v, float* scratch, Reals out,
                               float* log_sum_exp) override;
  void GroupedAttentionBackward(const GroupedAttentionShape& shape, const DropoutMask& mask,
                                ConstReals q, ConstReals k, ConstReals v, ConstReals out,
                                const float* log_sum_exp, ConstReals dout, float* scratch, Reals dq,
                                Reals dk, Reals dv) override;

  void CrossEntropy(const HeadShape& shape, float gradient_scale, const int32_t* targets,
                    float* logits, double* losses) override;

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
  // Of the pieces that loops are cut into: large enough that handing one out costs nothing, whole
  // leaves and cache lines. It decides no bits.
  static constexpr int64_t kElementPiece = 1 << 14;

  // body(begin, end) over pieces of [0, n) of `piece` elements.
  template <typename Body>
  void ForPieces(int64_t n, int64_t piece, const Body& body) {
    pool_.ParallelFor((n + piece - 1) / piece, [&](int64_t index, int) {
      const int64_t begin = index * piece;
      body(begin, begin + piece < n ? begin + piece : n);
    });
  }

  // Loops for arrays of the type of this one.
  const RealLoops& LoopsOf(ConstReals x) const { return worker::LoopsOf(loops_, x.dtype()); }

  // The tile of a product, fp32, to be stored in `out` by the loops of its type.
  struct Tile {
    const float* Row(int64_t row) const { return data + (row - rows.begin) * stride; }
    Range rows;
    Range columns;
    const float* data;
    int64_t stride;
  };
  // store(tile), which is `work`, for each tile of a (m, k) b (k, n); of fp32 the tile stands in
  // `out` (m, n) already.
  template <typename Store>
  void Product(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, Reals out,
               TileWork work, const Store& store) {
    if (out.dtype() != DType::kF32) {
      half_matmul_.Run(m, n, k, a, b, work,
                       [&](Range rows, Range columns, const float* tile, int64_t stride) {
                         store(Tile{rows, columns, tile, stride});
                       });
      return;
    }
    matmul_.Run(m, n, k, a, b, out.f32(), n, work, [&](Range rows, Range columns) {
      store(Tile{rows, columns, out.f32() + rows.begin * n + columns.begin, n});
    });
  }
  // out = the product, rounded.
  void ProductAlone(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, Reals out);
  // out (m, n; rows apart by `stride`) = beta out + a b, of operands of type `dtype`; beta 0 or 1.
  void ProductToFloats(DType dtype, int64_t m, int64_t n, int64_t k, const Operand& a,
                       const Operand& b, float beta, float* out, int64_t stride);

  // By `direction` times the angle.
  void Rotate(const RotaryShape& shape, const float* cosines, const float* sines, float direction,
              Reals x);

  using FixedLoop = uint32_t (*)(int64_t, int, const float*, uint64_t*);
  void RunFixed(FixedLoop loop, int64_t n, int scale, const float* x, uint64_t* sums,
                uint32_t* raised);

  InlineStream stream_;
  ThreadPool& pool_;
  const CpuIsa isa_;
  const LoopTable& loops_;
  TiledMatmul matmul_;
  HalfMatmul half_matmul_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_KERNELS_H_
