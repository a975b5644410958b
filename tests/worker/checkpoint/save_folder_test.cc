// A save folder that vanishes: a mount goes away, and the path leads to what is beneath. Nothing is
// saved there, and nothing that is not safe is called so.

#include "common/format/save_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/fakes/stopping_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

SaveOptions At(int64_t step) {
  SaveOptions options;
  options.step = Step(step);
  options.first_incarnation = 0x10000 * static_cast<uint64_t>(step);
  options.width = 2;
  options.has_begun = true;
  return options;
}

TEST(SaveFolder, MissingFolder_IsNamedAndNeverMade) {
  FaultyFileSystem files;
  const TrainingState state;
  const absl::Status status = SaveRank(files, "/mnt/save", state, At(10), 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("save folder /mnt/save has vanished since this job began"),
                    HasSubstr("mount its file system again on this node")));
  EXPECT_FALSE(files.Exists("/mnt/save"));
  EXPECT_EQ(files.operations(), 0);
}

TEST(SaveFolder, FolderWithoutTheJobsMarker_IsAnotherOne) {
  FaultyFileSystem files;
  const TrainingState state;
  ASSERT_TRUE(BeginJob(files, "/save", "job-b").ok());
  const int64_t before = files.operations();
  const absl::Status status = SaveRank(files, "/save", state, At(10), 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("save folder /save is not the folder that this job began with"),
                    HasSubstr("touch /save/.dsrun-probe-job-a")));
  EXPECT_EQ(files.operations(), before) << "nothing is written";
  ASSERT_TRUE(AdoptSaveFolder(files, "/save", "job-a").ok());
  EXPECT_TRUE(AdoptSaveFolder(files, "/save", "job-a").ok()) << "it is already";
  EXPECT_TRUE(SaveRank(files, "/save", state, At(10), 0).ok());
  EXPECT_EQ(JobOfSaveFolderMarker(SaveFolderMarker("job-a")), "job-a");
  EXPECT_EQ(JobOfSaveFolderMarker("notes.txt"), std::nullopt);
}

TEST(SaveFolder, FolderThatCannotBeLookedAt_IsThatError) {
  FaultyFileSystem files;
  const TrainingState state;
  ASSERT_TRUE(BeginJob(files, "/save", "job-a").ok());
  files.FailCalls(0, 1,
                  {ErrnoStatus(ESTALE, "look at", "it"), FaultyFileSystem::Fault::Done::kNothing});
  const absl::Status status = SaveRank(files, "/save", state, At(10), 0).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("Stale file handle"));
}

// Before the n-th operation of a save, on the real file system, the folder is exchanged for an
// empty one, as when its mount goes away.
class ExchangedSaveFolder : public ::testing::TestWithParam<int64_t> {
 protected:
  ExchangedSaveFolder() : root_(::testing::TempDir() + "/vanish-XXXXXX"), options_(At(20)) {
    EXPECT_NE(mkdtemp(root_.data()), nullptr);
    EXPECT_TRUE(BeginJob(real_, first(), "job-a").ok());
    EXPECT_TRUE(Save(real_, first(), state_, At(10)).ok());
    options_.width = GetParam();
  }
  ~ExchangedSaveFolder() override { fs::remove_all(root_); }
  std::string first() const { return root_ + "/first"; }

  // False: the save has fewer operations.
  bool SaveExchangedAt(int64_t n) {
    const std::string folder = root_ + "/" + std::to_string(n);
    const std::string mounted = folder + ".mounted";
    fs::copy(first(), folder);
    bool vanished = false;
    StoppingFileSystem stopping(real_, n, [&] {
      vanished = true;
      fs::rename(folder, mounted);
      fs::create_directory(folder);
    });
    const absl::StatusOr<std::string> saved = Save(stopping, folder, state_, options_);
    if (!vanished) return false;
    ++ends_[absl::StatusCodeToString(saved.status().code())];
    const std::vector<std::string> beneath = real_.List(folder).value();
    for (const std::string& name : beneath) {
      EXPECT_FALSE(ParseShardFileName(name).has_value())
          << n << ": " << name << " lies on the disk beneath; " << saved.status();
    }
    // The mount is there again.
    fs::remove_all(folder);
    fs::rename(mounted, folder);
    const auto newest = FindNewestCheckpoint(real_, folder, {}, nullptr);
    EXPECT_TRUE(newest.ok()) << n << ": " << newest.status();
    if (newest.ok() && saved.ok()) {
      EXPECT_EQ(newest->manifest_name(), *saved) << n << ": what was called safe is there";
    } else if (newest.ok() && !MayBeCommitted(saved.status())) {
      EXPECT_EQ(newest->manifest().facts.key.step, Step(10)) << n << ": " << saved.status();
    }
    return true;
  }

  FileSystem& real_ = FileSystem::Real();
  std::string root_;
  const TrainingState state_;
  SaveOptions options_;
  std::map<std::string, int> ends_;
};

TEST_P(ExchangedSaveFolder, AtAnyOperationOfASave_TakesNoShardAndClaimsNoCommit) {
  for (int64_t n = 0; SaveExchangedAt(n);) ++n;
  for (const auto& [code, count] : ends_) std::cout << count << " ended with " << code << "\n";
  EXPECT_GT(ends_["UNAVAILABLE"], 0);
  EXPECT_GT(ends_["UNKNOWN"], 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, ExchangedSaveFolder, ::testing::Values(1, 2),
                         [](const auto& info) { return std::to_string(info.param); });

}  // namespace
}  // namespace dsrun::worker
