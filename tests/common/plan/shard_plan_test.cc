#include "common/plan/shard_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/model/model_plan.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

ModelSpec Small() { return {"", 2, 48, 4, 20, 257}; }

TEST(FlatLayoutTest, TensorsStartOnLeavesAndCoverTheArena) {
  const FlatLayout layout(LogicalTensors(Small()));
  int64_t next = 0;
  int64_t elements = 0;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    EXPECT_EQ(entry.offset, next);
    EXPECT_EQ(entry.offset % kLeafElements, 0);
    next = entry.padded().end;
    elements += entry.tensor.size();
  }
  EXPECT_EQ(layout.size(), next);
  EXPECT_EQ(layout.padding(), next - elements);
  EXPECT_EQ(elements, ParameterCount(Small()));
}

TEST(FlatLayoutTest, ForTensors_CutsARangeWhereTensorsBegin) {
  const FlatLayout layout(LogicalTensors(Small()));
  for (const Range range : {Range{0, layout.size()}, Range{1024, 2048}, Range{3072, 40960},
                            Range{layout.size() - 1024, layout.size()}, Range{2048, 2048}}) {
    int64_t next = range.begin;
    layout.ForTensors(range, [&](size_t tensor, Range part) {
      EXPECT_EQ(part.begin, next);
      EXPECT_FALSE(part.empty());
      const Range padded = layout.entries()[tensor].padded();
      EXPECT_GE(part.begin, padded.begin);
      EXPECT_LE(part.end, padded.end);
      next = part.end;
    });
    EXPECT_EQ(next, range.end);
  }
}

TEST(DefaultBucketBytesTest, AreAnEighthOfTheModelWithinBounds) {
  EXPECT_EQ(DefaultBucketBytes(1853568), 926784);
  EXPECT_EQ(DefaultBucketBytes(1000), 256 << 10);
  EXPECT_EQ(DefaultBucketBytes(124439808), 25 << 20);
}

TEST(ShardPlanTest, EveryElementHasOneOwnerWhateverWidthAndBucket) {
  const FlatLayout layout(LogicalTensors(Small()));
  for (const int64_t width : {1, 2, 3, 4, 5, 8}) {
    for (const int64_t bucket_bytes :
         {int64_t{1}, int64_t{5000}, int64_t{40960}, int64_t{1} << 30}) {
      const ShardPlan plan(layout, width, bucket_bytes);
      std::vector<int> owners(static_cast<size_t>(layout.leaf_count()), 0);
      int64_t total = 0;
      for (int64_t rank = 0; rank < width; ++rank) {
        for (const Range& range : plan.Owned(rank)) {
          EXPECT_EQ(range.begin % kLeafElements, 0);
          EXPECT_EQ(range.end % kLeafElements, 0);
          for (int64_t leaf = range.begin / kLeafElements; leaf < range.end / kLeafElements;
               ++leaf) {
            ++owners[static_cast<size_t>(leaf)];
          }
        }
        total += plan.OwnedSize(rank);
      }
      for (const int count : owners) EXPECT_EQ(count, 1);
      EXPECT_EQ(total, layout.size());
      int64_t end = layout.size();
      for (const Range& bucket : plan.buckets()) {
        EXPECT_EQ(bucket.end, end);
        end = bucket.begin;
      }
      EXPECT_EQ(end, 0);
    }
  }
}

TEST(ShardPlanTest, OwnedWithinIsTheIntersection) {
  const FlatLayout layout(LogicalTensors(Small()));
  const ShardPlan plan(layout, 3, 20000);
  const Range within = layout.Find("h.1.mlp.c_fc.weight").padded();
  int64_t covered = 0;
  for (int64_t rank = 0; rank < 3; ++rank) {
    for (const Range& part : plan.Owned(rank, within)) {
      EXPECT_GE(part.begin, within.begin);
      EXPECT_LE(part.end, within.end);
      covered += part.size();
    }
  }
  EXPECT_EQ(covered, within.size());
}

TEST(ShardPlanTest, FrozenTensors_AreStoredByOneRankEachAndOwnedByNone) {
  const ModelPlan model = PlanModel(Small(), {"wte.weight", "h.0.mlp.c_fc.weight", "ln_f.bias"});
  const FlatLayout layout(model.tensors);
  EXPECT_EQ(layout.trainable_count() + 3, layout.entries().size());
  for (const int64_t width : {1, 2, 5, 300}) {
    const ShardPlan plan(layout, width, /*bucket_bytes=*/10'000);
    std::vector<Range> stored;
    int64_t owned = 0;
    for (int64_t rank = 0; rank < width; ++rank) {
      for (const Range& range : plan.Owned(rank)) EXPECT_LE(range.end, layout.trainable_size());
      EXPECT_EQ(plan.Owned(rank, {layout.trainable_size(), layout.size()}).size(), 0u);
      owned += plan.OwnedSize(rank);
      stored.insert(stored.end(), plan.Stored(rank).begin(), plan.Stored(rank).end());
    }
    EXPECT_EQ(owned, layout.trainable_size());
    std::sort(stored.begin(), stored.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    int64_t next = 0;
    for (const Range& range : stored) {
      EXPECT_EQ(range.begin, next) << "width " << width;
      next = range.end;
    }
    EXPECT_EQ(next, layout.size());
  }
}

TEST(ShardSizesTest, AreThoseOfTheShardPlan) {
  const ModelSpec spec = Small();
  for (const std::vector<std::string>& frozen :
       {std::vector<std::string>{},
        std::vector<std::string>{"wte.weight", "h.0.mlp.c_fc.weight"}}) {
    const FlatLayout layout(PlanModel(spec, frozen).tensors);
    for (const int64_t width : {1, 2, 3, 7, 64}) {
      for (const int64_t bucket_bytes :
           {int64_t{1}, int64_t{5000}, int64_t{40960}, int64_t{1} << 30}) {
        const ShardPlan plan(layout, width, bucket_bytes);
        const ShardSizes sizes(layout, width, bucket_bytes);
        EXPECT_EQ(sizes.buckets(), plan.buckets());
        for (int64_t rank = 0; rank < width; ++rank) {
          EXPECT_EQ(sizes.OwnedSize(rank), plan.OwnedSize(rank));
          EXPECT_EQ(sizes.StoredSize(rank), plan.StoredSize(rank));
          for (const Range& bucket : plan.buckets()) {
            int64_t owned = 0;
            for (const Range& range : plan.Owned(rank, bucket)) owned += range.size();
            EXPECT_EQ(sizes.OwnedOf(bucket, rank), owned);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsrun
