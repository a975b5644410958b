#include "tests/worker/device/lazy_kernels.h"

#include <cstdint>
#include <utility>

namespace dsrun::worker {
namespace {

// How many elements at a pointer.
template <typename T>
Touched Of(const T* begin, int64_t elements) {
  return {begin, static_cast<size_t>(elements) * sizeof(T)};
}

Touched Of(ConstReals begin, int64_t elements) {
  return {begin.data(), static_cast<size_t>(begin.bytes_of(elements))};
}
Touched Of(Reals begin, int64_t elements) { return Of(ConstReals(begin), elements); }
Touched FirstOf(ConstReals begin, int64_t elements) {
  Touched touched = Of(begin, elements);
  touched.and_rest = true;
  return touched;
}

class LazyKernels final : public Kernels {
 public:
  LazyKernels(std::shared_ptr<LazyDevice::Core> core, size_t lane, std::unique_ptr<Stream> stream,
              std::shared_ptr<Kernels> inner)
      : core_(std::move(core)),
        lane_(lane),
        stream_(std::move(stream)),
        held_(std::move(inner)),
        inner_(*held_) {}

  Stream& stream() override { return *stream_; }
  NumericsFingerprint Fingerprint() const override { return inner_.Fingerprint(); }
  int64_t AttentionScratch(const SequenceShape& shape, DType dtype) const override {
    return inner_.AttentionScratch(shape, dtype);
  }

