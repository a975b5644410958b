#include "common/plan/gradient_space.h"

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(GradientSpaceTest, BucketsCoverTheSpaceAndNeverCrossIntoTheSecondUse) {
  const FlatLayout layout(LogicalTensors({"", 2, 48, 4, 20, 257}));
  for (const int64_t bucket_bytes : {1, 5000, 100000, 1 << 30}) {
    const ShardPlan shards(layout, 3, bucket_bytes);
    const GradientSpace space(layout, shards, bucket_bytes);
    int64_t end = space.size();
    for (const Range& bucket : space.buckets()) {
      EXPECT_EQ(bucket.end, end);
      EXPECT_TRUE(bucket.begin >= layout.size() || bucket.end <= layout.size());
      end = bucket.begin;
    }
    EXPECT_EQ(end, 0);
    EXPECT_EQ(space.size(), layout.size() + layout.Find("wte.weight").padded().size());
  }
}

TEST(GradientSpaceTest, DefaultBucketsAreAnEighthOfTheModelWithinBounds) {
  EXPECT_EQ(DefaultBucketBytes(1853568), 926784);
  EXPECT_EQ(DefaultBucketBytes(1000), 256 << 10);
  EXPECT_EQ(DefaultBucketBytes(124439808), 25 << 20);
}

TEST(GradientSpaceTest, BothUsesOfAnElementHaveOneOwner) {
  const FlatLayout layout(LogicalTensors({"", 2, 48, 4, 20, 257}));
  const ShardPlan shards(layout, 3, 20000);
  const GradientSpace space(layout, shards, 20000);
  const auto first = space.OwnedByRank(space.tied());
  const auto second =
      space.OwnedByRank({layout.size() + space.tied().begin, layout.size() + space.tied().end});
  for (size_t rank = 0; rank < 3; ++rank) {
    ASSERT_EQ(first[rank].size(), second[rank].size());
    for (size_t i = 0; i < first[rank].size(); ++i) {
      EXPECT_EQ(first[rank][i].begin + layout.size(), second[rank][i].begin);
      EXPECT_EQ(first[rank][i].end + layout.size(), second[rank][i].end);
    }
  }
}

}  // namespace
}  // namespace dsrun
