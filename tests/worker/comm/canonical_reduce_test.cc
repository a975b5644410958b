// The first tree of docs/numerics.md over real communicators: at every width the bits of a plain
// serial tree, written here once more.

#include "worker/comm/core/canonical_reduce.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "common/plan/shard_plan.h"
#include "tests/worker/comm/rank_threads.h"

namespace dsrun::worker {
namespace {

constexpr unsigned kSeed = 20240611;

void Add(float* dst, const float* src, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dst[i] += src[i];
}

// Magnitudes from 2^-60 to 2^60, both signs, zeros of both signs: the order of additions shows.
float WildFloat(std::mt19937& random) {
  const float sign = random() % 2 == 0 ? 1.0f : -1.0f;
  if (random() % 16 == 0) return sign * 0.0f;
  const float mantissa = 1.0f + static_cast<float>(random() % (1u << 23)) / (1u << 23);
  return sign * std::ldexp(mantissa, static_cast<int>(random() % 121) - 60);
}

// The serial tree over blocks [begin, end): the left child has the largest power of two below n.
template <typename T>
std::vector<T> SerialTree(const std::vector<std::vector<T>>& blocks, size_t begin, size_t end) {
  if (end - begin == 1) return blocks[begin];
  size_t left = 1;
  while (left * 2 < end - begin) left *= 2;
  std::vector<T> sum = SerialTree(blocks, begin, begin + left);
  const std::vector<T> right = SerialTree(blocks, begin + left, end);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += right[i];
  return sum;
}

template <typename T>
bool SameBits(const T* a, const T* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(T)) == 0;
}

struct Case {
  Backend backend;
  int64_t blocks;
  int64_t width;
};

class CanonicalReduceTest : public ::testing::TestWithParam<Case> {};

// A bucket inside a larger space, owned in ranges of unequal sizes, some empty, some ranks with
// two.
std::vector<std::vector<Range>> UnevenOwners(int64_t width, Range bucket, std::mt19937& random) {
  std::vector<int64_t> cuts = {bucket.begin, bucket.end};
  for (int64_t i = 1; i < 2 * width; ++i) {
    cuts.push_back(bucket.begin +
                   static_cast<int64_t>(random() % static_cast<unsigned>(bucket.size() + 1)));
  }
  std::sort(cuts.begin(), cuts.end());
  std::vector<std::vector<Range>> owned(static_cast<size_t>(width));
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Range part{cuts[i], cuts[i + 1]};
    if (!part.empty()) owned[i % static_cast<size_t>(width)].push_back(part);
  }
  return owned;
}

TEST_P(CanonicalReduceTest, ReduceScatter_AtEveryWidth_HasTheBitsOfTheSerialTree) {
  const auto [backend, blocks, width] = GetParam();
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  constexpr int64_t kSpace = 30000;
  const Range bucket{1500, 28999};
  std::vector<std::vector<float>> sums(static_cast<size_t>(blocks), std::vector<float>(kSpace));
  for (auto& block : sums) {
    for (float& value : block) value = WildFloat(random);
  }
  const std::vector<float> expected = SerialTree(sums, 0, sums.size());
  const BatchPlan plan(2 * blocks, blocks, width);
  const auto owned = UnevenOwners(width, bucket, random);
  Group group = MakeGroup(backend, static_cast<int>(width));

  for (const bool in_place : {false, true}) {
    RunRanks(static_cast<int>(width), [&, width = width](int rank) {
      std::vector<std::vector<float>> nodes;
      for (const Range& node : plan.RankNodes(rank)) {
        nodes.push_back(
            SerialTree(sums, static_cast<size_t>(node.begin), static_cast<size_t>(node.end)));
      }
      const std::vector<std::vector<float>> before = nodes;
      std::vector<float> other(kSpace, 42.0f);
      // In place: each rank uses another of its nodes, the last one.
      float* result = in_place ? nodes.back().data() : other.data();
      const std::vector<float> result_before(result, result + kSpace);
      std::vector<const float*> bases;
      for (const auto& node : nodes) bases.push_back(node.data());
      int64_t own = 0;
      for (const Range& range : owned[static_cast<size_t>(rank)]) own += range.size();
      std::vector<float> scratch(
          static_cast<size_t>(ReduceScratchElements(plan, rank, own, in_place)));
      const absl::Status status =
          CanonicalReduceScatter(*group[static_cast<size_t>(rank)], plan, owned, bases, result,
                                 scratch, Add, "reduce-scatter bucket 0");
      ASSERT_TRUE(status.ok()) << status;

      std::vector<float> after = result_before;
      for (const Range& range : owned[static_cast<size_t>(rank)]) {
        std::copy(expected.begin() + range.begin, expected.begin() + range.end,
                  after.begin() + range.begin);
      }
      EXPECT_TRUE(SameBits(result, after.data(), kSpace))
          << "rank " << rank << " of " << width << (in_place ? ", in place" : "");
      for (size_t node = 0; node < nodes.size(); ++node) {
        if (nodes[node].data() == result) continue;
        EXPECT_TRUE(SameBits(nodes[node].data(), before[node].data(), kSpace)) << "node " << node;
      }
    });
  }
}

