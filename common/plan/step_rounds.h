// StepRounds: how the passes of a step stand beside each other on the ranks. Pure.
//
//   A round is what ends with one reduction of everything. Where every rank holds sums over the
//   batch a step is one round, with all micro-batches of a rank. Where the owners alone hold them
//   (ZeRO-2, sum_places.h) a round has one atom of a rank at most. Ranks with fewer atoms take part
//   in the first rounds with nothing, so that all have their last atom in the last round.
//
//   A pass of a round is a micro-batch on some rank. A rank with fewer micro-batches in the round
//   has its idle passes first: all have the last pass, in which gradients are reduced, at the same
//   time. Who gathers parameters for its passes (ZeRO-3) plays idle ones, too.

#ifndef DSRUN_COMMON_PLAN_STEP_ROUNDS_H_
#define DSRUN_COMMON_PLAN_STEP_ROUNDS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/plan/batch_plan.h"
#include "common/plan/zero_stage.h"

namespace dsrun {

// By rank: the micro-batches of each of its atoms, in the order in which it computes them.
using AtomSizes = std::vector<std::vector<int64_t>>;
// Of the plan's own shares.
AtomSizes SizesOfAtoms(const BatchPlan& batch);

class StepRounds {
 public:
  // REQUIRES: every rank has an atom.
  StepRounds(const AtomSizes& atoms, ZeroPart sums);

  int64_t rounds() const { return static_cast<int64_t>(passes_.size()); }
  // Of every rank.
  int64_t Passes(int64_t round) const { return passes_[static_cast<size_t>(round)]; }
  int64_t AllPasses() const;
  // Of `rank`; 0: it takes part in the round with nothing.
  int64_t MicroBatches(int64_t rank, int64_t round) const {
    return micro_batches_[static_cast<size_t>(rank)][static_cast<size_t>(round)];
  }

 private:
  std::vector<std::vector<int64_t>> micro_batches_;  // by rank and round
  std::vector<int64_t> passes_;                      // by round
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_STEP_ROUNDS_H_
