#include "common/plan/step_rounds.h"

#include <vector>

#include "common/plan/batch_plan.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

// By round, of each rank; then the passes of the round.
std::vector<std::vector<int64_t>> Table(const StepRounds& rounds, int64_t width) {
  std::vector<std::vector<int64_t>> table;
  for (int64_t round = 0; round < rounds.rounds(); ++round) {
    std::vector<int64_t>& row = table.emplace_back();
    for (int64_t rank = 0; rank < width; ++rank) row.push_back(rounds.MicroBatches(rank, round));
    row.push_back(rounds.Passes(round));
  }
  return table;
}

using Rows = std::vector<std::vector<int64_t>>;

TEST(StepRoundsTest, SumsOnAllRanks_MakeOneRoundOfAStep) {
  const StepRounds rounds({{2, 2, 1}, {2}}, ZeroPart::kAll);
  EXPECT_EQ(Table(rounds, 2), Rows({{5, 2, 5}}));
  EXPECT_EQ(rounds.AllPasses(), 5);
}

TEST(StepRoundsTest, OwnersSums_MakeARoundOfAnAtomAndTheLastIsEverybodys) {
  const StepRounds rounds({{4, 4, 2}, {4}, {4, 4}}, ZeroPart::kOwned);
  EXPECT_EQ(Table(rounds, 3), Rows({{4, 0, 0, 4}, {4, 0, 4, 4}, {2, 4, 4, 4}}));
  EXPECT_EQ(rounds.AllPasses(), 12);
  // The short atom alone in its round.
  EXPECT_EQ(Table(StepRounds({{2, 4}, {4}}, ZeroPart::kOwned), 2), Rows({{2, 0, 2}, {4, 4, 4}}));
}

TEST(StepRoundsTest, SizesOfAtoms_AreThoseOfThePlansShares) {
  // Atoms of 4, 4 and 2 micro-batches on two ranks.
  EXPECT_EQ(SizesOfAtoms(BatchPlan(10, 4, 2)), AtomSizes({{4, 4}, {2}}));
  EXPECT_EQ(SizesOfAtoms(BatchPlan(3, 1, 3)), AtomSizes({{1}, {1}, {1}}));
}

}  // namespace
}  // namespace dsrun
