// One small all-gather a step: every rank comes to the bits of one rank's sums, and all learn in
// the same step that one was asked to stop.

#include "worker/parallel/step_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "common/base/range.h"
#include "tests/worker/comm/rank_threads.h"

namespace dsrun::worker {
namespace {

constexpr unsigned kSeed = 20261127;
constexpr int64_t kTerms = 600;

// Many magnitudes and both signs, with all 53 bits, so that another order of additions would show.
double Wild(std::mt19937& random) {
  const double sign = random() % 2 == 0 ? 1.0 : -1.0;
  const double mantissa = 1.0 + std::ldexp(random(), -32) + std::ldexp(random(), -64);
  return sign * std::ldexp(mantissa, static_cast<int>(random() % 21) - 10);
}

class StepExchangeTest : public ::testing::TestWithParam<std::tuple<Backend, int>> {};

TEST_P(StepExchangeTest, Sums_AtEveryWidth_HaveTheBitsOfOneRank) {
  const auto [backend, width] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  std::vector<double> losses(kTerms);
  std::vector<double> squares(kTerms);
  ExactSum loss;
  ExactSum square;
  for (size_t i = 0; i < losses.size(); ++i) {
    loss.Add(losses[i] = Wild(random));
    square.Add(squares[i] = std::fabs(Wild(random)));
  }
  ASSERT_NE(loss.Round(), std::accumulate(losses.begin(), losses.end(), 0.0)) << "any order";
  std::shuffle(losses.begin(), losses.end(), random);
  std::shuffle(squares.begin(), squares.end(), random);

  Group group = MakeGroup(backend, width);
  RunRanks(width, [&, width = width](int rank) {
    StepExchange exchange(*group[static_cast<size_t>(rank)], 3);
    const std::vector<uint32_t> magnitudes = {static_cast<uint32_t>(rank), 7,
                                              rank == 0 ? 0xffffffff : 0};
    StepExchange::Part mine;
    mine.magnitudes = magnitudes;
    const Range part = EvenPart(kTerms, width, rank);
    for (int64_t i = part.begin; i < part.end; ++i) {
      mine.loss.Add(losses[static_cast<size_t>(i)]);
      mine.grad_square.Add(squares[static_cast<size_t>(i)]);
    }
    mine.tokens = 100 + rank;
    mine.stop = rank == width - 1;
    for (int step = 0; step < 2; ++step) {  // nothing of a step stays for the next
      const auto sums = exchange.Gather(mine);
      ASSERT_TRUE(sums.ok()) << sums.status();
      EXPECT_EQ(std::bit_cast<uint64_t>(sums->loss), std::bit_cast<uint64_t>(loss.Round()));
      EXPECT_EQ(std::bit_cast<uint64_t>(sums->grad_square),
                std::bit_cast<uint64_t>(square.Round()));
      EXPECT_EQ(sums->tokens, 100 * width + width * (width - 1) / 2);
      EXPECT_TRUE(sums->stop);
      EXPECT_FALSE(sums->saving);
      EXPECT_EQ(sums->magnitudes,
                (std::vector<uint32_t>{static_cast<uint32_t>(width - 1), 7, 0xffffffff}));
    }
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
