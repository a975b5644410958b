#include "common/plan/step_rounds.h"

#include <algorithm>
#include <numeric>

namespace dsrun {

AtomSizes SizesOfAtoms(const BatchPlan& batch) {
  AtomSizes sizes(static_cast<size_t>(batch.width()));
  for (int64_t rank = 0; rank < batch.width(); ++rank) {
    const Range atoms = batch.RankAtoms(rank);
    for (int64_t atom = atoms.begin; atom < atoms.end; ++atom) {
      sizes[static_cast<size_t>(rank)].push_back(batch.AtomMicroBatches(atom).size());
    }
  }
  return sizes;
}

StepRounds::StepRounds(const AtomSizes& atoms, ZeroPart sums) {
  size_t rounds = 1;
  for (const std::vector<int64_t>& of_rank : atoms) {
    if (sums == ZeroPart::kOwned) rounds = std::max(rounds, of_rank.size());
  }
  passes_.resize(rounds);
  for (const std::vector<int64_t>& of_rank : atoms) {
    std::vector<int64_t>& mine = micro_batches_.emplace_back(rounds);
    if (sums == ZeroPart::kOwned) {
      std::copy_backward(of_rank.begin(), of_rank.end(), mine.end());
    } else {
      mine[0] = std::accumulate(of_rank.begin(), of_rank.end(), int64_t{0});
    }
    for (size_t round = 0; round < rounds; ++round) {
      passes_[round] = std::max(passes_[round], mine[round]);
    }
  }
}

int64_t StepRounds::AllPasses() const {
  return std::accumulate(passes_.begin(), passes_.end(), int64_t{0});
}

}  // namespace dsrun
