// One loss curve, whatever the layout: the promise of docs/numerics.md, bit for bit.

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 4;

TEST(LayoutInvarianceTest, FourMicroBatchesOnOneTwoFourRanks) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/4, /*canonical_blocks=*/4);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3, 4}) {  // 3: uneven
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, TwelveMicroBatchesOnEveryWidth) {
  const proto::TrainSpec spec = TinySpec(12, 12);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3, 4, 5, 6, 12}) {  // 5: uneven
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, BlocksOfSeveralMicroBatches) {
  const proto::TrainSpec spec = TinySpec(7, 3);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3}) {
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, ThreadsBucketsAndOverlapChangeNoBit) {
  proto::TrainSpec spec = TinySpec(4, 4);
  const TrainedState reference = Train(spec, 2, kSteps);
  spec.set_threads_per_rank(2);
  EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "threads";
  for (const int64_t bucket_bytes : {1, 10000, 1 << 30}) {
    spec.set_bucket_bytes(bucket_bytes);
    EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "bucket_bytes " << bucket_bytes;
  }
  spec.set_overlap_comm(false);
  EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "overlap";
}

TEST(LayoutInvarianceTest, AnotherSeedOrBatchIsAnotherCurve) {  // the comparison can fail
  proto::TrainSpec spec = TinySpec(4, 4);
  const TrainedState reference = Train(spec, 1, kSteps);
  spec.set_canonical_blocks(1);  // ((0+1)+2)+3 instead of (0+1)+(2+3)
  EXPECT_FALSE(reference.SameBits(Train(spec, 1, kSteps)));
  spec = TinySpec(4, 4);
  spec.set_seed(1235);
  EXPECT_FALSE(reference.SameBits(Train(spec, 1, kSteps)));
}

TEST(LayoutInvarianceTest, TheLossFalls) {
  const TrainedState state = Train(TinySpec(4, 4), 2, 10);
  EXPECT_NEAR(state.losses.front(), 5.545, 0.1);  // ln 256: it knows nothing yet
  EXPECT_LT(state.losses.back(), state.losses.front() - 0.5);
}

}  // namespace
}  // namespace dsrun::worker
