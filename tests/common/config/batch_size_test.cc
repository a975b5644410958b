#include "common/config/batch_size.h"

#include <string>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

std::string Resolve(BatchRequest request) {
  Findings findings;
  const auto sizes = ResolveBatch(request, findings);
  if (!sizes.has_value()) return findings.Render();
  EXPECT_TRUE(findings.all().empty());
  return std::to_string(sizes->global_batch) + "/" + std::to_string(sizes->micro_batch);
}

const BatchRequest kPreset = {
    .world_size = 4, .default_global_batch = 32, .default_micro_batch = 4};

BatchRequest With(std::optional<int64_t> global, std::optional<int64_t> micro,
                  std::optional<int64_t> accumulation, int64_t world = 4) {
  BatchRequest r = kPreset;
  r.global_batch = global;
  r.micro_batch = micro;
  r.accumulation = accumulation;
  r.world_size = world;
  return r;
}

TEST(Batch, WhatIsNotGivenIsDerived) {
  const auto none = std::nullopt;
  EXPECT_EQ(Resolve(With(none, none, none)), "32/4");
  EXPECT_EQ(Resolve(With(64, none, none)), "64/4");
  EXPECT_EQ(Resolve(With(6, none, none)), "6/3");  // the largest divisor up to the preset's
  EXPECT_EQ(Resolve(With(7, none, none)), "7/1");
  EXPECT_EQ(Resolve(With(none, 8, none)), "32/8");
  EXPECT_EQ(Resolve(With(none, none, 3)), "48/4");  // 4 * 3 * 4
  EXPECT_EQ(Resolve(With(none, 2, 3)), "24/2");
  EXPECT_EQ(Resolve(With(48, none, 3)), "48/4");
  EXPECT_EQ(Resolve(With(48, 4, 3)), "48/4");
}

TEST(Batch, SharesOfRanksMayBeUneven) {
  EXPECT_EQ(Resolve(With(12, 1, std::nullopt, 5)), "12/1");
  EXPECT_EQ(Resolve(With(4, 1, std::nullopt, 3)), "4/1");
}

TEST(Batch, ContradictionsKeepDeepSpeedsSentenceAndNameWhatFits) {
  const std::string sentence =
      "--global-batch-size: Check batch related parameters. train_batch_size is not equal to "
      "micro_batch_per_gpu * gradient_acc_step * world_size ";
  EXPECT_EQ(Resolve(With(30, 4, std::nullopt)),
            sentence +
                "30 != 4 * 1 * 4; the global batch must be a whole number of micro-batches; "
                "nearest that fit: --global-batch-size 28 or 32, or --micro-batch-size 3\n");
  EXPECT_EQ(Resolve(With(3, 4, std::nullopt)),
            sentence +
                "3 != 4 * 1 * 4; the global batch must be a whole number of micro-batches; "
                "nearest that fit: --global-batch-size 4, or --micro-batch-size 3\n");
  EXPECT_EQ(Resolve(With(32, 4, 3)),
            sentence +
                "32 != 4 * 3 * 4; nearest that fit: --global-batch-size 48, or "
                "--gradient-accumulation-steps 2\n");
  EXPECT_EQ(Resolve(With(50, std::nullopt, 3)),
            sentence + "50 != 4 * 3 * 4; nearest that fit: --global-batch-size 48 or 60\n");
}

TEST(Batch, NumbersOutOfRangeAreAllReported) {
  EXPECT_EQ(Resolve(With(0, -1, std::nullopt)),
            "--global-batch-size: expected a number from 1 to 2147483648, got 0\n"
            "--micro-batch-size: expected a number from 1 to 2147483648, got -1\n");
}

// Whatever comes out of any small request obeys the arithmetic; whatever is refused names numbers.
TEST(Batch, AllSmallRequests) {
  for (int64_t world = 1; world <= 5; ++world) {
    for (int64_t global = 0; global <= 24; ++global) {
      for (int64_t micro = 0; micro <= 6; ++micro) {
        for (int64_t acc = 0; acc <= 4; ++acc) {
          const auto given = [](int64_t v) {
            return v == 0 ? std::nullopt : std::optional<int64_t>(v);
          };
          Findings findings;
          const auto got =
              ResolveBatch(With(given(global), given(micro), given(acc), world), findings);
          ASSERT_EQ(got.has_value(), !findings.has_errors());
          if (!got.has_value()) continue;
          EXPECT_EQ(got->global_batch % got->micro_batch, 0);
          if (global != 0) {
            EXPECT_EQ(got->global_batch, global);
          }
          if (micro != 0) {
            EXPECT_EQ(got->micro_batch, micro);
          }
          if (acc != 0) {
            EXPECT_EQ(got->global_batch, got->micro_batch * acc * world);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsrun
