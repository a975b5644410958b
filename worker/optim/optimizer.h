// Optimizer: the update of a step over the flat layout. Knows which rate and decay each tensor has
// and what the step's corrections are, and calls the fused kernels over maximal ranges of one kind.
// Stateless; slots live in arenas of the caller, and so do parameters: all, or a shard of them.
//
// An update of ranges has the bits of the update of the whole, however they are cut at leaves.

#ifndef DSRUN_WORKER_OPTIM_OPTIMIZER_H_
#define DSRUN_WORKER_OPTIM_OPTIMIZER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/range.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/optimizer_settings.h"
#include "common/plan/shard_plan.h"
#include "common/schedule/lr_schedule.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

class Optimizer {
 public:
  // `kernels` and `layout` must outlive this.
  Optimizer(Kernels& kernels, const FlatLayout& layout, OptimizerSettings settings);

  // LAMB: Step leaves the direction of every element in place of its gradient and the parameters as
  // they are. Whoever calls it then finds the norms of each tensor's parameters and direction over
  // all owners, and calls Descend with their TrustRatio.
  bool needs_norms() const;

  // Muon: Step leaves what is to be orthogonalised in place of the gradient of matrices, and these
  // parameters as they are; all others are updated. Whoever calls it then has each matrix
  // orthogonalised (MatrixUpdates) and calls DescendMatrices.
  bool needs_matrices() const;
  // REQUIRES: needs_matrices().
  NsMethod ns_method() const { return settings_.ns_method(); }

  // Update number `step` (from 1) of flat range `range`, with the schedule's rate, and its betas
  // where it sets them and the optimizer has such. All pointers stand at the element of
  // range.begin; `slots` are those of settings.plan(), in its order; one that no tensor of the
  // range keeps may be null. grad_scale: ClipFactor (clip_factor.h) / tokens. Afterwards `grad`
  // means nothing else. REQUIRES: range lies in [0, layout.size()).
  void Step(int64_t step, const ScheduledRates& rates, double grad_scale, Range range, float* grad,
            float* param, std::span<float* const> slots);

  // The second half of a step. `trust`: by tensor of the layout, of those that train.
  // REQUIRES: needs_norms(), and Step has written `direction`.
  void Descend(const ScheduledRates& rates, std::span<const double> trust, Range range,
               const float* direction, float* param);
  // The second half of a step of Muon, of the matrices in `range`: param -= rate scale update +
  // rate decay param. The scale is sqrt(max(1, rows / columns)) of the matrix as it stands in
  // memory, by Jordan et al. and DeepSpeed. REQUIRES: needs_matrices(), and `updates` are
  // orthogonalised.
  void DescendMatrices(const ScheduledRates& rates, Range range, const float* updates,
                       float* param);
  // The norm of the parameters by that of the direction, between min_coeff and max_coeff; 1 where
  // either is 0 (You et al., 2020, with the bounds of DeepSpeed).
  double TrustRatio(double parameter_norm, double direction_norm) const;

 private:
  void StepMuon(int64_t step, const ScheduledRates& rates, double grad_scale, Range range,
                float* grad, float* param, std::span<float* const> slots);

  struct Piece {
    Range flat;  // padded
    TensorRates rates;
    size_t tensor;            // the first of the run
    double matrix_scale = 0;  // of one that is orthogonalised; 0: it is none
  };
  // part(the piece, its part of `range`), ascending.
  template <typename Part>
  void ForPieces(Range range, const Part& part) const;

  Kernels& kernels_;
  const OptimizerSettings settings_;
  // Ascending, adjacent, maximal runs of one kind; of LAMB and Muon: tensors.
  std::vector<Piece> pieces_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_OPTIM_OPTIMIZER_H_