  void EmbeddingForward(const SequenceShape& shape, const int32_t* tokens, ConstReals token_table,
                        ConstReals position_table, Reals out) override {
    core_->Enqueue(
        lane_, "EmbeddingForward",
        {Of(tokens, shape.rows()), FirstOf(token_table, shape.width),
         Of(position_table, shape.seq_length * shape.width), Of(out, shape.rows() * shape.width)},
        [=, this] { inner_.EmbeddingForward(shape, tokens, token_table, position_table, out); });
  }
  void EmbeddingBackward(const SequenceShape& shape, int64_t vocab_size, int64_t positions,
                         const int32_t* tokens, ConstReals dout, float* dtoken_table,
                         float* dposition_table) override {
    core_->Enqueue(
        lane_, "EmbeddingBackward",
        {Of(tokens, shape.rows()), Of(dout, shape.rows() * shape.width),
         Of(dtoken_table, vocab_size * shape.width), Of(dposition_table, positions * shape.width)},
        [=, this] {
          inner_.EmbeddingBackward(shape, vocab_size, positions, tokens, dout, dtoken_table,
                                   dposition_table);
        });
  }
  void LayerNormForward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                        ConstReals bias, Reals out, float* mean, float* rstd) override {
    core_->Enqueue(
        lane_, "LayerNormForward",
        {Of(x, rows * width), Of(weight, width), Of(bias, width), Of(out, rows * width),
         Of(mean, rows), Of(rstd, rows)},
        [=, this] { inner_.LayerNormForward(rows, width, x, weight, bias, out, mean, rstd); });
  }
  void LayerNormBackward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                         const float* mean, const float* rstd, ConstReals dout, ConstReals residual,
                         Reals dx, float* dweight, float* dbias) override {
    core_->Enqueue(lane_, "LayerNormBackward",
                   {Of(x, rows * width), Of(weight, width), Of(mean, rows), Of(rstd, rows),
                    Of(dout, rows * width), Of(residual, rows * width), Of(dx, rows * width),
                    Of(dweight, width), Of(dbias, width)},
                   [=, this] {
                     inner_.LayerNormBackward(rows, width, x, weight, mean, rstd, dout, residual,
                                              dx, dweight, dbias);
                   });
  }
  void LinearForward(const LinearShape& shape, ConstReals x, ConstReals w, ConstReals bias,
                     Reals out) override {
    core_->Enqueue(lane_, "LinearForward",
                   {Of(x, shape.rows * shape.inputs), Of(w, shape.inputs * shape.outputs),
                    Of(bias, shape.outputs), Of(out, shape.rows * shape.outputs)},
                   [=, this] { inner_.LinearForward(shape, x, w, bias, out); });
  }
  void LinearResidualForward(const LinearShape& shape, ConstReals x, ConstReals w, ConstReals bias,
                             ConstReals residual, Reals out) override {
    core_->Enqueue(lane_, "LinearResidualForward",
                   {Of(x, shape.rows * shape.inputs), Of(w, shape.inputs * shape.outputs),
                    Of(bias, shape.outputs), Of(residual, shape.rows * shape.outputs),
                    Of(out, shape.rows * shape.outputs)},
                   [=, this] { inner_.LinearResidualForward(shape, x, w, bias, residual, out); });
  }
  void LinearDropoutResidualForward(const LinearShape& shape, int64_t rows_of_sample,
                                    const DropoutMask& mask, ConstReals x, ConstReals w,
                                    ConstReals bias, ConstReals residual, Reals out) override {
    core_->Enqueue(lane_, "LinearDropoutResidualForward",
                   {Of(x, shape.rows * shape.inputs), Of(w, shape.inputs * shape.outputs),
                    Of(bias, shape.outputs), Of(residual, shape.rows * shape.outputs),
                    Of(out, shape.rows * shape.outputs)},
                   [=, this] {
                     inner_.LinearDropoutResidualForward(shape, rows_of_sample, mask, x, w, bias,
                                                         residual, out);
                   });
  }
  void Dropout(const SequenceShape& shape, const DropoutMask& mask, ConstReals x,
               Reals out) override {
    const int64_t n = shape.rows() * shape.width;
    core_->Enqueue(lane_, "Dropout", {Of(x, n), Of(out, n)},
                   [=, this] { inner_.Dropout(shape, mask, x, out); });
  }
  void LinearGeluForward(const LinearShape& shape, ConstReals x, ConstReals w, ConstReals bias,
                         Reals slope, Reals out) override {
    core_->Enqueue(lane_, "LinearGeluForward",
                   {Of(x, shape.rows * shape.inputs), Of(w, shape.inputs * shape.outputs),
                    Of(bias, shape.outputs), Of(slope, shape.rows * shape.outputs),
                    Of(out, shape.rows * shape.outputs)},
                   [=, this] { inner_.LinearGeluForward(shape, x, w, bias, slope, out); });
  }
  void LinearBackwardInput(const LinearShape& shape, ConstReals dout, ConstReals w,
                           Reals dx) override {
    core_->Enqueue(lane_, "LinearBackwardInput",
                   {Of(dout, shape.rows * shape.outputs), Of(w, shape.inputs * shape.outputs),
                    Of(dx, shape.rows * shape.inputs)},
                   [=, this] { inner_.LinearBackwardInput(shape, dout, w, dx); });
  }
  void AccumulateLinearBackwardInput(const LinearShape& shape, ConstReals dout, ConstReals w,
                                     Reals dx) override {
    core_->Enqueue(lane_, "AccumulateLinearBackwardInput",
                   {Of(dout, shape.rows * shape.outputs), Of(w, shape.inputs * shape.outputs),
                    Of(dx, shape.rows * shape.inputs)},
                   [=, this] { inner_.AccumulateLinearBackwardInput(shape, dout, w, dx); });
  }
  void RmsNormForward(int64_t rows, int64_t width, float epsilon, ConstReals x, ConstReals weight,
                      Reals out, float* rstd) override {
    core_->Enqueue(
        lane_, "RmsNormForward",
        {Of(x, rows * width), Of(weight, width), Of(out, rows * width), Of(rstd, rows)},
        [=, this] { inner_.RmsNormForward(rows, width, epsilon, x, weight, out, rstd); });
  }
  void RmsNormBackward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                       const float* rstd, ConstReals dout, ConstReals residual, Reals dx,
                       float* dweight) override {
    core_->Enqueue(lane_, "RmsNormBackward",
                   {Of(x, rows * width), Of(weight, width), Of(rstd, rows), Of(dout, rows * width),
                    Of(residual, rows * width), Of(dx, rows * width), Of(dweight, width)},
                   [=, this] {
                     inner_.RmsNormBackward(rows, width, x, weight, rstd, dout, residual, dx,
                                            dweight);
                   });
  }
  void RotaryForward(const RotaryShape& shape, const float* cosines, const float* sines,
                     Reals x) override {
    core_->Enqueue(lane_, "RotaryForward",
                   {Angles(shape, cosines), Angles(shape, sines), Of(x, Elements(shape))},
                   [=, this] { inner_.RotaryForward(shape, cosines, sines, x); });
  }
  void RotaryBackward(const RotaryShape& shape, const float* cosines, const float* sines,
                      Reals dx) override {
    core_->Enqueue(lane_, "RotaryBackward",
                   {Angles(shape, cosines), Angles(shape, sines), Of(dx, Elements(shape))},
                   [=, this] { inner_.RotaryBackward(shape, cosines, sines, dx); });
  }
  void SwiGluForward(int64_t n, ConstReals gate, ConstReals up, Reals out) override {
    core_->Enqueue(lane_, "SwiGluForward", {Of(gate, n), Of(up, n), Of(out, n)},
                   [=, this] { inner_.SwiGluForward(n, gate, up, out); });
  }
  void SwiGluBackward(int64_t n, ConstReals gate, ConstReals up, ConstReals dout, Reals dgate,
                      Reals dup) override {
    core_->Enqueue(lane_, "SwiGluBackward",
                   {Of(gate, n), Of(up, n), Of(dout, n), Of(dgate, n), Of(dup, n)},
                   [=, this] { inner_.SwiGluBackward(n, gate, up, dout, dgate, dup); });
  }
  void GroupedAttentionForward(const GroupedAttentionShape& shape, const DropoutMask& mask,
                               ConstReals q, ConstReals k, ConstReals v, float* scratch, Reals out,
                               float* log_sum_exp) override {
    core_->Enqueue(
        lane_, "GroupedAttentionForward",
        {Queries(shape, q), Keys(shape, k), Keys(shape, v), Scratch(shape, q.dtype(), scratch),
         Queries(shape, out), Of(log_sum_exp, shape.rows() * shape.heads)},
        [=, this] {
          inner_.GroupedAttentionForward(shape, mask, q, k, v, scratch, out, log_sum_exp);
        });
  }
  void GroupedAttentionBackward(const GroupedAttentionShape& shape, const DropoutMask& mask,
                                ConstReals q, ConstReals k, ConstReals v, ConstReals out,
                                const float* log_sum_exp, ConstReals dout, float* scratch, Reals dq,
                                Reals dk, Reals dv) override {
    core_->Enqueue(
        lane_, "GroupedAttentionBackward",
        {Queries(shape, q), Keys(shape, k), Keys(shape, v), Queries(shape, out),
         Of(log_sum_exp, shape.rows() * shape.heads), Queries(shape, dout),
         Scratch(shape, q.dtype(), scratch), Queries(shape, dq), Keys(shape, dk), Keys(shape, dv)},
        [=, this] {
          inner_.GroupedAttentionBackward(shape, mask, q, k, v, out, log_sum_exp, dout, scratch, dq,
                                          dk, dv);
        });
  }
  void LinearBackwardInputGelu(const LinearShape& shape, ConstReals dout, ConstReals w,
                               ConstReals slope, Reals dpre) override {
    core_->Enqueue(lane_, "LinearBackwardInputGelu",
                   {Of(dout, shape.rows * shape.outputs), Of(w, shape.inputs * shape.outputs),
                    Of(slope, shape.rows * shape.inputs), Of(dpre, shape.rows * shape.inputs)},
                   [=, this] { inner_.LinearBackwardInputGelu(shape, dout, w, slope, dpre); });
  }
  void LinearBackwardWeight(const LinearShape& shape, ConstReals x, ConstReals dout,
                            float* dw) override {
    core_->Enqueue(lane_, "LinearBackwardWeight",
                   {Of(x, shape.rows * shape.inputs), Of(dout, shape.rows * shape.outputs),
                    Of(dw, shape.inputs * shape.outputs)},
                   [=, this] { inner_.LinearBackwardWeight(shape, x, dout, dw); });
  }
  void LinearBackwardBias(const LinearShape& shape, ConstReals dout, float* dbias) override {
    core_->Enqueue(lane_, "LinearBackwardBias",
                   {Of(dout, shape.rows * shape.outputs), Of(dbias, shape.outputs)},
                   [=, this] { inner_.LinearBackwardBias(shape, dout, dbias); });
  }
  void HeadForward(const HeadShape& shape, ConstReals x, ConstReals token_table,
                   float* logits) override {
    core_->Enqueue(
        lane_, "HeadForward",
        {Of(x, shape.rows * shape.width), Of(token_table, shape.vocab_size * shape.width),
         Of(logits, shape.rows * shape.stride)},
        [=, this] { inner_.HeadForward(shape, x, token_table, logits); });
  }
  void HeadBackwardInput(const HeadShape& shape, const float* dlogits, ConstReals token_table,
                         Reals dx) override {
    core_->Enqueue(
        lane_, "HeadBackwardInput",
        {Of(dlogits, shape.rows * shape.stride), Of(token_table, shape.vocab_size * shape.width),
         Of(dx, shape.rows * shape.width)},
        [=, this] { inner_.HeadBackwardInput(shape, dlogits, token_table, dx); });
  }
  void HeadBackwardWeight(const HeadShape& shape, const float* dlogits, ConstReals x,
                          float* dtoken_table) override {
    core_->Enqueue(lane_, "HeadBackwardWeight",
                   {Of(dlogits, shape.rows * shape.stride), Of(x, shape.rows * shape.width),
                    Of(dtoken_table, shape.vocab_size * shape.width)},
                   [=, this] { inner_.HeadBackwardWeight(shape, dlogits, x, dtoken_table); });
  }
  void AccumulateHeadBackwardWeight(const HeadShape& shape, const float* dlogits, ConstReals x,
                                    float* dtoken_table) override {
    core_->Enqueue(
        lane_, "AccumulateHeadBackwardWeight",
        {Of(dlogits, shape.rows * shape.stride), Of(x, shape.rows * shape.width),
         Of(dtoken_table, shape.vocab_size * shape.width)},
        [=, this] { inner_.AccumulateHeadBackwardWeight(shape, dlogits, x, dtoken_table); });
  }
  void Accumulate(int64_t n, const float* src, float* dst) override {
    core_->Enqueue(lane_, "Accumulate", {Of(src, n), Of(dst, n)},
                   [=, this] { inner_.Accumulate(n, src, dst); });
  }
  void Cast(int64_t n, const float* x, Reals out) override {
    core_->Enqueue(lane_, "Cast", {Of(x, n), Of(out, n)}, [=, this] { inner_.Cast(n, x, out); });
  }
  void StoreFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                  uint32_t* magnitude) override {
    core_->Enqueue(lane_, "StoreFixed", {Of(x, n), Of(sums, n), Of(magnitude, 1)},
                   [=, this] { inner_.StoreFixed(n, scale, x, sums, magnitude); });
  }
  void AccumulateFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                       uint32_t* magnitude) override {
    core_->Enqueue(lane_, "AccumulateFixed", {Of(x, n), Of(sums, n), Of(magnitude, 1)},
                   [=, this] { inner_.AccumulateFixed(n, scale, x, sums, magnitude); });
  }
  void AccumulateSums(int64_t n, const uint64_t* src, uint64_t* dst) override {
    core_->Enqueue(lane_, "AccumulateSums", {Of(src, n), Of(dst, n)},
                   [=, this] { inner_.AccumulateSums(n, src, dst); });
  }
  void RoundFixed(int64_t n, int scale, const uint64_t* sums, float* out) override {
    core_->Enqueue(lane_, "RoundFixed", {Of(sums, n), Of(out, n)},
                   [=, this] { inner_.RoundFixed(n, scale, sums, out); });
  }
  void AttentionForward(const SequenceShape& shape, const DropoutMask& mask, ConstReals qkv,
                        float* scratch, Reals out, float* log_sum_exp) override {
    core_->Enqueue(
        lane_, "AttentionForward",
        {Of(qkv, 3 * shape.rows() * shape.width),
         Of(scratch, inner_.AttentionScratch(shape, qkv.dtype())),
         Of(out, shape.rows() * shape.width), Of(log_sum_exp, shape.rows() * shape.heads)},
        [=, this] { inner_.AttentionForward(shape, mask, qkv, scratch, out, log_sum_exp); });
  }
  void AttentionBackward(const SequenceShape& shape, const DropoutMask& mask, ConstReals qkv,
                         ConstReals out, const float* log_sum_exp, ConstReals dout, float* scratch,
                         Reals dqkv) override {
    core_->Enqueue(
        lane_, "AttentionBackward",
        {Of(qkv, 3 * shape.rows() * shape.width), Of(out, shape.rows() * shape.width),
         Of(log_sum_exp, shape.rows() * shape.heads), Of(dout, shape.rows() * shape.width),
         Of(scratch, inner_.AttentionScratch(shape, qkv.dtype())),
         Of(dqkv, 3 * shape.rows() * shape.width)},
        [=, this] {
          inner_.AttentionBackward(shape, mask, qkv, out, log_sum_exp, dout, scratch, dqkv);
        });
  }
  void CrossEntropy(const HeadShape& shape, float gradient_scale, const int32_t* targets,
                    float* logits, double* losses) override {
    core_->Enqueue(
        lane_, "CrossEntropy",
        {Of(targets, shape.rows), Of(logits, shape.rows * shape.stride), Of(losses, shape.rows)},
        [=, this] { inner_.CrossEntropy(shape, gradient_scale, targets, logits, losses); });
  }
  void AdamW(int64_t n, const AdamWArguments& arguments, const float* grad, float* param, float* m,
             float* v) override {
    core_->Enqueue(lane_, "AdamW", {Of(grad, n), Of(param, n), Of(m, n), Of(v, n)},
                   [=, this] { inner_.AdamW(n, arguments, grad, param, m, v); });
  }
  void Adam(int64_t n, const AdamWArguments& arguments, const float* grad, float* param, float* m,
            float* v) override {
    core_->Enqueue(lane_, "Adam", {Of(grad, n), Of(param, n), Of(m, n), Of(v, n)},
                   [=, this] { inner_.Adam(n, arguments, grad, param, m, v); });
  }
  void LambDirection(int64_t n, const AdamWArguments& arguments, const float* param, float* grad,
                     float* m, float* v) override {
    core_->Enqueue(lane_, "LambDirection", {Of(param, n), Of(grad, n), Of(m, n), Of(v, n)},
                   [=, this] { inner_.LambDirection(n, arguments, param, grad, m, v); });
  }
  void Descend(int64_t n, float rate, const float* direction, float* param) override {
    core_->Enqueue(lane_, "Descend", {Of(direction, n), Of(param, n)},
                   [=, this] { inner_.Descend(n, rate, direction, param); });
  }
  void Lion(int64_t n, const LionArguments& arguments, const float* grad, float* param,
            float* m) override {
    core_->Enqueue(lane_, "Lion", {Of(grad, n), Of(param, n), Of(m, n)},
                   [=, this] { inner_.Lion(n, arguments, grad, param, m); });
  }
  void Adagrad(int64_t n, const AdagradArguments& arguments, const float* grad, float* param,
               float* sum) override {
    core_->Enqueue(lane_, "Adagrad", {Of(grad, n), Of(param, n), Of(sum, n)},
                   [=, this] { inner_.Adagrad(n, arguments, grad, param, sum); });
  }
  void Sgd(int64_t n, const SgdArguments& arguments, const float* grad, float* param) override {
    core_->Enqueue(lane_, "Sgd", {Of(grad, n), Of(param, n)},
                   [=, this] { inner_.Sgd(n, arguments, grad, param); });
  }
  void SgdMomentum(int64_t n, const SgdArguments& arguments, const float* grad, float* param,
                   float* buffer) override {
    core_->Enqueue(lane_, "SgdMomentum", {Of(grad, n), Of(param, n), Of(buffer, n)},
                   [=, this] { inner_.SgdMomentum(n, arguments, grad, param, buffer); });
  }
  void MuonMomentum(int64_t n, const MuonArguments& arguments, float* grad, float* m) override {
    core_->Enqueue(lane_, "MuonMomentum", {Of(grad, n), Of(m, n)},
                   [=, this] { inner_.MuonMomentum(n, arguments, grad, m); });
  }
  void DescendAndDecay(int64_t n, float rate, float decay, const float* direction,
                       float* param) override {
    core_->Enqueue(lane_, "DescendAndDecay", {Of(direction, n), Of(param, n)},
                   [=, this] { inner_.DescendAndDecay(n, rate, decay, direction, param); });
  }
  void Scale(int64_t n, float factor, float* x) override {
    core_->Enqueue(lane_, "Scale", {Of(x, n)}, [=, this] { inner_.Scale(n, factor, x); });
  }
  void MatrixProduct(const ProductShape& shape, const float* a, const float* b,
                     float* out) override {
    core_->Enqueue(lane_, "MatrixProduct",
                   {Of(a, shape.rows * shape.inner), Of(b, shape.inner * shape.columns),
                    Of(out, shape.rows * shape.columns)},
                   [=, this] { inner_.MatrixProduct(shape, a, b, out); });
  }
  void MatrixPolynomial(int64_t size, const Quadratic& of, const float* x, float* out) override {
    core_->Enqueue(lane_, "MatrixPolynomial", {Of(x, size * size), Of(out, size * size)},
                   [=, this] { inner_.MatrixPolynomial(size, of, x, out); });
  }
  void LeafSquares(int64_t leaves, const float* x, double* squares) override {
    core_->Enqueue(lane_, "LeafSquares", {Of(x, leaves * 1024), Of(squares, leaves)},
                   [=, this] { inner_.LeafSquares(leaves, x, squares); });
  }

 private:
  static int64_t Elements(const RotaryShape& shape) {
    return shape.rows() * shape.heads * shape.head_size;
  }
  static Touched Angles(const RotaryShape& shape, const float* table) {
    return Of(table, shape.seq_length * shape.head_size / 2);
  }
  static Touched Queries(const GroupedAttentionShape& shape, ConstReals x) {
    return Of(x, shape.rows() * shape.heads * shape.head_size);
  }
  static Touched Keys(const GroupedAttentionShape& shape, ConstReals x) {
    return Of(x, shape.rows() * shape.heads_of_keys * shape.head_size);
  }
  Touched Scratch(const GroupedAttentionShape& shape, DType dtype, const float* scratch) const {
    return Of(scratch, inner_.AttentionScratch({shape.batch, shape.seq_length,
                                                shape.heads * shape.head_size, shape.heads},
                                               dtype));
  }

  const std::shared_ptr<LazyDevice::Core> core_;
  const size_t lane_;
  const std::unique_ptr<Stream> stream_;
  const std::shared_ptr<Kernels> held_;
  Kernels& inner_;
};

}  // namespace

std::unique_ptr<Kernels> CreateLazyKernels(std::shared_ptr<LazyDevice::Core> core, size_t lane,
                                           std::unique_ptr<Stream> stream,
                                           std::shared_ptr<Kernels> inner) {
  return std::make_unique<LazyKernels>(std::move(core), lane, std::move(stream), std::move(inner));
}

}  // namespace dsrun::worker
