#include "worker/optim/adamw.h"

#include <algorithm>

#include "common/base/logging.h"

namespace dsrun::worker {
namespace {

// 1 - beta^step by repeated squaring: libm's pow may differ between versions, multiplication not.
double BiasCorrection(double beta, int64_t step) {
  double power = 1;
  double square = beta;
  for (int64_t left = step; left > 0; left >>= 1) {
    if (left & 1) power *= square;
    square *= square;
  }
  return 1 - power;
}

}  // namespace

AdamW::AdamW(Kernels& kernels, const FlatLayout& layout, const AdamWOptions& options)
    : kernels_(kernels), options_(options) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const bool decay = entry.tensor.weight_decay;
    if (!pieces_.empty() && pieces_.back().decay == decay) {
      pieces_.back().flat.end = entry.padded().end;
    } else {
      pieces_.push_back({entry.padded(), decay});
    }
  }
}

void AdamW::Step(int64_t step, const ScheduledRates& rates, double grad_scale, Range range,
                 const float* grad, float* param, float* m, float* v) {
  CHECK_GE(step, 1);
  const double beta1 = rates.sets_betas ? rates.beta1 : options_.beta1;
  const double beta2 = rates.sets_betas ? rates.beta2 : options_.beta2;
  AdamWArguments arguments;
  arguments.lr = static_cast<float>(rates.lr);
  arguments.beta1 = static_cast<float>(beta1);
  arguments.beta2 = static_cast<float>(beta2);
  arguments.eps = static_cast<float>(options_.eps);
  arguments.bias_correction1 = static_cast<float>(BiasCorrection(beta1, step));
  arguments.bias_correction2 = static_cast<float>(BiasCorrection(beta2, step));
  arguments.grad_scale = static_cast<float>(grad_scale);
  for (const Piece& piece : pieces_) {
    const int64_t begin = std::max(range.begin, piece.flat.begin);
    const int64_t end = std::min(range.end, piece.flat.end);
    if (begin >= end) continue;
    arguments.weight_decay = piece.decay ? static_cast<float>(options_.weight_decay) : 0.0f;
    const int64_t at = begin - range.begin;
    kernels_.AdamW(end - begin, arguments, grad + at, param + at, m + at, v + at);
  }
}

}  // namespace dsrun::worker
