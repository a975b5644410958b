// A checkpoint that any width wrote loads at any other, and damage is found and named.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/safetensors.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_loader.h"

namespace dsrun::worker {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kFolder[] = "/save";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::string HashOf(absl::StatusOr<Checkpoint> checkpoint) {
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? ContentHash(*checkpoint).value() : "";
}

void ExpectLoadsAt(Checkpoint& checkpoint, const TrainingState& state, Step step, int64_t width,
                   int64_t bucket_bytes) {
  const FlatLayout& layout = state.layout();
  const ShardPlan plan(layout, width, bucket_bytes);
  for (int64_t rank = 0; rank < width; ++rank) {
    std::vector<float> params(static_cast<size_t>(layout.size()), -1.0f);
    std::vector<float> m(static_cast<size_t>(plan.OwnedSize(rank)), -1.0f);
    std::vector<float> v = m;
    const absl::Status status =
        LoadModelAndState(checkpoint, state.Expectation(), layout, plan.Owned(rank), params.data(),
                          kAdamW, std::vector{m.data(), v.data()});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(params == state.Arena(kModelPrefix, step)) << "width " << width << " rank " << rank;
    const std::vector<float>& all_m = state.Arena(kExpAvgPrefix, step);
    const std::vector<float>& all_v = state.Arena(kExpAvgSqPrefix, step);
    size_t at = 0;
    for (const Range& range : plan.Owned(rank)) {
      for (int64_t i = range.begin; i < range.end; ++i, ++at) {
        ASSERT_EQ(m[at], all_m[static_cast<size_t>(i)]) << "width " << width << " element " << i;
        ASSERT_EQ(v[at], all_v[static_cast<size_t>(i)]) << "width " << width << " element " << i;
      }
    }
  }
}

class CheckpointTest : public ::testing::Test {
 protected:
  void SaveStep(int64_t step, SaveOptions options = {}) {
    options.step = Step(step);
    const auto manifest = Save(fs_, kFolder, state_, options);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
  }
  absl::StatusOr<Checkpoint> Newest(FindOptions options = {}) {
    rejected_.clear();
    return FindNewestCheckpoint(fs_, kFolder, options, &rejected_);
  }

