// The golden vectors were computed with DeepSpeed 0.19.6.

#include "common/config/elastic_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

ElasticBatch Resolved(const ElasticRequest& request) {
  const absl::StatusOr<ElasticBatch> batch = ResolveElasticBatch(request);
  EXPECT_TRUE(batch.ok()) << batch.status();
  return batch.ok() ? *batch : ElasticBatch();
}

std::string Refused(const ElasticRequest& request) {
  const absl::StatusOr<ElasticBatch> batch = ResolveElasticBatch(request);
  EXPECT_EQ(batch.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(batch.status().message());
}

TEST(ElasticBatchTest, Version01_HasDeepSpeedsNumbers) {
  ElasticRequest request = {.by_node = false,
                            .max_batch = 10000,
                            .micro_batches = {8, 12, 16, 17},
                            .min_ranks = 32,
                            .max_ranks = 1500};
  EXPECT_EQ(Resolved(request).global_batch, 9792);
  EXPECT_THAT(Resolved(request).widths,
              ElementsAreArray<int64_t>({32,  34,  36,  48,  51,  64,  68,  72,  96,  102, 136, 144,
                                         153, 192, 204, 272, 288, 306, 408, 576, 612, 816, 1224}));
  request.world_size = 64;
  EXPECT_EQ(Resolved(request).micro_batch, 17);
  request.world_size = 128;
  EXPECT_THAT(Refused(request),
              HasSubstr("World size (128) is not valid with the current list of valid GPU counts: "
                        "[32, 34, 36"));

  request = {.by_node = false};
  EXPECT_EQ(Resolved(request).global_batch, 1680);
  EXPECT_EQ(Resolved(request).widths.size(), 32u);
  EXPECT_EQ(Resolved(request).widths.back(), 840);

  request = {.by_node = false, .max_batch = 32, .micro_batches = {1, 2, 3, 7}, .max_ranks = 1500};
  EXPECT_EQ(Resolved(request).global_batch, 24);
  EXPECT_THAT(Resolved(request).widths, ElementsAre(1, 2, 3, 4, 6, 8, 12, 24));

  request = {.by_node = false, .max_batch = 100, .micro_batches = {8, 10, 12}, .max_ranks = 1500};
  EXPECT_EQ(Resolved(request).global_batch, 96);
  EXPECT_THAT(Resolved(request).widths, ElementsAre(1, 2, 3, 4, 6, 8, 12));

  request = {.by_node = false, .max_batch = 64, .micro_batches = {4}, .max_ranks = 64};
  EXPECT_EQ(Resolved(request).global_batch, 48);
  EXPECT_THAT(Resolved(request).widths, ElementsAre(1, 2, 3, 4, 6, 12));

  request = {.by_node = false, .max_batch = 1024, .micro_batches = {1, 2, 4, 8}, .max_ranks = 128};
  EXPECT_EQ(Resolved(request).global_batch, 840);
  EXPECT_THAT(Resolved(request).widths,
              ElementsAreArray<int64_t>({1,  2,  3,  4,  5,  6,  7,  8,  10, 12, 14, 15,  20,
                                         21, 24, 28, 30, 35, 40, 42, 56, 60, 70, 84, 105, 120}));
}

TEST(ElasticBatchTest, Version02_HasDeepSpeedsNumbers) {
  ElasticRequest request = {
      .min_ranks = 8, .max_ranks = 512, .ranks_per_node = 8, .world_size = 24};
  ElasticBatch batch = Resolved(request);
  EXPECT_EQ(batch.global_batch, 1920);
  EXPECT_EQ(batch.micro_batch, 4);
  EXPECT_EQ(batch.widths.size(), 15u);
  batch.widths.resize(12);
  EXPECT_THAT(batch.widths, ElementsAre(8, 16, 24, 32, 40, 48, 64, 80, 96, 120, 160, 192));

  request.world_size = 56;
  batch = Resolved(request);
  EXPECT_EQ(batch.global_batch, 1904);
  EXPECT_EQ(batch.micro_batch, 2);
  EXPECT_THAT(batch.widths, ElementsAre(56));

  request = {.max_batch = 10000,
             .micro_batches = {8, 12, 16, 17},
             .min_ranks = 32,
             .max_ranks = 1500,
             .ranks_per_node = 8,
             .model_parallel = 4,
             .world_size = 16};
  batch = Resolved(request);
  EXPECT_EQ(batch.global_batch, 9996);
  // 16 in 0.19.6, which took the share of 16 ranks and not of 4 replicas: no whole number of those.
  // Its repository mended that before elasticity was removed.
  EXPECT_EQ(batch.micro_batch, 17);
  EXPECT_THAT(batch.widths, ElementsAre(4));
}

// A batch is a whole number of its micro-batch and width, within the limit.
TEST(ElasticBatchTest, EveryAnswer_HoldsTogether) {
  for (int64_t max_batch = 1; max_batch < 200; max_batch += 3) {
    for (int64_t world = 1; world <= 24; ++world) {
      for (const bool by_node : {false, true}) {
        for (const bool larger : {false, true}) {
          ElasticRequest request = {.by_node = by_node,
                                    .max_batch = max_batch,
                                    .micro_batches = {1 + world % 5, 2 + max_batch % 7},
                                    .prefer_larger = larger,
                                    .ranks_per_node = 1 + max_batch % 3,
                                    .world_size = world};
          const absl::StatusOr<ElasticBatch> batch = ResolveElasticBatch(request);
          if (!batch.ok()) {
            EXPECT_FALSE(batch.status().message().empty());
            continue;
          }
          EXPECT_LE(batch->global_batch, max_batch);
          ASSERT_GT(batch->micro_batch, 0);
          EXPECT_TRUE(std::ranges::is_sorted(batch->widths));
          EXPECT_TRUE(std::ranges::find(request.micro_batches, batch->micro_batch) !=
                      request.micro_batches.end());
          EXPECT_TRUE(std::ranges::binary_search(batch->widths, world) || by_node);
          if (std::ranges::binary_search(batch->widths, world)) {
            EXPECT_EQ(batch->global_batch % (batch->micro_batch * world), 0);
          }
        }
      }
    }
  }
}

TEST(ElasticBatchTest, WhatCannotBe_IsRefusedByItsKey) {
  EXPECT_THAT(Refused({.max_batch = 0}),
              HasSubstr("max_train_batch_size: expected a whole number"));
  EXPECT_THAT(Refused({.micro_batches = {}}), HasSubstr("micro_batch_sizes: expected a list"));
  EXPECT_THAT(Refused({.micro_batches = {2, -4}}), HasSubstr("micro_batch_sizes: "));
  EXPECT_THAT(Refused({.max_batch = 8, .micro_batches = {2, 16}}),
              HasSubstr("micro_batch_sizes: expected max_train_batch_size (8) or less, got 16"));
  EXPECT_THAT(Refused({.min_ranks = 4, .max_ranks = 2}),
              HasSubstr("max_gpus: expected min_gpus (4) or more, got 2"));
  EXPECT_THAT(Refused({.by_node = false, .model_parallel = 2}),
              HasSubstr("model_parallel_size: expected 1 with version 0.1, got 2"));
  EXPECT_THAT(
      Refused({.ranks_per_node = 8, .model_parallel = 3, .world_size = 8}),
      HasSubstr("num_gpus_per_node: expected a multiple of model_parallel_size (3), got 8"));
  EXPECT_THAT(Refused({.world_size = 0}), HasSubstr("the number of ranks: expected"));
  EXPECT_THAT(Refused({.by_node = false, .max_batch = 6, .micro_batches = {4}, .min_ranks = 5}),
              HasSubstr("min_gpus, max_gpus: no number of ranks from 5 to 10000"));
  EXPECT_THAT(Refused({.micro_batches = std::vector<int64_t>(65, 2)}),
              HasSubstr("micro_batch_sizes: expected at most 64 numbers, got 65"));
}

}  // namespace
}  // namespace dsrun
