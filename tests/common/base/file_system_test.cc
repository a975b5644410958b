#include "common/base/file_system.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "common/base/descriptor.h"
#include "tests/fakes/faulty_file_system.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// Both implementations keep the same promises.
class FileSystemTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      std::string pattern = std::string(std::getenv("TEST_TMPDIR")) + "/fs.XXXXXX";
      ASSERT_NE(mkdtemp(pattern.data()), nullptr);
      root_ = pattern;
      fs_ = &FileSystem::Real();
    } else {
      fake_ = std::make_unique<FaultyFileSystem>();
      fs_ = fake_.get();
      root_ = "/root";
    }
    ASSERT_TRUE(fs_->CreateFolder(root_).ok());
  }
  std::string Path(const std::string& name) const { return JoinPath(root_, name); }
  void Write(const std::string& name, const std::string& text) {
    auto file = fs_->CreateOrTruncate(Path(name));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append(Bytes(text)).ok());
    ASSERT_TRUE((*file)->Close().ok());
  }

  std::unique_ptr<FaultyFileSystem> fake_;
  FileSystem* fs_ = nullptr;
  std::string root_;
};

INSTANTIATE_TEST_SUITE_P(All, FileSystemTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Real" : "Faulty"; });

TEST_P(FileSystemTest, WhatIsWrittenIsRead) {
  Write("a", "hello");
  EXPECT_EQ(ReadFile(*fs_, Path("a")).value(), "hello");
  EXPECT_EQ(fs_->Stat(Path("a"))->bytes, 5);
  EXPECT_EQ(fs_->Stat(Path("a"))->kind, FileKind::kRegular);
  const auto mapped = fs_->Map(Path("a")).value();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped->bytes().data()), 5), "hello");
  auto more = fs_->OpenToAppend(Path("a")).value();
  ASSERT_TRUE(more->Append(Bytes(" you")).ok());
  EXPECT_EQ(ReadFile(*fs_, Path("a")).value(), "hello you");
  Write("a", "");
  EXPECT_EQ(ReadFile(*fs_, Path("a")).value(), "");
  EXPECT_TRUE(fs_->Map(Path("a")).value()->bytes().empty());
}

TEST_P(FileSystemTest, CreateExclusive_OfWhatIsThere_IsRefusedAndLeavesIt) {
  Write("a", "mine");
  const auto again = fs_->CreateExclusive(Path("a"));
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr(Path("a") + ": File exists"));
  EXPECT_EQ(ReadFile(*fs_, Path("a")).value(), "mine");
  EXPECT_TRUE(fs_->CreateExclusive(Path("b")).ok());
}

TEST_P(FileSystemTest, Rename_ReplacesOnlyWhenAsked) {
  Write("a", "new");
  Write("b", "old");
  EXPECT_EQ(fs_->Rename(Path("a"), Path("b"), FileSystem::IfExists::kFail).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadFile(*fs_, Path("b")).value(), "old");
  ASSERT_TRUE(fs_->Rename(Path("a"), Path("b"), FileSystem::IfExists::kReplace).ok());
  EXPECT_EQ(ReadFile(*fs_, Path("b")).value(), "new");
  ASSERT_TRUE(fs_->Rename(Path("b"), Path("c"), FileSystem::IfExists::kFail).ok());
  EXPECT_THAT(fs_->List(root_).value(), ElementsAre("c"));
}

TEST_P(FileSystemTest, List_IsSortedBytewise) {
  for (const std::string name : {"b", "B", "a", "a.b", "ä"}) Write(name, "x");
  ASSERT_TRUE(fs_->CreateFolder(Path("deep/er")).ok());
  ASSERT_TRUE(fs_->CreateFolder(Path("deep/er")).ok());
  EXPECT_THAT(fs_->List(root_).value(), ElementsAre("B", "a", "a.b", "b", "deep", "ä"));
  EXPECT_EQ(fs_->Stat(Path("deep/er"))->kind, FileKind::kFolder);
}

