#include "common/corpus/corpus_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/sha256.h"
#include "tests/fakes/faulty_file_system.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::vector<CorpusFile>> List(FileSystem& fs, std::vector<std::string> paths) {
  return ListCorpus(paths, fs);
}

TEST(CorpusFilesTest, Folders_AreSortedBytewiseByPath) {
  FaultyFileSystem fs;
  fs.Write("/text/b", "22");
  fs.Write("/text/B", "1");
  fs.Write("/text/a/x", "333");
  fs.Write("/text/a-b", "4444");
  fs.Write("/text/empty", "");
  fs.Write("/first", "55555");
  EXPECT_THAT(
      List(fs, {"/first", "/text"}).value(),
      ElementsAre(CorpusFile{"/first", 5}, CorpusFile{"/text/B", 1}, CorpusFile{"/text/a-b", 4},
                  CorpusFile{"/text/a/x", 3}, CorpusFile{"/text/b", 2}));
  EXPECT_EQ(List(fs, {"/text", "/text"})->size(), 8u);
}

TEST(CorpusFilesTest, Sha256_IsOfAllBytesInOrder) {
  FaultyFileSystem fs;
  const std::string large((2 << 20) + 3, 'a');  // several reads
  fs.Write("/large", large);
  fs.Write("/small", "b");
  const auto files = List(fs, {"/large", "/small"}).value();
  EXPECT_EQ(CorpusSha256(files, fs).value(), Sha256Hex(large + "b"));
  EXPECT_EQ(CorpusSha256(List(fs, {"/small", "/large"}).value(), fs).value(),
            Sha256Hex("b" + large));
  fs.Write("/small", "bb");
  const absl::Status changed = CorpusSha256(files, fs).status();
  EXPECT_EQ(changed.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(changed.message()),
            "training text /small: expected 1 byte, got 2; it must not change while it is read");
}

TEST(CorpusFilesTest, AllFindings_AreNamedAtOnce) {
  FaultyFileSystem fs;
  fs.Write("/text/good", "text");
  fs.Write("/text/binary", std::string("ab\0d", 4));
  fs.Write("/text/late", std::string((1 << 20) + 3, 'a') + std::string(1, '\0'));
  fs.Write("/text/locked", "secret");
  fs.FailReads("/text/locked", ErrnoStatus(13, "open", "/text/locked"));
  fs.Write("/empty", "");
  ASSERT_TRUE(fs.CreateFolder("/hollow").ok());
  const absl::Status status = List(fs, {"/text", "/none", "/empty", "/hollow"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "the training text cannot be read (6 of 6 findings shown):\n"
            "  /text/binary: not text: a zero byte at offset 2\n"
            "  /text/late: not text: a zero byte at offset 1048579\n"
            "  /text/locked: cannot open /text/locked: Permission denied\n"
            "  /none: no such file or folder\n"
            "  /empty: empty; expected text\n"
            "  /hollow: no text in this folder\n"
            "--data takes files and folders of text");
}

TEST(CorpusFilesTest, ManyFindings_AreBounded) {
  FaultyFileSystem fs;
  for (int i = 0; i < 100; ++i) fs.Write("/t/" + std::to_string(i), std::string(1, '\0'));
  const std::string message(List(fs, {"/t"}).status().message());
  EXPECT_THAT(message, HasSubstr("(20 of 100 findings shown)"));
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 21);
}

TEST(CorpusFilesTest, NoPath_IsAnError) {
  FaultyFileSystem fs;
  EXPECT_THAT(std::string(List(fs, {}).status().message()), HasSubstr("no path given"));
}

TEST(CorpusFilesTest, RealLinks_AreFollowedAndLoopsFound) {
  std::string root = std::string(std::getenv("TEST_TMPDIR")) + "/corpus.XXXXXX";
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  FileSystem& fs = FileSystem::Real();
  auto file = fs.CreateExclusive(root + "/GPL-3").value();
  const std::string text = "words";
  ASSERT_TRUE(file->Append(std::as_bytes(std::span(text))).ok());
  ASSERT_EQ(symlink("GPL-3", (root + "/GPL").c_str()), 0);
  EXPECT_THAT(List(fs, {root}).value(),
              ElementsAre(CorpusFile{root + "/GPL", 5}, CorpusFile{root + "/GPL-3", 5}));
  ASSERT_EQ(symlink(".", (root + "/self").c_str()), 0);
  EXPECT_THAT(std::string(List(fs, {root}).status().message()),
              HasSubstr(root + "/self: a link to a folder that it lies in"));
  ASSERT_EQ(mkfifo((root + "/pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(List(fs, {root + "/pipe"}).status().message()),
              HasSubstr("/pipe: neither a file nor a folder"));
}

}  // namespace
}  // namespace dsrun
