// Every story in stories/ gives the transcript that is written in it. After a wanted change:
//
//   DSRUN_REWRITE_STORIES=$PWD/tests/launcher/coordinator/stories
//       bazel run //tests/launcher/coordinator:coordinator_test -- --gtest_filter='StoryTest.*'
//
// and read the difference in review.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/launcher/coordinator/story_player.h"

namespace dsrun::launcher {
namespace {

// Empty: compare.
std::string RewriteFolder() {
  const char* const given = std::getenv("DSRUN_REWRITE_STORIES");
  return given == nullptr ? "" : given;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::filesystem::path> Stories(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".txt") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

TEST(StoryTest, EveryStoryGoesAsWritten) {
  if (const std::string rewrite_folder = RewriteFolder(); !rewrite_folder.empty()) {
    for (const auto& path : Stories(rewrite_folder)) {
      const std::string played = PlayStory(ReadFile(path));
      std::ofstream(path) << played;
    }
    GTEST_SKIP() << "stories rewritten in " << rewrite_folder;
  }
  const auto stories = Stories("tests/launcher/coordinator/stories");
  EXPECT_GE(stories.size(), 12u);
  for (const auto& path : stories) {
    SCOPED_TRACE(path.filename().string());
    const std::string written = ReadFile(path);
    EXPECT_EQ(PlayStory(written), written);
    EXPECT_EQ(written.find("\n! "), std::string::npos) << "a story with a mistake in it";
  }
}

// The test of the tester: a transcript that was tampered with is noticed.
TEST(StoryTest, AWrongTranscriptIsNotTheSame) {
  const auto stories = Stories("tests/launcher/coordinator/stories");
  ASSERT_FALSE(stories.empty());
  std::string written = ReadFile(stories.front());
  const size_t sent = written.find("send to node 0");
  ASSERT_NE(sent, std::string::npos);
  written.replace(sent, 14, "send to node 7");
  EXPECT_NE(PlayStory(written), written);
}

}  // namespace
}  // namespace dsrun::launcher