TEST_P(CanonicalReduceTest, Gathers_GiveEverybodyTheOwnersElements) {
  const auto [backend, blocks, width] = GetParam();
  constexpr int64_t kLeaves = 37;
  std::vector<std::vector<Range>> owned;
  for (int64_t rank = 0; rank < width; ++rank) {
    const Range part = EvenPart(kLeaves, width, rank);
    owned.push_back({{part.begin * kLeafElements, part.end * kLeafElements}});
  }
  Group group = MakeGroup(backend, static_cast<int>(width));
  RunRanks(static_cast<int>(width), [&](int rank) {
    std::vector<float> parameters(kLeaves * kLeafElements, -1.0f);
    const Range own = owned[static_cast<size_t>(rank)][0];
    for (int64_t i = own.begin; i < own.end; ++i) {
      parameters[static_cast<size_t>(i)] = static_cast<float>(i);
    }
    Communicator& comm = *group[static_cast<size_t>(rank)];
    ASSERT_TRUE(AllGatherRanges(comm, owned, parameters.data(), "parameters").ok());
    for (size_t i = 0; i < parameters.size(); ++i) ASSERT_EQ(parameters[i], static_cast<float>(i));
  });
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const int64_t width : {1, 2, 3, 4, 5, 6, 12})
    cases.push_back({Backend::kInProcess, 12, width});
  for (const int64_t width : {1, 2, 3, 4}) cases.push_back({Backend::kInProcess, 4, width});
  for (const int64_t width : {3, 7}) cases.push_back({Backend::kInProcess, 7, width});
  for (const int64_t width : {2, 5}) {
    cases.push_back({Backend::kCheckedGloo, 12, width});
    cases.push_back({Backend::kSharedMemory, 12, width});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, CanonicalReduceTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) {
                           return BackendName(info.param.backend) + "_B" +
                                  std::to_string(info.param.blocks) + "_W" +
                                  std::to_string(info.param.width);
                         });

TEST(SerialTreeTest, OfThisTest_IsNotJustAnyOrder) {
  std::mt19937 random(kSeed);
  std::vector<std::vector<float>> blocks(12, std::vector<float>(1000));
  for (auto& block : blocks) {
    for (float& value : block) value = WildFloat(random);
  }
  std::vector<float> in_order = blocks[0];
  for (size_t b = 1; b < blocks.size(); ++b) Add(in_order.data(), blocks[b].data(), 1000);
  EXPECT_FALSE(SameBits(SerialTree(blocks, 0, 12).data(), in_order.data(), 1000));
}

TEST(ReduceScratchTest, Elements_AreTheRemoteNodesBeyondTheOneReceivedIntoTheResult) {
  const BatchPlan wide(12, 12, 12);
  EXPECT_EQ(ReduceScratchElements(wide, 0, 100, /*in_place=*/true), 1100);
  EXPECT_EQ(ReduceScratchElements(wide, 0, 100, /*in_place=*/false), 1000);
  const BatchPlan one(12, 12, 1);
  EXPECT_EQ(ReduceScratchElements(one, 0, 100, true), 0);
  EXPECT_EQ(ReduceScratchElements(one, 0, 100, false), 0);
}

TEST(CanonicalReduceArgumentsTest, Contradictions_AreInvalidArgumentsWithTheNumbers) {
  Group group = MakeGroup(Backend::kInProcess, 1);
  const BatchPlan two(4, 4, 2);
  std::vector<float> space(10);
  const float* base = space.data();
  const absl::Status width = CanonicalReduceScatter(*group[0], two, {{{0, 10}}, {}}, {&base, 1},
                                                    space.data(), {}, Add, "bucket 1");
  EXPECT_EQ(width.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(width.message()),
              ::testing::HasSubstr("2 ranks, the communicator has 1"));
  const BatchPlan one(4, 4, 1);
  const absl::Status nodes =
      CanonicalReduceScatter(*group[0], one, {{{0, 10}}}, {}, space.data(), {}, Add, "bucket 1");
  EXPECT_EQ(nodes.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(nodes.message()), ::testing::HasSubstr("given 0 partial sums"));
  const absl::Status owners = AllGatherRanges(*group[0], {}, space.data(), "parameters");
  EXPECT_EQ(owners.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace dsrun::worker
