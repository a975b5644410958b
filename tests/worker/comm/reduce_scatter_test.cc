// Sums of integers over real communicators: every way gives every owner the same total, whatever
// the width, the owners and the nodes.

#include "worker/comm/core/reduce_scatter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/comm/rank_threads.h"

namespace dsrun::worker {
namespace {

constexpr unsigned kSeed = 20261127;

void Add(int64_t n, const uint64_t* src, uint64_t* dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] += src[i];
}

// A bucket inside a larger space, owned in ranges of unequal sizes, some empty, some ranks with
// several.
Owners UnevenOwners(int width, Range bucket, std::mt19937_64& random) {
  std::vector<int64_t> cuts = {bucket.begin, bucket.end};
  for (int i = 1; i < 2 * width; ++i) {
    cuts.push_back(bucket.begin +
                   static_cast<int64_t>(random() % static_cast<uint64_t>(bucket.size() + 1)));
  }
  std::sort(cuts.begin(), cuts.end());
  Owners owned(static_cast<size_t>(width));
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Range part{cuts[i], cuts[i + 1]};
    if (!part.empty()) owned[i % static_cast<size_t>(width)].push_back(part);
  }
  return owned;
}

struct Case {
  Backend backend;
  int width;
  ReduceRoute route;
};

std::string WayName(const ReduceRoute& route) {
  switch (route.way) {
    case ReduceWay::kDirect:
      return "Direct";
    case ReduceWay::kRing:
      return "Ring";
    case ReduceWay::kTree:
      return "Tree";
    case ReduceWay::kTwoLevel:
      return "TwoLevel" + std::to_string(route.node_size);
  }
  return "";
}

class ReduceScatterTest : public ::testing::TestWithParam<Case> {};

TEST_P(ReduceScatterTest, EveryOwner_GetsTheTotal) {
  const auto [backend, width, route] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  constexpr int64_t kSpace = 6000;
  const Range bucket{150, 5899};
  std::vector<std::vector<uint64_t>> parts(static_cast<size_t>(width),
                                           std::vector<uint64_t>(kSpace));
  std::vector<uint64_t> totals(kSpace);
  for (auto& part : parts) {
    for (uint64_t& value : part) value = random();  // they wrap, too
    Add(kSpace, part.data(), totals.data());
  }
  const Owners owners = UnevenOwners(width, bucket, random);
  Group group = MakeGroup(backend, width);
  RunRanks(width, [&, route = route](int rank) {
    std::vector<uint64_t> sums = parts[static_cast<size_t>(rank)];
    std::vector<uint64_t> scratch(static_cast<size_t>(ReduceScratchElements(route, owners, rank)));
    const absl::Status status = ReduceScatterSums<uint64_t>(
        *group[static_cast<size_t>(rank)], route, owners, sums.data(), scratch, Add, "bucket 0");
    ASSERT_TRUE(status.ok()) << status;
    for (const Range& range : owners[static_cast<size_t>(rank)]) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        ASSERT_EQ(sums[static_cast<size_t>(i)], totals[static_cast<size_t>(i)]) << i;
      }
    }
    for (int64_t i = 0; i < kSpace; ++i) {  // and nothing outside the bucket is touched
      if (i >= bucket.begin && i < bucket.end) continue;
      ASSERT_EQ(sums[static_cast<size_t>(i)],
                parts[static_cast<size_t>(rank)][static_cast<size_t>(i)]);
    }
  });
}

// Sums alone, as of fast ones: who has nothing has zeros, and sends them where it has added to
// them.
TEST_P(ReduceScatterTest, NothingOfSomeRanks_IsZeros) {
  const auto [backend, width, route] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  constexpr int64_t kSize = 3000;
  for (int round = 0; round < 3; ++round) {
    RanksHave have;
    std::vector<std::vector<float>> parts;
    std::vector<float> totals(kSize);
    for (int rank = 0; rank < width; ++rank) {
      have.push_back(random() % 2 == 0 ? RankHas::kSums : RankHas::kNothing);
      std::vector<float>& part = parts.emplace_back(kSize);
      for (size_t i = 0; have.back() == RankHas::kSums && i < part.size(); ++i) {
        part[i] = static_cast<float>(random() % 1000);  // whole numbers: any order adds up
        totals[i] += part[i];
      }
    }
    const Owners owners = UnevenOwners(width, {0, kSize}, random);
    Group group = MakeGroup(backend, width);
    RunRanks(width, [&, route = route](int rank) {
      std::vector<float> sums = parts[static_cast<size_t>(rank)];
      std::vector<float> scratch(static_cast<size_t>(ReduceScratchElements(route, owners, rank)));
      const absl::Status status = ReduceScatterSums<float>(
          *group[static_cast<size_t>(rank)], route, owners, sums.data(), scratch,
          [](int64_t n, const float* src, float* dst) {
            for (int64_t i = 0; i < n; ++i) dst[i] += src[i];
          },
          "bucket 0", have);
      ASSERT_TRUE(status.ok()) << status;
      for (const Range& range : owners[static_cast<size_t>(rank)]) {
        for (int64_t i = range.begin; i < range.end; ++i) {
          ASSERT_EQ(sums[static_cast<size_t>(i)], totals[static_cast<size_t>(i)]) << i;
        }
      }
    });
  }
}

// A tensor's exponent is a number here; integers are the floats times it.
constexpr float kFixed = 1024;

void FixAll(Range range, const float* x, bool first, uint64_t* sums) {
  for (int64_t i = 0; i < range.size(); ++i) {
    const auto fixed = static_cast<uint64_t>(static_cast<int64_t>(x[i] * kFixed));
    sums[i] = first ? fixed : sums[i] + fixed;
  }
}

