#include "common/base/private_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

namespace dsrun {
namespace {

// Makes one with TMPDIR set to `wanted`, and says in which folder.
std::string ParentOfOne(const std::string& wanted) {
  setenv("TMPDIR", wanted.c_str(), 1);
  const absl::StatusOr<std::string> folder = MakePrivateFolder("dsrun-test-");
  unsetenv("TMPDIR");
  if (!folder.ok()) return std::string(folder.status().message());
  struct stat info;
  EXPECT_EQ(stat(folder->c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  EXPECT_TRUE(std::filesystem::remove(*folder));
  return std::filesystem::path(*folder).parent_path();
}

TEST(PrivateFolder, IsMadeInTmpdir_WhereEveryUserMayGo_ElseInTmp) {
  std::string open = "/tmp/openXXXXXX";
  ASSERT_NE(mkdtemp(open.data()), nullptr);
  EXPECT_EQ(ParentOfOne(open), "/tmp");  // 0700: another user's ranks could not reach the socket
  ASSERT_EQ(chmod(open.c_str(), 0755), 0);
  EXPECT_EQ(ParentOfOne(open), open);
  EXPECT_EQ(ParentOfOne("relative"), "/tmp");
  EXPECT_EQ(ParentOfOne("/no/such/folder"), "/tmp");
  const std::string deep = open + "/" + std::string(60, 'd');
  ASSERT_TRUE(std::filesystem::create_directory(deep));
  EXPECT_EQ(ParentOfOne(deep), "/tmp");  // the socket's path would not fit
  std::filesystem::remove_all(open);
}

}  // namespace
}  // namespace dsrun
