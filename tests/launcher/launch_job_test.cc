// LaunchJob where nothing can be started: bad input, said with a way out.

#include "launcher/shell/launch_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "launcher/shell/operator_stops.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

proto::JobSpec Job(const std::string& run_dir) {
  proto::JobSpec job;
  job.set_job_id("j");
  job.set_run_dir(run_dir);
  job.mutable_program()->set_executable("/bin/true");
  proto::NodeSpec& node = *job.add_nodes();
  node.set_host("h");
  node.set_address("127.0.0.1");
  node.add_slots(0);
  return job;
}

struct Said {
  int code = 0;
  std::string text;
};

Said Launch(const proto::JobSpec& job, const std::string& probe_path = "") {
  LaunchOptions options;
  options.agent_binary = "/bin/false";
  options.probe_path = probe_path;
  ::testing::internal::CaptureStderr();
  Said said;
  const auto stops = OperatorStops::Create();
  EXPECT_TRUE(stops.ok()) << stops.status();
  said.code = LaunchJob(job, options, **stops);
  said.text = ::testing::internal::GetCapturedStderr();
  return said;
}

TEST(LaunchJob, RunFolderThatCannotBeMade_IsBadInputAndNamesTheFlag) {
  const Said said = Launch(Job("/proc/no-such-folder"));
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("/proc/no-such-folder"));
  EXPECT_THAT(said.text, HasSubstr("--run-dir"));
  EXPECT_THAT(said.text, HasSubstr("nothing was started"));
}

TEST(LaunchJob, SaveFolderThatCannotBeMade_IsBadInputAndNamesTheFlag) {
  std::string folder = ::testing::TempDir() + "/runXXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const Said said = Launch(Job(folder), "/proc/x/.probe");
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("/proc/x"));
  EXPECT_THAT(said.text, HasSubstr("--save"));
}

}  // namespace
}  // namespace dsrun::launcher
