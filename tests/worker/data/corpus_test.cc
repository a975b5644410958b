#include "worker/data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/sha256.h"
#include "tests/fakes/faulty_file_system.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

std::string Text(int64_t bytes) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>(1 + (i * i + 7 * i) % 251);
  return text;
}

class CorpusTest : public ::testing::Test {
 protected:
  // `text`, cut into files at `cuts`.
  std::unique_ptr<Corpus> Open(const std::string& text, std::vector<size_t> cuts) {
    files_.clear();
    cuts.push_back(text.size());
    size_t begin = 0;
    for (const size_t end : cuts) {
      const std::string path = "/text/" + std::to_string(files_.size());
      fs_.Write(path, text.substr(begin, end - begin));
      files_.push_back({path, static_cast<int64_t>(end - begin)});
      begin = end;
    }
    return Corpus::Open(files_, fs_).value();
  }
  FaultyFileSystem fs_;
  std::vector<CorpusFile> files_;  // of the last Open
};

TEST_F(CorpusTest, FilesRunTogether) {
  const std::string text = Text(300);
  for (const std::vector<size_t>& cuts :
       {std::vector<size_t>{}, {1}, {100, 101, 102}, {299}, {50, 50, 200}}) {
    const auto corpus = Open(text, cuts);
    ASSERT_EQ(corpus->size(), 300);
    EXPECT_EQ(CorpusSha256(files_, fs_).value(), Sha256Hex(text));  // the same order
    for (int64_t offset = 0; offset < 300; offset += 7) {
      for (const int64_t length : {0, 1, 5, 100}) {
        if (offset + length > 300) continue;
        std::vector<uint8_t> bytes(static_cast<size_t>(length));
        corpus->Read(offset, bytes);
        EXPECT_EQ(std::string(bytes.begin(), bytes.end()),
                  text.substr(static_cast<size_t>(offset), static_cast<size_t>(length)));
      }
    }
  }
}

TEST_F(CorpusTest, ChangedFile_IsRefused) {
  fs_.Write("/text/0", "four");
  const auto corpus = Corpus::Open({{"/text/0", 5}}, fs_);
  EXPECT_EQ(corpus.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(corpus.status().message()), HasSubstr("expected 5 bytes, got 4"));
}

TEST_F(CorpusTest, Sample_IsAFunctionOfSeedAndIndexAlone) {
  const std::string text = Text(1000);
  const auto one = Open(text, {});
  const auto forward = SampleLoader::Create(*one, 7, 32, 256).value();
  std::vector<std::vector<int32_t>> seen;
  std::vector<int32_t> tokens(32), targets(32);
  for (int64_t index = 0; index < 200; ++index) {
    forward.Sample(index, tokens, targets);
    seen.push_back(tokens);
    const std::string window =
        text.substr(static_cast<size_t>(SampleOffset(7, index, 1000, 32)), 33);
    for (size_t t = 0; t < 32; ++t) {
      ASSERT_EQ(tokens[t], static_cast<uint8_t>(window[t]));
      ASSERT_EQ(targets[t], static_cast<uint8_t>(window[t + 1]));
    }
  }
  // Another loader over other files, asked backwards.
  const auto many = Open(text, {10, 500, 501});
  const auto backward = SampleLoader::Create(*many, 7, 32, 256).value();
  for (int64_t index = 199; index >= 0; --index) {
    backward.Sample(index, tokens, targets);
    ASSERT_EQ(tokens, seen[static_cast<size_t>(index)]) << index;
  }
  const auto other = SampleLoader::Create(*one, 8, 32, 256).value();
  int64_t same = 0;
  for (int64_t index = 0; index < 200; ++index) {
    other.Sample(index, tokens, targets);
    same += tokens == seen[static_cast<size_t>(index)];
  }
  EXPECT_LT(same, 5);
}

TEST_F(CorpusTest, Samples_ReachFirstAndLastWindowEvenly) {
  std::vector<int64_t> counts(10, 0);
  for (int64_t index = 0; index < 10'000; ++index) {
    ++counts.at(static_cast<size_t>(SampleOffset(1, index, 42, 32)));
  }
  for (const int64_t count : counts) EXPECT_NEAR(static_cast<double>(count), 1000.0, 150.0);
}

TEST_F(CorpusTest, TextNotLongerThanASequence_IsRefused) {
  const auto corpus = Open(Text(32), {});
  const absl::Status status = SampleLoader::Create(*corpus, 1, 32, 256).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("has 32 bytes; expected more than 32 (--seq-length)"));
  EXPECT_TRUE(SampleLoader::Create(*Open(Text(33), {}), 1, 32, 256).ok());
}

TEST_F(CorpusTest, ByteThatTheVocabularyDoesNotHave_IsNamedWithFileAndOffset) {
  fs_.Write("/text/0", std::string(100, 'a'));
  fs_.Write("/text/1", std::string(40, 'b') + "\x80" + std::string(40, 'b'));
  const auto corpus = Corpus::Open({{"/text/0", 100}, {"/text/1", 81}}, fs_).value();
  const absl::Status status = SampleLoader::Create(*corpus, 1, 32, 128).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("/text/1, byte 40: expected less than 128, the vocabulary of the model, got 128"));
  EXPECT_TRUE(SampleLoader::Create(*corpus, 1, 32, 129).ok());
  EXPECT_TRUE(SampleLoader::Create(*corpus, 1, 32, 50257).ok());
}

}  // namespace
}  // namespace dsrun::worker
