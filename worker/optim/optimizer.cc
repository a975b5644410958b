#include "worker/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/logging.h"

namespace dsrun::worker {
namespace {

using Rule = OptimizerForm::Rule;

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

// Of AdamW, Adam and LAMB, but for rate and decay.
AdamWArguments MomentArguments(const OptimizerSettings& settings, int64_t step,
                               const ScheduledRates& rates, double grad_scale) {
  const double beta1 = rates.sets_betas ? rates.beta1 : settings.Param("beta1");
  const double beta2 = rates.sets_betas ? rates.beta2 : settings.Param("beta2");
  AdamWArguments arguments;
  arguments.beta1 = static_cast<float>(beta1);
  arguments.beta2 = static_cast<float>(beta2);
  arguments.eps = static_cast<float>(settings.Param("eps"));
  arguments.bias_correction1 = static_cast<float>(BiasCorrection(beta1, step));
  arguments.bias_correction2 = static_cast<float>(BiasCorrection(beta2, step));
  arguments.grad_scale = static_cast<float>(grad_scale);
  return arguments;
}

LionArguments ArgumentsOfLion(const OptimizerSettings& settings, const ScheduledRates& rates,
                              double grad_scale) {
  LionArguments arguments;
  arguments.beta1 = static_cast<float>(rates.sets_betas ? rates.beta1 : settings.Param("beta1"));
  arguments.beta2 = static_cast<float>(rates.sets_betas ? rates.beta2 : settings.Param("beta2"));
  arguments.grad_scale = static_cast<float>(grad_scale);
  return arguments;
}

AdagradArguments ArgumentsOfAdagrad(const OptimizerSettings& settings, double grad_scale) {
  AdagradArguments arguments;
  arguments.eps = static_cast<float>(settings.Param("eps"));
  arguments.grad_scale = static_cast<float>(grad_scale);
  return arguments;
}

SgdArguments ArgumentsOfSgd(const OptimizerSettings& settings, double grad_scale) {
  SgdArguments arguments;
  arguments.momentum = static_cast<float>(settings.Param("momentum"));
  arguments.nesterov = settings.Param("nesterov") != 0;
  arguments.grad_scale = static_cast<float>(grad_scale);
  return arguments;
}

double MatrixScale(const LogicalTensor& tensor) {
  const auto rows = static_cast<double>(tensor.shape[0]);
  const auto columns = static_cast<double>(tensor.shape[1]);
  return std::sqrt(std::max(1.0, rows / columns));
}

}  // namespace

Optimizer::Optimizer(Kernels& kernels, const FlatLayout& layout, OptimizerSettings settings)
    : kernels_(kernels), settings_(std::move(settings)) {
  for (size_t tensor = 0; tensor < layout.entries().size(); ++tensor) {
    const FlatLayout::Entry& entry = layout.entries()[tensor];
    const TensorRates rates = settings_.RatesOf(entry.tensor);
    const bool by_tensor = needs_norms() || needs_matrices();
    if (!pieces_.empty() && pieces_.back().rates == rates && !by_tensor) {
      pieces_.back().flat.end = entry.padded().end;
    } else {
      pieces_.push_back({entry.padded(), rates, tensor});
    }
    if (settings_.Orthogonalises(entry.tensor)) {
      pieces_.back().matrix_scale = MatrixScale(entry.tensor);
    }
  }
}

bool Optimizer::needs_norms() const { return settings_.form->rule == Rule::kLamb; }

bool Optimizer::needs_matrices() const { return settings_.form->rule == Rule::kMuon; }

template <typename Part>
void Optimizer::ForPieces(Range range, const Part& part) const {
  for (const Piece& piece : pieces_) {
    const Range both{std::max(range.begin, piece.flat.begin), std::min(range.end, piece.flat.end)};
    if (!both.empty()) part(piece, both);
  }
}

void Optimizer::StepMuon(int64_t step, const ScheduledRates& rates, double grad_scale, Range range,
                         float* grad, float* param, std::span<float* const> slots) {
  MuonArguments muon;
  muon.momentum = static_cast<float>(settings_.Param("momentum"));
  muon.grad_scale = static_cast<float>(grad_scale);
  AdamWArguments others = MomentArguments(settings_, step, rates, grad_scale);
  ForPieces(range, [&](const Piece& piece, Range part) {
    const int64_t at = part.begin - range.begin;
    if (piece.matrix_scale > 0) {
      return kernels_.MuonMomentum(part.size(), muon, grad + at, slots[0] + at);
    }
    others.lr = static_cast<float>(rates.lr * piece.rates.lr_scale);
    others.weight_decay = static_cast<float>(piece.rates.weight_decay);
    kernels_.AdamW(part.size(), others, grad + at, param + at, slots[0] + at, slots[1] + at);
  });
}

void Optimizer::Step(int64_t step, const ScheduledRates& rates, double grad_scale, Range range,
                     float* grad, float* param, std::span<float* const> slots) {
  CHECK_GE(step, 1);
  CHECK_EQ(slots.size(), settings_.plan().slots.size());
  // update(what each piece of the kernel's arguments gets, elements, offset)
  const auto each = [&](auto arguments, const auto& update) {
    ForPieces(range, [&](const Piece& piece, Range part) {
      arguments.lr = static_cast<float>(rates.lr * piece.rates.lr_scale);
      arguments.weight_decay = static_cast<float>(piece.rates.weight_decay);
      update(arguments, part.size(), part.begin - range.begin);
    });
  };
  const auto moments = [&](auto kernel) {
    each(MomentArguments(settings_, step, rates, grad_scale),
         [&](const AdamWArguments& arguments, int64_t n, int64_t at) {
           kernel(n, arguments, grad + at, param + at, slots[0] + at, slots[1] + at);
         });
  };
  switch (settings_.form->rule) {
    case Rule::kAdamW:
      return moments([&](int64_t n, const AdamWArguments& a, float* g, float* p, float* m,
                         float* v) { kernels_.AdamW(n, a, g, p, m, v); });
    case Rule::kAdam:
      return moments([&](int64_t n, const AdamWArguments& a, float* g, float* p, float* m,
                         float* v) { kernels_.Adam(n, a, g, p, m, v); });
    case Rule::kLamb:
      return moments([&](int64_t n, const AdamWArguments& a, float* g, float* p, float* m,
                         float* v) { kernels_.LambDirection(n, a, p, g, m, v); });
    case Rule::kLion:
      return each(ArgumentsOfLion(settings_, rates, grad_scale),
                  [&](const LionArguments& arguments, int64_t n, int64_t at) {
                    kernels_.Lion(n, arguments, grad + at, param + at, slots[0] + at);
                  });
    case Rule::kAdagrad:
      return each(ArgumentsOfAdagrad(settings_, grad_scale),
                  [&](const AdagradArguments& arguments, int64_t n, int64_t at) {
                    kernels_.Adagrad(n, arguments, grad + at, param + at, slots[0] + at);
                  });
    case Rule::kSgd:
      return each(ArgumentsOfSgd(settings_, grad_scale),
                  [&](const SgdArguments& arguments, int64_t n, int64_t at) {
                    if (slots.empty()) return kernels_.Sgd(n, arguments, grad + at, param + at);
                    kernels_.SgdMomentum(n, arguments, grad + at, param + at, slots[0] + at);
                  });
    case Rule::kMuon:
      return StepMuon(step, rates, grad_scale, range, grad, param, slots);
  }
}

void Optimizer::Descend(const ScheduledRates& rates, std::span<const double> trust, Range range,
                        const float* direction, float* param) {
  CHECK(needs_norms());
  ForPieces(range, [&](const Piece& piece, Range part) {
    const double rate = rates.lr * piece.rates.lr_scale * trust[piece.tensor];
    const int64_t at = part.begin - range.begin;
    kernels_.Descend(part.size(), static_cast<float>(rate), direction + at, param + at);
  });
}

void Optimizer::DescendMatrices(const ScheduledRates& rates, Range range, const float* updates,
                                float* param) {
  CHECK(needs_matrices());
  ForPieces(range, [&](const Piece& piece, Range part) {
    if (piece.matrix_scale == 0) return;
    const double rate = rates.lr * piece.rates.lr_scale;
    const int64_t at = part.begin - range.begin;
    kernels_.DescendAndDecay(part.size(), static_cast<float>(rate * piece.matrix_scale),
                             static_cast<float>(rate * piece.rates.weight_decay), updates + at,
                             param + at);
  });
}

double Optimizer::TrustRatio(double parameter_norm, double direction_norm) const {
  if (parameter_norm == 0 || direction_norm == 0) return 1;
  return std::clamp(parameter_norm / direction_norm, settings_.Param("min_coeff"),
                    settings_.Param("max_coeff"));
}

}  // namespace dsrun::worker
