// A save folder of format 1, committed as it was written on 2026-11-27 by the last program that
// wrote that format (three ranks, buckets of 12,000 bytes): it is found, verified, hashed and
// loaded by every later one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/shard_verifier.h"
#include "common/model/model_plan.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_loader.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kFolder[] = "tests/worker/checkpoint/format_1";
// As that program has computed it.
constexpr char kHash[] = "5a08ac6d8734bdcb22c262e71669e1d180fedf46dea3b9d9f7853fcd414a927d";

class Format1Test : public ::testing::Test {
 protected:
  Format1Test() : state_(ModelSpec{"tiny", 1, 16, 2, 8, 70}) {
    FileSystem& disk = FileSystem::Real();
    const std::vector<std::string> names = disk.List(kFolder).value();
    for (const std::string& name : names) {
      fs_.Write(JoinPath("/save", name), ReadFile(disk, JoinPath(kFolder, name)).value());
    }
  }
  absl::StatusOr<Checkpoint> Newest() { return FindNewestCheckpoint(fs_, "/save", {}, nullptr); }

  FaultyFileSystem fs_;
  const TrainingState state_;
};

TEST_F(Format1Test, IsFoundWholeAndHasItsHash) {
  auto checkpoint = Newest();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->manifest().facts, [&] {
    ManifestFacts facts = state_.Facts("job-a", Step(40), Generation(1));
    facts.key.epoch = 1;
    facts.fingerprint.sums = std::string(kExactSums);
    return facts;
  }());
  EXPECT_EQ(ContentHash(*checkpoint).value(), kHash);
}

// A job that goes on from it and one that never stopped end in the same hash.
TEST_F(Format1Test, TheSameStateInFormat2_HasTheSameHash) {
  const FlatLayout& layout = state_.layout();
  std::vector<float> exponents;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    exponents.push_back(static_cast<float>(i) - 5);
  }
  for (const int64_t width : {1, 4}) {
    FaultyFileSystem fs;
    ASSERT_TRUE(BeginJob(fs, "/new", "job-a").ok());
    const LayoutRecipe recipe = RecipeOf(layout, kAdamW, width, /*bucket_bytes=*/9'000);
    const ShardPlan plan(layout, width, /*bucket_bytes=*/9'000);
    std::vector<ShardRecord> records;
    for (int64_t rank = 0; rank < width; ++rank) {
      std::vector<Slice> slices;
      for (const auto& [now, then] : {std::pair(kModelPrefix, kModelPrefix),
                                      {kExpAvgPrefix, "adam_m/"},
                                      {kExpAvgSqPrefix, "adam_v/"}}) {
        const std::vector<Slice> more = SlicesOf(layout, plan.Owned(rank), now, Arena::kWhole,
                                                 state_.Arena(then, Step(40)).data());
        slices.insert(slices.end(), more.begin(), more.end());
      }
      const auto count = static_cast<int64_t>(exponents.size());
      if (rank == 0) {
        slices.push_back({std::string(kSumExponents), {count}, 0, count, exponents.data()});
      }
      const ShardId id{"job-a",
                       {Step(40), Generation(1), Incarnation(1), Rank(static_cast<int32_t>(rank))}};
      records.push_back(WriteShard(fs, "/new", id, slices, &recipe).value());
      EXPECT_FALSE(records.back().layout_sha256.empty());
    }
    const auto name =
        CommitManifest(fs, "/new", state_.Facts("job-a", Step(40), Generation(1)), records);
    ASSERT_TRUE(name.ok()) << name.status();
    auto checkpoint = OpenCheckpoint(fs, "/new", *name, Verify::kFull);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_TRUE(checkpoint->manifest().layout.has_value());
    EXPECT_EQ(ContentHash(*checkpoint).value(), kHash);
  }
}

// The values follow the names that they had then.
TEST_F(Format1Test, LoadsAtAnyWidth) {
  auto checkpoint = Newest();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const FlatLayout& layout = state_.layout();
  LoadExpectation expectation = state_.Expectation();
  expectation.fingerprint.sums = std::string(kExactSums);
  for (const int64_t width : {1, 2, 5}) {
    const ShardPlan plan(layout, width, /*bucket_bytes=*/5'000);
    for (int64_t rank = 0; rank < width; ++rank) {
      std::vector<float> params(static_cast<size_t>(layout.size()), -1.0f);
      std::vector<float> m(static_cast<size_t>(plan.OwnedSize(rank)), -1.0f), v = m;
      const absl::Status status =
          LoadModelAndState(*checkpoint, expectation, layout, plan.Owned(rank), params.data(),
                            kAdamW, std::vector{m.data(), v.data()});
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_TRUE(params == state_.Arena(kModelPrefix, Step(40)));
      size_t at = 0;
      for (const Range& range : plan.Owned(rank)) {
        for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i) {
          ASSERT_EQ(m[at], state_.Arena("adam_m/", Step(40))[i]);
          ASSERT_EQ(v[at++], state_.Arena("adam_v/", Step(40))[i]);
        }
      }
    }
  }
  const std::vector<float> exponents =
      LoadSumExponents(*checkpoint, LogicalTensors(state_.Expectation().model), layout,
                       /*new_value=*/-1024)
          .value();
  ASSERT_THAT(exponents, SizeIs(layout.entries().size()));
  for (size_t i = 0; i < exponents.size(); ++i) EXPECT_EQ(exponents[i], static_cast<float>(i) - 5);
}

TEST_F(Format1Test, DamageIsFoundAndNamed) {
  const Manifest manifest = Newest()->manifest();
  for (const ManifestFile& file : manifest.files) {
    const std::string path = JoinPath("/save", file.name);
    ShardVerifier verifier(fs_, "/save", manifest);
    EXPECT_EQ(verifier.Verify(file, nullptr).state, ShardVerdict::State::kWhole);
    fs_.FlipBit(path, file.bytes - 1, 3);
    const ShardVerdict verdict = verifier.Verify(file, nullptr);
    EXPECT_EQ(verdict.state, ShardVerdict::State::kDamaged);
    EXPECT_THAT(verdict.pieces, SizeIs(1));
    const absl::Status none = Newest().status();
    EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(none.message()), HasSubstr("shard " + path + " is damaged"));
    fs_.FlipBit(path, file.bytes - 1, 3);
  }
}

}  // namespace
}  // namespace dsrun::worker