// Some ranks have floats, some have sums, some nothing: of all mixtures, drawn by chance, the
// totals are those of the integers.
TEST_P(ReduceScatterTest, FloatsOfSomeRanksAndNothingOfOthers_GiveTheIntegersTotals) {
  const auto [backend, width, route] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  constexpr int64_t kBegin = 150;  // of the bucket, and of what stands in a slot
  constexpr int64_t kSize = 4749;
  std::vector<std::vector<float>> floats(static_cast<size_t>(width), std::vector<float>(kSize));
  constexpr RankHas kWhat[] = {RankHas::kSingle, RankHas::kNothing, RankHas::kSums};
  for (int round = 0; round < 7; ++round) {
    RanksHave have;  // floats all of them; floats or nothing; anything
    for (int rank = 0; rank < width; ++rank) {
      have.push_back(kWhat[round == 0 ? 0 : random() % (round < 4 ? 2 : 3)]);
    }
    std::vector<std::vector<uint64_t>> parts;
    std::vector<uint64_t> totals(kSize);
    for (std::vector<float>& of_rank : floats) {
      const RankHas what = have[parts.size()];
      for (float& x : of_rank) x = static_cast<float>(static_cast<int32_t>(random())) / kFixed;
      std::vector<uint64_t>& part = parts.emplace_back(kSize);
      if (what == RankHas::kNothing) continue;
      FixAll({0, kSize}, of_rank.data(), true, part.data());
      Add(kSize, part.data(), totals.data());
    }
    const Owners owners = UnevenOwners(width, {kBegin, kBegin + kSize}, random);
    Group group = MakeGroup(backend, width);
    RunRanks(width, [&, route = route](int rank) {
      const auto r = static_cast<size_t>(rank);
      const bool single = have[r] == RankHas::kSingle;
      std::vector<uint64_t> sums = have[r] == RankHas::kSums ? parts[r] : std::vector<uint64_t>();
      std::vector<uint64_t> got(kSize);
      int64_t owned = 0;
      const SingleParts how{
          .have = have,
          .own = {single ? floats[r].data() : nullptr, kBegin},
          .fix = FixAll,
          .total =
              [&](Range range, const uint64_t* total) {
                owned += range.size();
                std::copy_n(total, range.size(), got.begin() + (range.begin - kBegin));
              },
      };
      std::vector<uint64_t> scratch(
          static_cast<size_t>(ReduceScratchElements(route, owners, rank, have)));
      const absl::Status status = ReduceScatterSingles(
          *group[r], route, owners, how, {sums.data(), kBegin}, scratch, Add, "bucket 0");
      ASSERT_TRUE(status.ok()) << status;
      for (const Range& range : owners[r]) {
        owned -= range.size();
        for (int64_t i = range.begin; i < range.end; ++i) {
          const auto at = static_cast<size_t>(i - kBegin);
          ASSERT_EQ(got[at], totals[at]) << i;
        }
      }
      EXPECT_EQ(owned, 0) << "every range of its own once";
    });
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const int width : {1, 2, 3, 4, 5, 6, 7, 12}) {
    for (const ReduceWay way : {ReduceWay::kDirect, ReduceWay::kRing, ReduceWay::kTree}) {
      cases.push_back({Backend::kInProcess, width, {way}});
    }
    for (const int node_size : {1, 2, 3, 4, 8}) {
      cases.push_back({Backend::kInProcess, width, {ReduceWay::kTwoLevel, node_size}});
    }
  }
  for (const ReduceWay way : {ReduceWay::kDirect, ReduceWay::kRing, ReduceWay::kTree}) {
    cases.push_back({Backend::kCheckedGloo, 3, {way}});
    cases.push_back({Backend::kSharedMemory, 3, {way}});
  }
  cases.push_back({Backend::kSharedMemory, 5, {ReduceWay::kTwoLevel, 2}});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, ReduceScatterTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) {
                           return BackendName(info.param.backend) + "_W" +
                                  std::to_string(info.param.width) + "_" +
                                  WayName(info.param.route);
                         });

TEST(ReduceScatterArgumentsTest, Contradictions_AreInvalidArgumentsWithTheNumbers) {
  Group group = MakeGroup(Backend::kInProcess, 1);
  std::vector<uint64_t> space(10);
  const absl::Status width = ReduceScatterSums<uint64_t>(*group[0], {}, {{{0, 10}}, {}},
                                                         space.data(), {}, Add, "bucket 1");
  EXPECT_EQ(width.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(width.message()),
              ::testing::HasSubstr("2 ranks, the communicator has 1"));
  Group two = MakeGroup(Backend::kInProcess, 2);
  const absl::Status scratch =
      ReduceScatterSums<uint64_t>(*two[0], {}, {{{0, 10}}, {}}, space.data(), {}, Add, "bucket 1");
  EXPECT_THAT(std::string(scratch.message()), ::testing::HasSubstr("needs 10 elements of scratch"));
  const absl::Status singles =
      ReduceScatterSingles(*two[0], {}, {{{0, 10}}, {}},
                           {.have = {RankHas::kSingle}, .own = {nullptr}, .fix = {}, .total = {}},
                           space.data(), {}, Add, "bucket 1");
  EXPECT_THAT(std::string(singles.message()),
              ::testing::HasSubstr("who has what is said of 1 ranks"));
  const absl::Status nodes = ReduceScatterSums<uint64_t>(
      *group[0], {ReduceWay::kTwoLevel, 0}, {{{0, 10}}}, space.data(), {}, Add, "bucket 1");
  EXPECT_THAT(std::string(nodes.message()), ::testing::HasSubstr("at least 1 rank on a node"));
}

}  // namespace
}  // namespace dsrun::worker
