// The command line of dsagent: paths.

#include "agent/dsagent_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace dsrun::agent {
namespace {

using ::testing::HasSubstr;

TEST(DsagentFlags, Paths_AreAbsoluteWhateverFolderComesLater) {
  const std::filesystem::path here = std::filesystem::current_path();
  const auto flags = ParseDsagentFlags({"--worker-binary", "./bin/../dsworker", "--run-dir=runs",
                                        "--socket-dir", "../sockets", "--cluster-key-file=key"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->worker_binary, here / "dsworker");
  EXPECT_EQ(flags->run_dir, here / "runs");
  EXPECT_EQ(flags->socket_dir, here.parent_path() / "sockets");
  EXPECT_EQ(flags->cluster_key_file, here / "key");
  const auto given = ParseDsagentFlags({"--run-dir", "/a/./b"});
  ASSERT_TRUE(given.ok());
  EXPECT_EQ(given->run_dir, "/a/./b");
  EXPECT_EQ(given->socket_dir, "");
}

TEST(DsagentFlags, RelativePathInAFolderThatIsGone_IsRefusedByItsFlag) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::string gone = "/tmp/gone-XXXXXX";
  ASSERT_NE(mkdtemp(gone.data()), nullptr);
  ASSERT_EQ(chdir(gone.c_str()), 0);
  ASSERT_EQ(rmdir(gone.c_str()), 0);
  const auto relative = ParseDsagentFlags({"--run-dir", "runs"});
  const auto absolute = ParseDsagentFlags({"--run-dir", "/runs"});
  ASSERT_EQ(chdir(before.c_str()), 0);
  EXPECT_EQ(relative.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(relative.status().message()),
              HasSubstr("--run-dir: \"runs\" is relative, and the present folder is not known"));
  EXPECT_TRUE(absolute.ok());
}

TEST(DsagentFlags, InputOutputAndErrors_AreNoDescriptorsToGiveAway) {
  for (const std::string flag : {"--ready-fd", "--cluster-key-fd"}) {
    for (const std::string number : {"0", "1", "2", "-1", "3x"}) {
      const auto flags = ParseDsagentFlags({flag, number});
      EXPECT_EQ(flags.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(flags.status().message()),
                  HasSubstr(flag + ": expected a descriptor number from 3 up, got \"" + number));
    }
    EXPECT_TRUE(ParseDsagentFlags({flag, "3"}).ok());
  }
}

}  // namespace
}  // namespace dsrun::agent
