// What an earlier job has left is kept, whatever else is there.

#include "launcher/shell/set_aside.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/fakes/faulty_file_system.h"

namespace dsrun::launcher {
namespace {

class SetAsideTest : public ::testing::Test {
 protected:
  SetAsideTest() { EXPECT_NE(mkdtemp(folder_.data()), nullptr); }
  ~SetAsideTest() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name)) << text;
  }
  std::string Read(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(Path(name)).rdbuf();
    return text.str();
  }
  absl::StatusOr<std::string> Set(const std::string& name) const {
    return SetAside(FileSystem::Real(), Path(name));
  }

  std::string folder_ = ::testing::TempDir() + "/aside-XXXXXX";
};

TEST_F(SetAsideTest, EachTime_TheNextNumberThatIsFreeHasIt) {
  Write("m.2", "somebody's");
  for (const std::string number : {"1", "3", "4"}) {
    Write("m", "run " + number);
    EXPECT_EQ(*Set("m"), Path("m." + number));
    EXPECT_FALSE(std::filesystem::exists(Path("m")));
    EXPECT_EQ(Read("m." + number), "run " + number);
  }
  EXPECT_EQ(Read("m.2"), "somebody's");
}

TEST_F(SetAsideTest, NothingToKeep_IsLeftAlone) {
  Write("empty", "");
  EXPECT_EQ(*Set("empty"), "");
  EXPECT_TRUE(std::filesystem::exists(Path("empty")));
  EXPECT_EQ(*Set("none"), "");
  EXPECT_EQ(*SetAside(FileSystem::Real(), "/dev/null"), "");
}

TEST_F(SetAsideTest, BehindALink_TheFileIsMovedAndTheLinkStays) {
  std::filesystem::create_directory(Path("elsewhere"));
  Write("elsewhere/m", "kept");
  std::filesystem::create_symlink("elsewhere/m", Path("link"));
  EXPECT_EQ(*Set("link"), std::filesystem::canonical(folder_).string() + "/elsewhere/m.1");
  EXPECT_TRUE(std::filesystem::is_symlink(Path("link")));
  EXPECT_EQ(Read("elsewhere/m.1"), "kept");
}

TEST(SetAside, WhereItCannotBeMoved_IsAnErrorAndTheFileStays) {
  FaultyFileSystem fs;
  ASSERT_TRUE(fs.CreateFolder("/run").ok());
  fs.Write("/run/m", "kept");
  fs.FailOperation(0, absl::UnavailableError("rename: device is busy"));
  const absl::Status moved = SetAside(fs, "/run/m").status();
  EXPECT_EQ(moved.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(moved.message().find("in /run/m cannot be kept"), absl::string_view::npos) << moved;
  EXPECT_EQ(*ReadFile(fs, "/run/m"), "kept");
  fs.SetExclusiveRename(false);  // and goes on where nothing better can be had
  fs.Write("/run/m.1", "somebody's");
  EXPECT_EQ(*SetAside(fs, "/run/m"), "/run/m.2");
  EXPECT_EQ(*ReadFile(fs, "/run/m.1"), "somebody's");
}

}  // namespace
}  // namespace dsrun::launcher
