// The marker of a save folder that somebody removes while the job runs.

#include "launcher/shell/marker_keeper.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace dsrun::launcher {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kMarker[] = ".dsrun-probe-j";

class MarkerTest : public ::testing::Test {
 protected:
  MarkerTest() {
    root_ = ::testing::TempDir() + "/markerXXXXXX";
    EXPECT_NE(mkdtemp(root_.data()), nullptr);
    fs::create_directory(save());
    fd_ = open(save().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    std::ofstream(marker()) << "content";
  }
  ~MarkerTest() override { close(fd_); }

  std::string save() const { return root_ + "/save"; }
  std::string marker() const { return save() + "/" + kMarker; }
  MarkerLook Look() const { return LookForMarker(fd_, kMarker, "content"); }

  std::string root_;
  int fd_ = -1;
};

TEST_F(MarkerTest, OneThatIsThere_GetsThePresentTime) {
  const timespec old[2] = {{1000, 0}, {1000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, marker().c_str(), old, 0), 0);
  const absl::StatusOr<bool> found = Look()();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(*found);
  struct stat info;
  ASSERT_EQ(stat(marker().c_str(), &info), 0);
  EXPECT_GT(info.st_mtime, 1'000'000'000);
  EXPECT_GT(info.st_atime, 1'000'000'000);
}

TEST_F(MarkerTest, OneThatWasRemoved_IsBackWithItsContentAndNothingElse) {
  const MarkerLook look = Look();
  ASSERT_TRUE(fs::remove(marker()));
  const absl::StatusOr<bool> found = look();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(*found);
  std::string content;
  std::ifstream(marker()) >> content;
  EXPECT_EQ(content, "content");
  EXPECT_EQ(std::distance(fs::directory_iterator(save()), fs::directory_iterator()), 1);
}

// As where a mount goes away: the path leads to another folder from now on.
TEST_F(MarkerTest, AnotherFolderOnThePath_GetsNoMarker) {
  const MarkerLook look = Look();
  fs::rename(save(), root_ + "/the real one");
  fs::create_directory(save());
  fs::remove(root_ + "/the real one/" + kMarker);
  const absl::StatusOr<bool> found = look();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(fs::exists(marker()));
  EXPECT_TRUE(fs::exists(root_ + "/the real one/" + kMarker));
}

TEST_F(MarkerTest, FolderThatWasRemoved_IsAnError_AndIsNotMadeAgain) {
  const MarkerLook look = Look();
  fs::remove_all(save());
  EXPECT_FALSE(look().ok());
  EXPECT_FALSE(fs::exists(save()));
}

TEST_F(MarkerTest, NoFolder_NoLook) { EXPECT_FALSE(LookForMarker(-1, kMarker, "content")); }

// The lines that the operator gets, given out as they come.
class Lines {
 public:
  std::function<void(const std::string&)> Say() {
    return [this](const std::string& line) {
      if (said_++ == 0) first_.set_value(line);
    };
  }
  std::string First() { return first_.get_future().get(); }
  int said() const { return said_; }

 private:
  std::promise<std::string> first_;
  std::atomic<int> said_ = 0;
};

TEST_F(MarkerTest, Keeper_PutsItBackAndSaysSo) {
  ASSERT_TRUE(fs::remove(marker()));
  Lines lines;
  {
    const MarkerKeeper keeper(Look(), lines.Say());
    EXPECT_THAT(lines.First(), AllOf(HasSubstr("put back"), HasSubstr(".dsrun-probe-")));
  }
  EXPECT_TRUE(fs::exists(marker()));
  EXPECT_EQ(lines.said(), 1);
}

TEST_F(MarkerTest, WhatCannotBeKept_IsSaidOnceForEachReason) {
  Lines lines;
  std::promise<void> enough;
  std::atomic<int> looks = 0;
  const auto look = [&]() -> absl::StatusOr<bool> {
    if (++looks == 3) enough.set_value();
    return absl::UnavailableError("cannot look for it: Stale file handle");
  };
  {
    const MarkerKeeper keeper(look, lines.Say(), {.every = absl::ZeroDuration()});
    enough.get_future().wait();
  }
  EXPECT_THAT(lines.First(), HasSubstr("Stale file handle; without it every save fails"));
  EXPECT_EQ(lines.said(), 1);
}

// A file server that hangs does not hold up the end, and nothing is said after it.
TEST_F(MarkerTest, LookThatHangs_IsLeftBehind) {
  struct Server {
    std::promise<void> asked;
    std::promise<void> answers;
    std::promise<void> gone;
    ~Server() { gone.set_value(); }
  };
  auto server = std::make_shared<Server>();
  std::future<void> gone = server->gone.get_future();
  std::promise<void>& answers = server->answers;
  std::atomic<int> said = 0;
  {
    std::future<void> asked = server->asked.get_future();
    const MarkerKeeper keeper(
        [server]() -> absl::StatusOr<bool> {
          server->asked.set_value();
          server->answers.get_future().wait();
          return true;
        },
        [&](const std::string&) { ++said; }, {.patience = absl::ZeroDuration()});
    asked.wait();
  }
  answers.set_value();
  server.reset();
  gone.wait();  // the thread has ended
  EXPECT_EQ(said, 0);
}

// It is looked for every second or so, and told when the words change.
TEST(LookForMarker, InAFolderThatIsGone_FailsInTheSameWordsAgain) {
  std::string folder = ::testing::TempDir() + "/goneXXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const MarkerLook look = LookForMarker(fd, "marker", "content");
  close(fd);
  ASSERT_EQ(rmdir(folder.c_str()), 0);
  const absl::Status first = look().status();
  EXPECT_FALSE(first.ok());
  EXPECT_EQ(look().status(), first);
}

}  // namespace
}  // namespace dsrun::launcher
