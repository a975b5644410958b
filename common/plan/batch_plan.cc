#include "common/plan/batch_plan.h"

#include <algorithm>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "common/base/counted.h"

namespace dsrun {

BatchPlan::BatchPlan(int64_t micro_batches, int64_t micro_batches_per_atom, int64_t width)
    : micro_batches_(micro_batches),
      per_atom_(micro_batches_per_atom),
      atoms_(AtomCount(micro_batches, micro_batches_per_atom)),
      width_(width) {
  assert(ValidateBatchPlan(micro_batches, micro_batches_per_atom, width).ok());
}

Range BatchPlan::AtomMicroBatches(int64_t atom) const {
  return {atom * per_atom_, std::min((atom + 1) * per_atom_, micro_batches_)};
}

Range BatchPlan::RankAtoms(int64_t rank) const { return EvenPart(atoms_, width_, rank); }

std::vector<int64_t> BatchPlan::AtomCounts() const {
  std::vector<int64_t> counts;
  for (int64_t rank = 0; rank < width_; ++rank) counts.push_back(RankAtoms(rank).size());
  return counts;
}

Range BatchPlan::RankMicroBatches(int64_t rank) const {
  const Range atoms = RankAtoms(rank);
  return {AtomMicroBatches(atoms.begin).begin, AtomMicroBatches(atoms.end - 1).end};
}

int64_t AtomCount(int64_t micro_batches, int64_t micro_batches_per_atom) {
  return micro_batches / micro_batches_per_atom +
         (micro_batches % micro_batches_per_atom == 0 ? 0 : 1);
}

absl::Status ValidateBatchPlan(int64_t micro_batches, int64_t micro_batches_per_atom,
                               int64_t width) {
  if (micro_batches < 1 || micro_batches_per_atom < 1 || width < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "micro-batches (", micro_batches, "), micro-batches-per-atom (", micro_batches_per_atom,
        ") and data-parallel width (", width, ") must be at least 1"));
  }
  if (micro_batches_per_atom > micro_batches) {
    return absl::InvalidArgumentError(absl::StrCat(
        "micro-batches-per-atom is ", micro_batches_per_atom, " but the global batch has only ",
        Counted(micro_batches, "micro-batch"), "; use at most ", micro_batches));
  }
  const int64_t atoms = AtomCount(micro_batches, micro_batches_per_atom);
  if (width <= atoms) return absl::OkStatus();
  const std::string wide = absl::StrCat("data-parallel width ", width, " is more than the ");
  if (width > micro_batches) {
    return absl::InvalidArgumentError(absl::StrCat(
        wide, Counted(micro_batches, "micro-batch"), " of the global batch; use at most ",
        Counted(atoms, "rank"), ", a smaller micro-batch-size, or a larger global-batch-size"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      wide, Counted(atoms, "atom"), " of ", Counted(micro_batches_per_atom, "micro-batch"),
      " that the global batch has; use at most ", Counted(atoms, "rank"),
      ", or fewer micro-batches-per-atom"));
}

}  // namespace dsrun
