// How the global batch is shared out. Pure; a function of (micro-batches, micro-batches an atom,
// width, rank) only.
//
//   global batch = M logical micro-batches, cut into atoms of k consecutive ones (the last atom may
//   be shorter). The gradient of an atom is summed in fp32, in order, on one rank; over atoms the
//   sum is exact (docs/numerics.md), so any atom may stand on any rank. By default a rank computes
//   consecutive atoms; counts differ by at most one.

#ifndef DSRUN_COMMON_PLAN_BATCH_PLAN_H_
#define DSRUN_COMMON_PLAN_BATCH_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "common/base/range.h"

namespace dsrun {

// REQUIRES: 1 <= width <= atoms() (see ValidateBatchPlan).
class BatchPlan {
 public:
  BatchPlan(int64_t micro_batches, int64_t micro_batches_per_atom, int64_t width);

  int64_t micro_batches() const { return micro_batches_; }
  int64_t atoms() const { return atoms_; }
  int64_t width() const { return width_; }

  Range AtomMicroBatches(int64_t atom) const;  // micro-batches of one atom
  Range RankAtoms(int64_t rank) const;         // atoms of one rank
  Range RankMicroBatches(int64_t rank) const;
  std::vector<int64_t> AtomCounts() const;  // by rank

 private:
  int64_t micro_batches_;
  int64_t per_atom_;
  int64_t atoms_;
  int64_t width_;
};

// Atoms of a batch: the widest that it can be computed.
int64_t AtomCount(int64_t micro_batches, int64_t micro_batches_per_atom);

// Errors: INVALID_ARGUMENT with the numbers and what would fit: width above the atoms, an atom of
// more than there are, ...
absl::Status ValidateBatchPlan(int64_t micro_batches, int64_t micro_batches_per_atom,
                               int64_t width);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_BATCH_PLAN_H_
