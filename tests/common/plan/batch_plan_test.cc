#include "common/plan/batch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace dsrun {
namespace {

using ::testing::HasSubstr;

TEST(BatchPlanTest, MicroBatchesArePartitionedInOrder) {
  for (const int64_t micro_batches : {1, 2, 7, 12, 33}) {
    for (const int64_t per_atom : {1, 2, 5}) {
      if (per_atom > micro_batches) continue;
      for (int64_t width = 1; width <= AtomCount(micro_batches, per_atom); ++width) {
        const BatchPlan plan(micro_batches, per_atom, width);
        int64_t atom = 0;
        int64_t micro_batch = 0;
        for (int64_t rank = 0; rank < width; ++rank) {
          const Range atoms = plan.RankAtoms(rank);
          EXPECT_EQ(atoms.begin, atom);
          EXPECT_GE(atoms.size(), 1);
          EXPECT_EQ(plan.RankMicroBatches(rank).begin, micro_batch);
          for (; atom < atoms.end; ++atom) {
            const Range mine = plan.AtomMicroBatches(atom);
            EXPECT_EQ(mine.begin, micro_batch);
            EXPECT_GE(mine.size(), 1);
            EXPECT_LE(mine.size(), per_atom);
            micro_batch = mine.end;
          }
          EXPECT_EQ(plan.RankMicroBatches(rank).end, micro_batch);
        }
        EXPECT_EQ(atom, plan.atoms());
        EXPECT_EQ(micro_batch, micro_batches);
      }
    }
  }
}

TEST(ValidateBatchPlanTest, RefusalsCarryTheNumbersAndWhatWouldFit) {
  EXPECT_TRUE(ValidateBatchPlan(8, 1, 8).ok());
  EXPECT_TRUE(ValidateBatchPlan(8, 3, 3).ok());
  EXPECT_EQ(ValidateBatchPlan(0, 1, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ValidateBatchPlan(1, 0, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(ValidateBatchPlan(8, 9, 1).message()),
      HasSubstr("micro-batches-per-atom is 9 but the global batch has only 8 micro-batches; "
                "use at most 8"));
  EXPECT_EQ(AtomCount(8, INT64_MAX), 1);
  const absl::Status wide = ValidateBatchPlan(2, 1, 5);
  EXPECT_EQ(wide.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wide.message()),
              HasSubstr("width 5 is more than the 2 micro-batches of the global batch; use at most "
                        "2 ranks, a smaller micro-batch-size, or a larger global-batch-size"));
  EXPECT_THAT(std::string(ValidateBatchPlan(8, 3, 4).message()),
              HasSubstr("width 4 is more than the 3 atoms of 3 micro-batches that the global batch "
                        "has; use at most 3 ranks, or fewer micro-batches-per-atom"));
}

}  // namespace
}  // namespace dsrun
