// One small all-gather a step: every rank comes to the bits of one rank's sums, and all learn in
// the same step that one was asked to stop.

#include "worker/parallel/step_exchange.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "common/model_spec/model_spec.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/optim/gradient_norm.h"

namespace dsrun::worker {
namespace {

constexpr unsigned kSeed = 20261123;
constexpr int64_t kBlocks = 12;

// Many magnitudes and both signs, with all 53 bits, so that another order of additions would show.
double Wild(std::mt19937& random) {
  const double sign = random() % 2 == 0 ? 1.0 : -1.0;
  const double mantissa = 1.0 + std::ldexp(random(), -32) + std::ldexp(random(), -64);
  return sign * std::ldexp(mantissa, static_cast<int>(random() % 21) - 10);
}

// The left child has the largest power of two below n blocks.
double SerialTree(const std::vector<double>& blocks, size_t begin, size_t end) {
  if (end - begin == 1) return blocks[begin];
  size_t left = 1;
  while (left * 2 < end - begin) left *= 2;
  return SerialTree(blocks, begin, begin + left) + SerialTree(blocks, begin + left, end);
}

FlatLayout TestLayout() {
  return FlatLayout({{"a", {5000}}, {"b", {3, 700}}, {"c", {1}}, {"d", {20000}}});
}

class StepExchangeTest : public ::testing::TestWithParam<std::tuple<Backend, int>> {};

TEST_P(StepExchangeTest, Sums_AtEveryWidth_HaveTheBitsOfOneRank) {
  const auto [backend, width] = GetParam();
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const FlatLayout layout = TestLayout();
  const ShardPlan shards(layout, width, 8192);
  const BatchPlan batch(kBlocks, kBlocks, width);
  std::mt19937 random(kSeed);
  std::vector<double> losses(kBlocks);
  for (double& loss : losses) loss = Wild(random);
  std::vector<double> leaves(static_cast<size_t>(layout.leaf_count()));
  for (double& leaf : leaves) leaf = Wild(random);
  const double loss = SerialTree(losses, 0, losses.size());
  ASSERT_NE(loss, std::accumulate(losses.begin(), losses.end(), 0.0)) << "not just any order";
  const double squares = SumLeaves(layout, leaves);

  Group group = MakeGroup(backend, width);
  RunRanks(width, [&, width = width](int rank) {
    StepExchange exchange(*group[static_cast<size_t>(rank)], batch, layout, shards);
    const Range blocks = batch.RankBlocks(rank);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      exchange.block_losses()[static_cast<size_t>(b - blocks.begin)] =
          losses[static_cast<size_t>(b)];
    }
    size_t next = 0;
    for (const Range& owned : shards.Owned(rank)) {
      for (int64_t leaf = owned.begin / kLeafElements; leaf < owned.end / kLeafElements; ++leaf) {
        exchange.leaf_squares()[next++] = leaves[static_cast<size_t>(leaf)];
      }
    }
    EXPECT_EQ(next, exchange.leaf_squares().size());
    const bool asked = rank == width - 1;
    const auto sums = exchange.Gather(100 + rank, asked);
    ASSERT_TRUE(sums.ok()) << sums.status();
    EXPECT_EQ(std::bit_cast<uint64_t>(sums->loss), std::bit_cast<uint64_t>(loss));
    EXPECT_EQ(std::bit_cast<uint64_t>(sums->grad_square), std::bit_cast<uint64_t>(squares));
    EXPECT_EQ(sums->tokens, 100 * width + width * (width - 1) / 2);
    EXPECT_TRUE(sums->stop);
  });
}

INSTANTIATE_TEST_SUITE_P(All, StepExchangeTest,
                         ::testing::Combine(::testing::Values(Backend::kInProcess,
                                                              Backend::kSharedMemory),
                                            ::testing::Values(1, 2, 3, 5, 12)),
                         [](const auto& info) {
                           return BackendName(std::get<0>(info.param)) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace dsrun::worker
