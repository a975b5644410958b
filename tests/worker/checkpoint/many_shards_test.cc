// Checkpoints of a thousand shards, on a real file system, by a process that may open few files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/checkpoint/shared_verification.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kShards = 1000;
constexpr int64_t kElements = 16;  // of each shard, for each of two tensors

// At most `limit` descriptors for this process, while it lives.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit few = before_;
    few.rlim_cur = limit;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  }
  ~DescriptorLimit() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

// Two tensors whose element i has the values i and -i, each in kShards pieces.
class ManyShardsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/many_shards";
    FileSystem& fs = FileSystem::Real();
    ASSERT_TRUE(BeginJob(fs, folder_, "many").ok());
    std::vector<ShardRecord> records;
    for (int64_t shard = 0; shard < kShards; ++shard) records.push_back(WriteOne(shard));
    ManifestFacts facts;
    facts.job_id = "many";
    facts.key = {Step(10), Generation(1), 1};
    const auto name = CommitManifest(fs, folder_, facts, records);
    ASSERT_TRUE(name.ok()) << name.status();
    name_ = *name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  ShardRecord WriteOne(int64_t shard) {
    std::vector<float> values[2];
    std::vector<Slice> slices;
    const int64_t begin = shard * kElements;
    for (size_t tensor = 0; tensor < 2; ++tensor) {
      for (int64_t i = 0; i < kElements; ++i) {
        values[tensor].push_back(static_cast<float>(begin + i) * (tensor == 0 ? 1.0f : -1.0f));
      }
      slices.push_back({tensor == 0 ? "model/a" : "model/b",
                        {kShards * kElements},
                        begin,
                        begin + kElements,
                        values[tensor].data()});
    }
    const ShardId id{"many",
                     {Step(10), Generation(1), Incarnation(1), Rank(static_cast<int32_t>(shard))}};
    return WriteShard(FileSystem::Real(), folder_, id, slices).value();
  }

  std::string folder_;
  std::string name_;
};

TEST_F(ManyShardsTest, AreReadWithFewDescriptors) {
  const DescriptorLimit few(64);
  auto checkpoint = OpenCheckpoint(FileSystem::Real(), folder_, name_, Verify::kFull);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<float> values(kShards * kElements);
  for (const auto& [tensor, sign] : {std::pair("model/a", 1.0f), {"model/b", -1.0f}}) {
    // Whole, and from the middle of one piece to the middle of another.
    for (const int64_t begin : {int64_t{0}, int64_t{5}}) {
      const absl::Status read =
          checkpoint->ReadRange(tensor, begin, kShards * kElements - begin, values.data());
      ASSERT_TRUE(read.ok()) << read;
      for (int64_t i = begin; i < kShards * kElements - begin; ++i) {
        ASSERT_EQ(values[static_cast<size_t>(i - begin)], sign * static_cast<float>(i));
      }
    }
  }
}

TEST_F(ManyShardsTest, AreVerifiedTogetherWithFewDescriptors) {
  const DescriptorLimit few(64);
  auto checkpoint = OpenCheckpoint(FileSystem::Real(), folder_, name_, Verify::kNone);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto together = [&] {
    std::vector<absl::Status> found;
    for (int rank = 0; rank < 8; ++rank) {
      found.push_back(
          VerifyShare(FileSystem::Real(), folder_, checkpoint->manifest(), rank, 8, [] {}));
    }
    return JoinShares(found);
  };
  EXPECT_TRUE(together().ok()) << together();
  for (const ManifestFile& file : checkpoint->manifest().files) {
    std::filesystem::resize_file(folder_ + "/" + file.name, 3);
  }
  const absl::Status status = together();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_LT(status.message().size(), 10'000u) << "a message should not grow with the files";
}

// The tests above can fail: so many cannot be open at once.
TEST_F(ManyShardsTest, DescriptorLimit_IsFelt) {
  const DescriptorLimit few(64);
  std::vector<std::unique_ptr<ReadableFile>> open;
  absl::Status status;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    auto file = FileSystem::Real().OpenToRead(entry.path().string());
    status.Update(file.status());
    if (file.ok()) open.push_back(*std::move(file));
    if (!status.ok()) break;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_NE(status.message().find("RLIMIT_NOFILE"), std::string::npos) << status;
}

}  // namespace
}  // namespace dsrun::worker