TEST_P(FileSystemTest, ErrorsNamePathAndReason) {
  const absl::Status missing = fs_->OpenToRead(Path("none")).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(missing.message()),
            "cannot open " + Path("none") + ": No such file or directory");
  EXPECT_EQ(fs_->RemoveFile(Path("none")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs_->List(Path("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(*fs_, root_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs_->CreateOrTruncate(Path("no/such")).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(FileSystemTest, ReadAt_BeyondTheEnd_IsOutOfRange) {
  Write("a", "hello");
  auto file = fs_->OpenToRead(Path("a")).value();
  std::string into(3, ' ');
  ASSERT_TRUE(file->ReadAt(2, std::as_writable_bytes(std::span(into))).ok());
  EXPECT_EQ(into, "llo");
  EXPECT_EQ(file->ReadAt(3, std::as_writable_bytes(std::span(into))).code(),
            absl::StatusCode::kOutOfRange);
}

TEST_P(FileSystemTest, WriteFileAtomically_LeavesNoTemporary) {
  ASSERT_TRUE(
      WriteFileAtomically(*fs_, Path("a"), Path("a.tmp"), "text", FileSystem::IfExists::kFail)
          .ok());
  EXPECT_FALSE(
      WriteFileAtomically(*fs_, Path("a"), Path("a.tmp"), "other", FileSystem::IfExists::kFail)
          .ok());
  EXPECT_EQ(ReadFile(*fs_, Path("a")).value(), "text");
  EXPECT_THAT(fs_->List(root_).value(), ElementsAre("a"));
}

// What a network file system leaves behind that has executed a link and lost its reply: asked
// again, it says that the new name exists.
TEST_P(FileSystemTest, Rename_ToANameThatIsTheSameFile_IsDone) {
  if (!GetParam()) GTEST_SKIP() << "the fake has no hard links";
  for (const auto if_exists : {FileSystem::IfExists::kFail, FileSystem::IfExists::kReplace}) {
    Write("a", "mine");
    ASSERT_EQ(link(Path("a").c_str(), Path("b").c_str()), 0);
    const absl::Status renamed = fs_->Rename(Path("a"), Path("b"), if_exists);
    EXPECT_TRUE(renamed.ok()) << renamed;
    EXPECT_EQ(ReadFile(*fs_, Path("b")).value(), "mine");
    ASSERT_TRUE(fs_->RemoveFile(Path("b")).ok());
    unlink(Path("a").c_str());  // rename(2) of two names of one file does nothing
  }
  // The same content is not the same file.
  Write("a", "mine");
  Write("b", "mine");
  EXPECT_EQ(fs_->Rename(Path("a"), Path("b"), FileSystem::IfExists::kFail).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(fs_->List(root_).value(), ElementsAre("a", "b"));
}

TEST(FaultyFileSystemTest, WriteFileAtomically_WhoseRenameLostItsReply_IsDone) {
  using Fault = FaultyFileSystem::Fault;
  for (const auto if_exists : {FileSystem::IfExists::kFail, FileSystem::IfExists::kReplace}) {
    int64_t done = 0;
    for (int64_t call = 0; call < 6; ++call) {
      FaultyFileSystem fs;
      ASSERT_TRUE(fs.CreateFolder("/d").ok());
      fs.FailCalls(call, 1, {ErrnoStatus(ENOENT, "do", "it"), Fault::Done::kAll});
      const absl::Status written = WriteFileAtomically(fs, "/d/a", "/d/a.tmp", "text", if_exists);
      const bool there = fs.Exists("/d/a");
      // The last call is the folder's sync, after which it may not last.
      EXPECT_EQ(written.ok(), there && call != 5) << call << ": " << written;
      EXPECT_FALSE(fs.Exists("/d/a.tmp")) << call;
      done += written.ok() ? 1 : 0;
    }
    EXPECT_EQ(done, 1) << "the rename's";
  }
}

TEST(FileSystemRealTest, FullDisk_IsResourceExhausted) {
  auto file = FileSystem::Real().OpenToAppend("/dev/full");
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status status = (*file)->Append(Bytes("x"));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(status.message()), "cannot write to /dev/full: No space left on device");
}

TEST(FileSystemRealTest, Stat_FollowsSymbolicLinks) {
  std::string pattern = std::string(std::getenv("TEST_TMPDIR")) + "/link.XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  ASSERT_EQ(symlink("nowhere", (pattern + "/dangling").c_str()), 0);
  EXPECT_EQ(FileSystem::Real().Stat(pattern + "/dangling").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_P(FileSystemTest, CreateFolderAndSync_MakesWhatIsMissing) {
  EXPECT_TRUE(CreateFolderAndSync(*fs_, Path("a/b/c")).ok());
  EXPECT_TRUE(CreateFolderAndSync(*fs_, Path("a/b/c")).ok()) << "it is there";
  EXPECT_EQ(fs_->Stat(Path("a/b/c"))->kind, FileKind::kFolder);
  Write("file", "x");
  EXPECT_FALSE(CreateFolderAndSync(*fs_, Path("file")).ok());
}

TEST(FaultyFileSystemTest, CreateFolderAndSync_SyncsEveryNewName_AndReportsWhatFails) {
  FaultyFileSystem fs;
  ASSERT_TRUE(fs.CreateFolder("/d").ok());
  const int64_t before = fs.operations();
  ASSERT_TRUE(CreateFolderAndSync(fs, "/d/a/b").ok());
  EXPECT_EQ(fs.operations() - before, 4) << "two are made, and the folder of each is synced";
  ASSERT_TRUE(CreateFolderAndSync(fs, "/d/a/b").ok());
  EXPECT_EQ(fs.operations() - before, 4) << "nothing is new";
  for (int64_t n = 0; n < 4; ++n) {
    fs.FailOperation(n, absl::UnavailableError("on purpose"));
    EXPECT_TRUE(absl::IsUnavailable(CreateFolderAndSync(fs, "/d/x" + std::to_string(n) + "/y")))
        << n;
  }
}

TEST(RandomDigits, AreSixteenAndOthersEveryTime) {
  EXPECT_THAT(RandomDigits(), ::testing::MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(RandomDigits().size(), 16u);
  EXPECT_NE(RandomDigits(), RandomDigits());
}

TEST(Descriptor, IsClosedOnceByItsLastOwner) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const auto is_open = [](int fd) { return fcntl(fd, F_GETFD) >= 0; };
  {
    Descriptor first(ends[0]);
    Descriptor second(std::move(first));
    EXPECT_EQ(second.get(), ends[0]);
    EXPECT_TRUE(is_open(ends[0]));
  }
  EXPECT_FALSE(is_open(ends[0]));
  {
    Descriptor given_away(ends[1]);
    EXPECT_EQ(given_away.Release(), ends[1]);
    EXPECT_LT(given_away.get(), 0);
  }
  EXPECT_TRUE(is_open(ends[1]));
  close(ends[1]);
  const Descriptor none(-1);
  EXPECT_LT(none.get(), 0);
}

TEST(FaultyFileSystemTest, Recover_ShowsWhatADiskCouldShow) {
  using Crash = FaultyFileSystem::Crash;
  for (const Crash crash : {Crash::kProcess, Crash::kMachine, Crash::kMachineKeepNames}) {
    FaultyFileSystem fs;
    ASSERT_TRUE(fs.CreateFolder("/d").ok());
    auto synced = fs.CreateExclusive("/d/synced").value();
    ASSERT_TRUE(synced->Append(Bytes("abc")).ok());
    ASSERT_TRUE(synced->Sync().ok());
    ASSERT_TRUE(fs.SyncFolder("/d").ok());
    ASSERT_TRUE(synced->Append(Bytes("def")).ok());
    auto loose = fs.CreateExclusive("/d/loose").value();
    fs.CrashAtOperation(0);
    EXPECT_FALSE(loose->Append(Bytes("wxyz")).ok());
    EXPECT_FALSE(fs.List("/d").ok());
    fs.Recover(crash);
    EXPECT_EQ(fs.Exists("/d/loose"), crash != Crash::kMachine);
    EXPECT_EQ(ReadFile(fs, "/d/synced").value(), crash == Crash::kProcess ? "abcdef" : "abc");
    if (crash != Crash::kMachine) {
      EXPECT_EQ(ReadFile(fs, "/d/loose").value(), crash == Crash::kProcess ? "wx" : "");
    }
  }
}

TEST(PathTest, JoinAndFolderAreInverse) {
  EXPECT_EQ(JoinPath("/a", "b"), "/a/b");
  EXPECT_EQ(JoinPath("/a/", "b"), "/a/b");
  EXPECT_EQ(FolderOf("/a/b"), "/a");
  EXPECT_EQ(FolderOf("/a/b/"), "/a");
  EXPECT_EQ(FolderOf("/a"), "/");
  EXPECT_EQ(FolderOf("/"), "/");
  EXPECT_EQ(FolderOf("a"), ".");
}

}  // namespace
}  // namespace dsrun