  FaultyFileSystem fs_;
  const TrainingState state_;
  std::vector<std::string> rejected_;
};

TEST_F(CheckpointTest, SavedAtAnyWidth_LoadsAtAnyOther) {
  for (const int64_t saved : {1, 3, 4, 7}) {
    FaultyFileSystem fs;
    SaveOptions options;
    options.width = saved;
    ASSERT_TRUE(Save(fs, kFolder, state_, options).ok());
    auto checkpoint = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const int64_t loaded : {1, 2, 3, 4}) {
      ExpectLoadsAt(*checkpoint, state_, options.step, loaded, /*bucket_bytes=*/9'000);
    }
  }
}

// A rank that reads for an hour is not stuck, as long as it says so.
TEST_F(CheckpointTest, Load_MovesWithEveryPieceAndMegabyte) {
  SaveStep(5);
  auto checkpoint = Newest();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const FlatLayout& layout = state_.layout();
  const ShardPlan plan(layout, /*width=*/1, 1 << 30);
  std::vector<float> params(static_cast<size_t>(layout.size())), m = params, v = params;
  int64_t moves = 0;
  ASSERT_TRUE(LoadModelAndState(*checkpoint, state_.Expectation(), layout, plan.Owned(0),
                                params.data(), kAdamW, std::vector{m.data(), v.data()},
                                [&] { ++moves; })
                  .ok());
  int64_t pieces = 0;
  for (const ManifestTensor& tensor : checkpoint->manifest().tensors) {
    pieces += static_cast<int64_t>(tensor.pieces.size());
  }
  EXPECT_GE(moves, pieces);

  // One tensor of 4 MiB and a bit, in one piece.
  const std::vector<float> values((1 << 20) + 3, 1.5f);
  const auto size = static_cast<int64_t>(values.size());
  const ShardId id{"job-a", {Step(6), Generation(1), Incarnation(7), Rank(0)}};
  const std::vector<Slice> slices = {{"model/large", {size}, 0, size, values.data()}};
  const ShardRecord record = WriteShard(fs_, kFolder, id, slices).value();
  ASSERT_TRUE(
      CommitManifest(fs_, kFolder, state_.Facts("job-a", Step(6), Generation(1)), {record}).ok());
  checkpoint = Newest();
  std::vector<float> read(values.size());
  moves = 0;
  ASSERT_TRUE(checkpoint->ReadRange("model/large", 0, size, read.data(), [&] { ++moves; }).ok());
  EXPECT_EQ(moves, 5);
  EXPECT_TRUE(read == values);
  // A part of it: no more is read than its blocks.
  moves = 0;
  ASSERT_TRUE(checkpoint->ReadRange("model/large", 1, size, read.data(), [&] { ++moves; }).ok());
  EXPECT_EQ(moves, 5);
  moves = 0;
  ASSERT_TRUE(checkpoint->ReadRange("model/large", 9, 10, read.data(), [&] { ++moves; }).ok());
  EXPECT_EQ(moves, 1);
}

TEST_F(CheckpointTest, MoreRanksThanLeaves_WriteEmptyShardsThatLoad) {
  SaveOptions options;
  options.width = state_.layout().leaf_count() + 2;
  options.bucket_bytes = 1 << 30;
  SaveStep(5, options);
  auto checkpoint = Newest();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ExpectLoadsAt(*checkpoint, state_, Step(5), 1, 1 << 30);
}

TEST_F(CheckpointTest, Hash_IsOfTheContentAlone) {
  std::string expected;
  for (const int64_t width : {1, 2, 3, 4, 6}) {
    for (const int64_t bucket_bytes : {5'000, 1 << 20}) {
      FaultyFileSystem fs;
      SaveOptions options;
      options.width = width;
      options.bucket_bytes = bucket_bytes;
      options.generation = Generation(width);
      options.job_id = "job-" + std::to_string(width);
      options.first_incarnation = static_cast<uint64_t>(bucket_bytes);
      ASSERT_TRUE(Save(fs, kFolder, state_, options).ok());
      const std::string hash = HashOf(FindNewestCheckpoint(fs, kFolder, {}, nullptr));
      if (expected.empty()) expected = hash;
      EXPECT_EQ(hash, expected) << "width " << width << ", buckets of " << bucket_bytes;
    }
  }
  EXPECT_THAT(expected, SizeIs(64));
  SaveStep(101);
  EXPECT_NE(HashOf(Newest()), expected);
}

TEST_F(CheckpointTest, Hash_ChangesWithCountersAlone) {
  std::vector<ShardRecord> records;
  SaveOptions options;
  options.width = 1;
  records.push_back(SaveRank(fs_, kFolder, state_, options, 0).value());
  ManifestFacts facts = state_.Facts("job-a", Step(100), Generation(1));
  ASSERT_TRUE(CommitManifest(fs_, kFolder, facts, records).ok());
  const std::string before = HashOf(Newest());
  facts.counters.samples_consumed += 1;
  ASSERT_EQ(CommitManifest(fs_, kFolder, facts, records).value(),
            "manifest.step-00000100.gen-0001.epoch-0002.json");
  EXPECT_NE(HashOf(Newest()), before);
}

// Whoever said "saved" of it would be believed until the next load.
TEST_F(CheckpointTest, ManifestThatNoReaderWouldTake_IsNotCommitted) {
  SaveOptions options;
  options.width = 1;
  const ShardRecord record = SaveRank(fs_, kFolder, state_, options, 0).value();
  const ManifestFacts facts = state_.Facts("job-a", Step(100), Generation(1));
  const absl::Status status =
      CommitManifest(fs_, kFolder, facts, {record}, nullptr, /*most_bytes=*/100).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(std::string(status.message()).find("at most 100 are read"), std::string::npos)
      << status;
  EXPECT_TRUE(ListManifests(fs_, kFolder)->empty());
  EXPECT_TRUE(CommitManifest(fs_, kFolder, facts, {record}).ok());
}

TEST_F(CheckpointTest, Newest_IsByStepThenGenerationThenEpoch) {
  SaveStep(9);
  SaveStep(100);
  SaveStep(20, {.generation = Generation(3), .first_incarnation = 0x5000});
  EXPECT_EQ(Newest()->manifest().facts.key, (ManifestKey{Step(100), Generation(1), 2}));
  SaveStep(100, {.generation = Generation(2), .first_incarnation = 0x6000});
  EXPECT_EQ(Newest()->manifest().facts.key, (ManifestKey{Step(100), Generation(2), 1}));
  EXPECT_THAT(rejected_, IsEmpty());
  EXPECT_EQ(ReadFile(fs_, "/save/latest").value(),
            "manifest.step-00000100.gen-0002.epoch-0001.json\n");
}

TEST_F(CheckpointTest, JobFilter_LeavesOthersOut) {
  SaveStep(10);
  SaveStep(50, {.job_id = "job-b", .first_incarnation = 0x9000});
  EXPECT_EQ(Newest()->manifest().facts.key.step, Step(50));
  EXPECT_EQ(Newest({.job_id = "job-a"})->manifest().facts.key.step, Step(10));
  const absl::Status none = Newest({.job_id = "job-c"}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(none), "no whole checkpoint of job job-c in /save; it holds 2 of other jobs");
}

TEST_F(CheckpointTest, OneStep_OrAllButWhatIsKnownToBeDamaged) {
  SaveStep(10);
  SaveStep(20, {.first_incarnation = 0x2000});
  SaveStep(30, {.first_incarnation = 0x3000});
  EXPECT_EQ(Newest({.step = 20})->manifest().facts.key.step, Step(20));
  EXPECT_EQ(Message(Newest({.job_id = "job-a", .step = 25}).status()),
            "no whole checkpoint of job job-a of step 25 in /save");
  const std::string newest = Newest()->manifest_name();
  FindOptions others;
  others.damaged[JoinPath(kFolder, newest)] = "rank 3 says so";
  EXPECT_EQ(Newest(others)->manifest().facts.key.step, Step(20));
  EXPECT_THAT(rejected_, ElementsAre(newest + ": rank 3 says so"));
  // Nothing else is taken for the step that was asked for.
  fs_.Truncate("/save/step-00000020.gen-0001.0000000000002000.rank-0000.safetensors", 9);
  EXPECT_EQ(Newest({.step = 20}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(rejected_, ElementsAre(HasSubstr("truncated")));
}

TEST_F(CheckpointTest, NoFolder_IsNotFound) {
  EXPECT_EQ(Newest().status().code(), absl::StatusCode::kNotFound);
}

// Every region of a shard: header length, header, padding, first, middle and last data, each
// tensor.
TEST_F(CheckpointTest, FlippedBitAnywhereInAShard_IsNamedAndThePreviousIsUsed) {
  SaveStep(10);
  SaveStep(20, {.first_incarnation = 0x2000});
  const std::string shard = "step-00000020.gen-0001.0000000000002002.rank-0002.safetensors";
  const std::string path = JoinPath(kFolder, shard);
  const int64_t bytes = fs_.Stat(path)->bytes;
  std::vector<int64_t> places = {0, 7, 8, 9, bytes - 1};
  for (int64_t at = 0; at < bytes; at += bytes / 97) places.push_back(at);
  for (const int64_t at : places) {
    fs_.FlipBit(path, at, static_cast<int>(at % 8));
    const auto checkpoint = Newest();
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->manifest().facts.key.step, Step(10)) << "byte " << at;
    EXPECT_THAT(rejected_,
                ElementsAre(AllOf(HasSubstr("manifest.step-00000020"),
                                  HasSubstr("shard " + path + " is damaged: its "),
                                  AnyOf(HasSubstr("SHA-256 is"), HasSubstr("CRC-32C is")))));
    fs_.FlipBit(path, at, static_cast<int>(at % 8));
  }
  EXPECT_EQ(Newest()->manifest().facts.key.step, Step(20));
}

TEST_F(CheckpointTest, TruncatedShard_IsNamedAndThePreviousIsUsed) {
  SaveStep(10);
  SaveStep(20, {.first_incarnation = 0x2000});
  const std::string path = "/save/step-00000020.gen-0001.0000000000002003.rank-0003.safetensors";
  const int64_t bytes = fs_.Stat(path)->bytes;
  for (const int64_t length : {bytes - 1, bytes / 2, int64_t{8}, int64_t{0}}) {
    fs_.Truncate(path, length);
    EXPECT_EQ(Newest()->manifest().facts.key.step, Step(10));
    EXPECT_THAT(rejected_,
                ElementsAre(HasSubstr("shard " + path + " has " + std::to_string(length) +
                                      " bytes, its manifest says " + std::to_string(bytes) +
                                      ": truncated")));
  }
  ASSERT_TRUE(fs_.RemoveFile(path).ok());
  EXPECT_EQ(Newest()->manifest().facts.key.step, Step(10));
  EXPECT_THAT(rejected_, ElementsAre(HasSubstr("shard " + path + " is missing")));
}

TEST_F(CheckpointTest, OnlyCheckpointDamaged_TheErrorNamesTheShard) {
  SaveStep(10);
  const std::string path = "/save/step-00000010.gen-0001.0000000000001000.rank-0000.safetensors";
  fs_.FlipBit(path, fs_.Stat(path)->bytes / 2, 3);
  const absl::Status status = Newest().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr("not usable (1 of 1 shown)"));
  EXPECT_THAT(Message(status), HasSubstr("shard " + path + " is damaged"));
}

// A rank that did not verify in full still never uses a flipped bit.
TEST_F(CheckpointTest, FlippedBit_IsFoundByReadRangeAlone) {
  SaveStep(10);
  const std::string path = "/save/step-00000010.gen-0001.0000000000001001.rank-0001.safetensors";
  const auto clean = Newest();
  int pieces = 0;
  for (const ManifestTensor& tensor : clean->manifest().tensors) {
    for (const ManifestPiece& piece : tensor.pieces) {
      const ManifestFile& file = clean->manifest().FileOf(piece);
      if (JoinPath(kFolder, file.name) != path) continue;
      ++pieces;
      fs_.FlipBit(path, piece.offset + (piece.end - piece.begin) * 4 - 1, 0);
      auto damaged = Newest({.verify = Verify::kSizes});
      ASSERT_TRUE(damaged.ok());
      std::vector<float> values(static_cast<size_t>(tensor.size()));
      const absl::Status whole = damaged->ReadRange(tensor.name, 0, tensor.size(), values.data());
      EXPECT_EQ(whole.code(), absl::StatusCode::kDataLoss);
      EXPECT_THAT(Message(whole), HasSubstr("shard " + path + ": entry " +
                                            EntryName(clean->manifest(), tensor, piece) +
                                            " is damaged: its CRC-32C is"));
      // Also when the flipped bit lies outside what is asked for, but in its block. Other blocks
      // are as good as they were.
      EXPECT_EQ(
          damaged->ReadRange(tensor.name, piece.begin, piece.begin + 1, values.data()).code(),
          piece.bytes() <= file.block_bytes ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk);
      fs_.FlipBit(path, piece.offset + (piece.end - piece.begin) * 4 - 1, 0);
    }
  }
  EXPECT_GT(pieces, 3);
}

TEST_F(CheckpointTest, TornOrAlteredManifest_IsRejectedAndThePreviousIsUsed) {
  SaveStep(10);
  SaveStep(20, {.first_incarnation = 0x2000});
  const std::string path = "/save/manifest.step-00000020.gen-0001.epoch-0002.json";
  const int64_t bytes = fs_.Stat(path)->bytes;
  for (int64_t at = 0; at < bytes; at += 1 + bytes / 211) {
    fs_.FlipBit(path, at, static_cast<int>(at % 7));
    EXPECT_EQ(Newest({.verify = Verify::kSizes})->manifest().facts.key.step, Step(10)) << at;
    EXPECT_THAT(rejected_, ElementsAre(HasSubstr(path)));
    fs_.FlipBit(path, at, static_cast<int>(at % 7));
  }
  for (const int64_t length : {bytes - 1, bytes / 2, int64_t{0}}) {
    fs_.Truncate(path, length);
    EXPECT_EQ(Newest()->manifest().facts.key.step, Step(10));
    EXPECT_THAT(rejected_, ElementsAre(HasSubstr("torn: " + std::to_string(length) + " bytes")));
  }
}

// A manifest under another's name would be taken for newer than it is.
TEST_F(CheckpointTest, RenamedManifest_IsRejected) {
  SaveStep(10);
  const std::string text =
      ReadFile(fs_, "/save/manifest.step-00000010.gen-0001.epoch-0001.json").value();
  fs_.Write("/save/manifest.step-00000099.gen-0001.epoch-0001.json", text);
  EXPECT_EQ(Newest()->manifest().facts.key.step, Step(10));
  EXPECT_THAT(rejected_,
              ElementsAre(HasSubstr("says of itself that it is manifest.step-00000010")));
}

TEST_F(CheckpointTest, Load_OfAnotherModel_SaysWhatDiffers) {
  SaveStep(10);
  auto checkpoint = Newest();
  LoadExpectation expectation = state_.Expectation();
  expectation.model.hidden_size = 64;
  expectation.model.num_layers = 2;
  expectation.accept_differences = true;
  const absl::Status status = CheckCompatible(checkpoint->manifest().facts, expectation);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(status),
            "manifest.step-00000010.gen-0001.epoch-0001.json is a checkpoint of another model:\n"
            "                 checkpoint  this run\n"
            "    num-layers   1           2\n"
            "    hidden-size  32          64\n"
            "  give the checkpoint's sizes, or another folder to load from");
}

TEST_F(CheckpointTest, Load_WithOtherNumerics_SaysWhatDiffersUnlessAccepted) {
  SaveStep(10);
  auto checkpoint = Newest();
  LoadExpectation expectation = state_.Expectation();
  EXPECT_TRUE(CheckCompatible(checkpoint->manifest().facts, expectation).ok());
  expectation.batch.global_batch_size = 16;
  expectation.fingerprint.isa = "avx512";
  expectation.fingerprint.tiles = "64x64";
  const absl::Status status = CheckCompatible(checkpoint->manifest().facts, expectation);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(status),
            "manifest.step-00000010.gen-0001.epoch-0001.json cannot be continued bit for bit:\n"
            "                                 checkpoint    this run\n"
            "    global-batch-size            8             16\n"
            "    instruction set (--isa-cap)  avx2          avx512\n"
            "    tiles of matrix products     not recorded  64x64\n"
            "  restore them, or give --accept-fingerprint to go on with another curve");
  expectation.accept_differences = true;
  EXPECT_TRUE(CheckCompatible(checkpoint->manifest().facts, expectation).ok());
}

