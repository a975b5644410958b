#include "worker/optim/newton_schulz.h"

#include <utility>

namespace dsrun::worker {
namespace {

constexpr Quadratic kStep = {.a = 3.4445f, .b = -4.7750f, .c = 2.0315f};
constexpr int kRestart = 2;  // the step before which R begins anew

// The products of one matrix. `square` ones are of its smaller side.
class Iteration {
 public:
  Iteration(Kernels& kernels, MatrixShape shape, float* x, float* scratch)
      : kernels_(kernels), shape_(shape), x_(x), other_(scratch) {
    const auto aligned = [](int64_t elements) { return (elements + 15) / 16 * 16; };
    float* next = scratch + aligned(shape.size());
    for (float** const square : {&r_, &p_, &q_, &t_}) {
      *square = next;
      next += aligned(shape.smaller() * shape.smaller());
    }
  }

  float* Standard() {
    for (int step = 0; step < kNewtonSchulzSteps; ++step) {
      ProductWithItself();
      Polynomial(p_);
      MultiplyMatrix(p_);
    }
    return x_;
  }

  float* Gram() {
    for (int step = 0; step < kNewtonSchulzSteps; ++step) {
      const bool first = step == 0 || step == kRestart;
      if (step == kRestart) MultiplyMatrix(q_);
      if (first) ProductWithItself();
      float* const factor = first ? q_ : p_;
      Polynomial(factor);
      if (!first) {
        Multiply(p_, q_, t_);
        std::swap(q_, t_);
      }
      if (step + 1 == kRestart || step + 1 == kNewtonSchulzSteps) continue;
      Multiply(factor, r_, t_);
      Multiply(t_, factor, r_);
    }
    MultiplyMatrix(q_);
    return x_;
  }

 private:
  bool tall() const { return shape_.rows > shape_.columns; }
  // r = x x^T, or x^T x.
  void ProductWithItself() {
    const int64_t n = shape_.smaller();
    kernels_.MatrixProduct({n, n, shape_.larger(), tall(), !tall()}, x_, x_, r_);
  }
  void Polynomial(float* out) { kernels_.MatrixPolynomial(shape_.smaller(), kStep, r_, out); }
  void Multiply(const float* a, const float* b, float* out) {
    const int64_t n = shape_.smaller();
    kernels_.MatrixProduct({n, n, n}, a, b, out);
  }
  // x = square x, or x square.
  void MultiplyMatrix(const float* square) {
    const ProductShape product{shape_.rows, shape_.columns, shape_.smaller()};
    kernels_.MatrixProduct(product, tall() ? x_ : square, tall() ? square : x_, other_);
    std::swap(x_, other_);
  }

  Kernels& kernels_;
  const MatrixShape shape_;
  float* x_;
  float* other_;
  float* r_ = nullptr;  // x's products with itself
  float* p_ = nullptr;  // of one step
  float* q_ = nullptr;  // of all steps that x has not met yet
  float* t_ = nullptr;
};

}  // namespace

float* NewtonSchulz(Kernels& kernels, NsMethod method, MatrixShape shape, float* x,
                    float* scratch) {
  Iteration iteration(kernels, shape, x, scratch);
  const bool gram = method == NsMethod::kGram && shape.rows != shape.columns;
  return gram ? iteration.Gram() : iteration.Standard();
}

}  // namespace dsrun::worker
