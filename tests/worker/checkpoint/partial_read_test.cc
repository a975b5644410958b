// Parts of a checkpoint are read and verified alone: any pieces from any others through real
// shards, no more bytes than are wanted, and with few files open.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "tests/common/format/random_recipes.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kFolder[] = "/save";

// Reads through, and counts the bytes of shards and the files that are open.
class CountingReads : public FileSystem {
 public:
  explicit CountingReads(FileSystem& inner) : inner_(inner) {}

  int64_t bytes = 0;
  int64_t opened = 0;
  int open = 0;
  int most_open = 0;

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenToRead(const std::string& path) override {
    auto file = inner_.OpenToRead(path);
    if (!file.ok() || !path.ends_with(".safetensors")) return file;
    ++opened;
    most_open = std::max(most_open, ++open);
    return std::unique_ptr<ReadableFile>(new File(*this, *std::move(file)));
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override {
    return inner_.CreateExclusive(path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateOrTruncate(const std::string& path) override {
    return inner_.CreateOrTruncate(path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenToAppend(const std::string& path) override {
    return inner_.OpenToAppend(path);
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    return inner_.Map(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to, IfExists exists) override {
    return inner_.Rename(from, to, exists);
  }
  absl::Status RemoveFile(const std::string& path) override { return inner_.RemoveFile(path); }
  absl::Status CreateFolder(const std::string& path) override { return inner_.CreateFolder(path); }
  absl::Status SyncFolder(const std::string& path) override { return inner_.SyncFolder(path); }
  absl::StatusOr<FileInfo> Stat(const std::string& path) override { return inner_.Stat(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return inner_.List(path);
  }

 private:
  class File : public ReadableFile {
   public:
    File(CountingReads& all, std::unique_ptr<ReadableFile> inner)
        : all_(all), inner_(std::move(inner)) {}
    ~File() override { --all_.open; }
    absl::Status ReadAt(int64_t offset, std::span<std::byte> into) override {
      all_.bytes += static_cast<int64_t>(into.size());
      return inner_->ReadAt(offset, into);
    }

   private:
    CountingReads& all_;
    std::unique_ptr<ReadableFile> inner_;
  };

  FileSystem& inner_;
};

// What a rank of `width` owns of all three slots, and nothing else: as if nothing were held twice.
struct Share {
  std::vector<WantedPiece> wanted;
  std::vector<float> memory;
};

Share ShareOf(const FlatLayout& layout, const ShardPlan& plan, int64_t rank) {
  Share share;
  const std::vector<TensorRange> parts = CutAtTensors(layout, plan.Owned(rank), Arena::kCompact);
  int64_t elements = 0;
  for (const TensorRange& part : parts) elements += part.end - part.begin;
  share.memory.resize(static_cast<size_t>(3 * elements), -1.0f);
  float* into = share.memory.data();
  for (const std::string_view prefix : {kModelPrefix, kExpAvgPrefix, kExpAvgSqPrefix}) {
    for (const TensorRange& part : parts) {
      share.wanted.push_back({std::string(prefix) + part.tensor->name, part.begin, part.end, into});
      into += part.end - part.begin;
    }
  }
  return share;
}

TEST(PartialRead, ThousandReaders_ReadTheirSharesWithFewFilesOpen) {
  ModelSpec model{"large", 1, 256, 4, 64, 8000};
  const TrainingState state(model);
  FaultyFileSystem disk;
  SaveOptions options;
  options.width = 24;
  options.bucket_bytes = 600'000;
  const auto name = Save(disk, kFolder, state, options);
  ASSERT_TRUE(name.ok()) << name.status();

  constexpr int64_t kReaders = 1000;
  const FlatLayout& layout = state.layout();
  const ShardPlan plan(layout, kReaders, /*bucket_bytes=*/1 << 30);
  std::vector<std::unique_ptr<CountingReads>> reads;
  std::vector<Checkpoint> readers;
  double worst = 0;
  int64_t all = 0;
  for (int64_t rank = 0; rank < kReaders; ++rank) {
    reads.push_back(std::make_unique<CountingReads>(disk));
    auto opened = OpenCheckpoint(*reads.back(), kFolder, *name, Verify::kNone);
    ASSERT_TRUE(opened.ok()) << opened.status();
    ASSERT_TRUE(opened->manifest().layout.has_value());
    readers.push_back(*std::move(opened));
    Share share = ShareOf(layout, plan, rank);
    const absl::Status read = readers.back().Read(share.wanted);
    ASSERT_TRUE(read.ok()) << read;
    const float* got = share.memory.data();
    for (const WantedPiece& wanted : share.wanted) {
      const size_t slash = wanted.tensor.rfind('/');
      const std::string prefix = wanted.tensor.substr(0, slash + 1);
      const int64_t start = layout.Find(wanted.tensor.substr(slash + 1)).offset + wanted.begin;
      const int64_t count = wanted.end - wanted.begin;
      ASSERT_TRUE(std::equal(got, got + count, state.Arena(prefix, Step(100)).begin() + start))
          << wanted.tensor << " of rank " << rank;
      got += count;
    }
    const auto wanted_bytes = static_cast<double>(4 * share.memory.size());
    worst = std::max(worst, static_cast<double>(reads.back()->bytes) / wanted_bytes);
    all += reads.back()->bytes;
    ASSERT_LE(reads.back()->most_open, 4) << "rank " << rank;
  }
  EXPECT_LE(worst, 1.05);
  EXPECT_GE(all, 3 * 4 * (layout.size() - layout.padding())) << "the count counts";
  std::cout << "worst reader: " << worst << " of its share\n";
}

// A rank that needs everything goes through the files one after the other.
TEST(PartialRead, WholeModel_OpensEveryFileOnce) {
  const TrainingState state;
  FaultyFileSystem disk;
  SaveOptions options;
  options.width = 15;
  options.bucket_bytes = 1 << 30;  // all of them hold something
  const auto name = Save(disk, kFolder, state, options);
  ASSERT_TRUE(name.ok()) << name.status();
  CountingReads reads(disk);
  auto checkpoint = OpenCheckpoint(reads, kFolder, *name, Verify::kNone);
  const ShardPlan plan(state.layout(), 1, 1 << 30);
  Share share = ShareOf(state.layout(), plan, 0);
  ASSERT_TRUE(checkpoint->Read(share.wanted).ok());
  EXPECT_EQ(reads.opened, 15);
  EXPECT_LE(reads.most_open, 4);
}

float ValueOf(const std::string& tensor, int64_t index) {
  return static_cast<float>(std::hash<std::string>()(tensor) % 1000 * 10'000) +
         static_cast<float>(index);
}

struct Written {
  std::string manifest;
  std::vector<ShardRecord> records;
};

absl::StatusOr<Written> Write(FileSystem& fs, const LayoutRecipe& recipe, bool listed) {
  EXPECT_TRUE(BeginJob(fs, kFolder, "job-a").ok());
  const auto shapes = ShapesOf(recipe);
  Written written;
  for (int64_t rank = 0; rank < recipe.ranks(); ++rank) {
    std::vector<std::vector<float>> memory;
    std::vector<Slice> slices;
    for (const Piece& piece : PiecesOf(recipe, rank)) {
      const std::vector<int64_t>& shape = shapes.at(piece.tensor);
      memory.emplace_back();
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        memory.back().push_back(ValueOf(piece.tensor, LogicalIndex(piece.shard, shape, i)));
      }
      const Box shard = piece.shard == WholeBox(shape) ? Box() : piece.shard;
      slices.push_back({piece.tensor, shape, piece.begin, piece.end, memory.back().data(), shard});
    }
    const ShardId id{"job-a",
                     {Step(1), Generation(1), Incarnation(static_cast<uint64_t>(977 * rank % 1009)),
                      Rank(static_cast<int32_t>(rank))}};
    // Every other rank without: the manifest lists all of them.
    const bool without = listed && rank % 2 == 1;
    auto record = WriteShard(fs, kFolder, id, slices, without ? nullptr : &recipe);
    if (!record.ok()) return record.status();
    EXPECT_EQ(record->layout_sha256.empty(), without);
    written.records.push_back(ShardRecord::Parse(record->Serialize()).value());
  }
  ManifestFacts facts;
  facts.job_id = "job-a";
  facts.key = {Step(1), Generation(1), 1};
  auto manifest = CommitManifest(fs, kFolder, facts, written.records);
  if (!manifest.ok()) return manifest.status();
  written.manifest = *manifest;
  return written;
}

// Reads the pieces of a rank; values that are wrong are a failure of the test.
absl::Status ReadRank(Checkpoint& checkpoint, const LayoutRecipe& recipe, int64_t rank) {
  const auto shapes = ShapesOf(recipe);
  const std::vector<Piece> pieces = PiecesOf(recipe, rank);
  std::vector<std::vector<float>> memory;
  std::vector<WantedPiece> wanted;
  for (const Piece& piece : pieces) {
    memory.emplace_back(static_cast<size_t>(piece.end - piece.begin), -1.0f);
    wanted.push_back({piece.tensor, piece.begin, piece.end, memory.back().data(), piece.shard});
  }
  if (const absl::Status read = checkpoint.Read(wanted); !read.ok()) return read;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    for (int64_t at = piece.begin; at < piece.end; ++at) {
      const int64_t index = LogicalIndex(piece.shard, shapes.at(piece.tensor), at);
      if (memory[i][static_cast<size_t>(at - piece.begin)] != ValueOf(piece.tensor, index)) {
        return absl::InternalError(piece.tensor + ": another value");
      }
    }
  }
  return absl::OkStatus();
}

TEST(PartialRead, AnyMeshLoadsFromAnyOther_AndDamageIsNeverGivenOut) {
  const uint64_t seed = 271126;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  for (int round = 0; round < 40; ++round) {
    FaultyFileSystem fs;
    const auto parameters = DrawParameters(random, 20);
    const LayoutRecipe written = DrawRecipe(random, parameters);
    const bool listed = round % 4 == 0 && written.ranks() > 1;
    const auto saved = Write(fs, written, listed);
    ASSERT_TRUE(saved.ok()) << saved.status() << " in round " << round;
    auto checkpoint = OpenCheckpoint(fs, kFolder, saved->manifest, Verify::kFull);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status() << " in round " << round;
    EXPECT_EQ(checkpoint->manifest().layout.has_value(), !listed);
    const LayoutRecipe wanted = DrawRecipe(random, parameters);
    for (int64_t rank = 0; rank < wanted.ranks(); ++rank) {
      const absl::Status read = ReadRank(*checkpoint, wanted, rank);
      ASSERT_TRUE(read.ok()) << read << " in round " << round << ", rank " << rank;
    }
    std::vector<ManifestFile> files;
    for (const ManifestFile& file : checkpoint->manifest().files) {
      if (file.blocks > 0) files.push_back(file);
    }
    const ManifestFile& file =
        files[static_cast<size_t>(Draw(random, 0, static_cast<int64_t>(files.size()) - 1))];
    fs.FlipBit(JoinPath(kFolder, file.name), Draw(random, file.header_bytes, file.bytes - 1),
               static_cast<int>(Draw(random, 0, 7)));
    auto damaged = OpenCheckpoint(fs, kFolder, saved->manifest, Verify::kNone);
    bool any = false;
    for (int64_t rank = 0; rank < wanted.ranks(); ++rank) {
      const absl::Status read = ReadRank(*damaged, wanted, rank);
      ASSERT_TRUE(read.ok() || absl::IsDataLoss(read)) << read << " in round " << round;
      any |= !read.ok();
    }
    EXPECT_TRUE(any) << "round " << round;
  }
}

TEST(PartialRead, ShardPlansAreByTheirRecipe) {
  const uint64_t seed = 42;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  const TrainingState state;
  for (int round = 0; round < 20; ++round) {
    SaveOptions options;
    options.width = Draw(random, 1, 20);
    options.bucket_bytes = Draw(random, 1, 100'000);
    FaultyFileSystem fs;
    for (int64_t rank = 0; rank < options.width; ++rank) {
      const auto record = SaveRank(fs, kFolder, state, options, rank);
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_FALSE(record->layout_sha256.empty()) << "width " << options.width << ", buckets of "
                                                  << options.bucket_bytes << ", rank " << rank;
      EXPECT_EQ(record->layout.empty(), rank > 0);
    }
  }
}

TEST(PartialRead, RecordsOfTwoLayouts_AreNotCommitted) {
  const TrainingState state;
  FaultyFileSystem fs;
  SaveOptions options;
  options.width = 2;
  std::vector<ShardRecord> records = {SaveRank(fs, kFolder, state, options, 0).value()};
  options.bucket_bytes = 50'000;
  records.push_back(SaveRank(fs, kFolder, state, options, 1).value());
  const ManifestFacts facts = state.Facts("job-a", options.step, options.generation);
  const absl::Status two = CommitManifest(fs, kFolder, facts, records).status();
  EXPECT_EQ(two.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(two.message()), HasSubstr("is of another layout than rank 0's"));
  records.erase(records.begin());
  const absl::Status none = CommitManifest(fs, kFolder, facts, records).status();
  EXPECT_THAT(std::string(none.message()), HasSubstr("of rank 0, whose shard is missing"));
}

}  // namespace
}  // namespace dsrun::worker