TEST_F(CheckpointTest, Commit_WithAShardMissing_IsRefused) {
  SaveOptions options;
  std::vector<ShardRecord> records;
  for (const int64_t rank : {0, 1, 3}) {
    records.push_back(SaveRank(fs_, kFolder, state_, options, rank).value());
  }
  const ManifestFacts facts = state_.Facts("job-a", options.step, options.generation);
  const absl::Status status = CommitManifest(fs_, kFolder, facts, records).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status), HasSubstr("checkpoint not committed"));
  EXPECT_EQ(Newest().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, Commit_WhereAShardCannotBeSeen_IsRefused) {
  SaveOptions options;
  options.width = 2;
  std::vector<ShardRecord> records;
  records.push_back(SaveRank(fs_, kFolder, state_, options, 0).value());
  FaultyFileSystem elsewhere;
  records.push_back(SaveRank(elsewhere, kFolder, state_, options, 1).value());
  const ManifestFacts facts = state_.Facts("job-a", options.step, options.generation);
  const absl::Status status = CommitManifest(fs_, kFolder, facts, records).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("rank-0001"));
  EXPECT_THAT(Message(status), HasSubstr("not one shared folder"));
}

TEST_F(CheckpointTest, ShardRecord_SurvivesTheWire) {
  const ShardRecord record = SaveRank(fs_, kFolder, state_, {}, 1).value();
  EXPECT_EQ(ShardRecord::Parse(record.Serialize()).value(), record);
  const std::string text = record.Serialize();
  for (size_t length = 0; length < text.size(); length += 7) {
    EXPECT_EQ(ShardRecord::Parse(text.substr(0, length)).status().code(),
              absl::StatusCode::kDataLoss);
  }
  EXPECT_FALSE(ShardRecord::Parse("[]").ok());
}

TEST_F(CheckpointTest, EveryShard_IsAPlainSafetensorsFile) {
  SaveStep(10);
  const auto checkpoint = Newest();
  for (const ManifestFile& file : checkpoint->manifest().files) {
    const std::string bytes = ReadFile(fs_, JoinPath(kFolder, file.name)).value();
    const auto header = ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()));
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->metadata.at("job"), "job-a");
    EXPECT_EQ(header->metadata.at("step"), "10");
    for (const ManifestTensor& tensor : checkpoint->manifest().tensors) {
      for (const ManifestPiece& piece : tensor.pieces) {
        if (checkpoint->manifest().FileOf(piece).name != file.name) continue;
        const std::string name = EntryName(checkpoint->manifest(), tensor, piece);
        const auto entry = std::find_if(header->entries.begin(), header->entries.end(),
                                        [&](const SafetensorsEntry& e) { return e.name == name; });
        ASSERT_NE(entry, header->entries.end()) << name;
        EXPECT_EQ(entry->begin + header->data_start, piece.offset);
        EXPECT_THAT(entry->shape, ElementsAre(piece.end - piece.begin));
      }
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
