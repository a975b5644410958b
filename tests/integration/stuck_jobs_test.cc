// Processes that SIGKILL does not end: they wait in the kernel (state D) for a file server that
// does not answer, a real file system of FUSE.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_tree.h"
#include "tests/integration/fuse_folder.h"
#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

class StuckInTheKernel : public ::testing::Test {
 protected:
  void SetUp() override {
    auto mounted = FuseFolder::Mount(folder_.path() + "/server", {.unanswered = "file"});
    if (!mounted.ok()) GTEST_SKIP() << mounted.status();
    server_ = *std::move(mounted);
  }
  ~StuckInTheKernel() override {
    if (server_ != nullptr) server_->AnswerAll();
  }
  std::string File() const { return folder_.path() + "/server/file"; }
  bool AwaitWaiting(int64_t count) const {
    return Eventually([&] { return server_->waiting() == count; });
  }

  const TemporaryFolder folder_;
  std::unique_ptr<FuseFolder> server_;
};

TEST_F(StuckInTheKernel, ChildOfARunner_IsNamedWithWhatItWaitsInAndLeft) {
  auto runner =
      *PosixProcessRunner::Create({.reap_adopted = false, .kill_limit = absl::Milliseconds(200)});
  ProcessSpec spec;
  spec.executable = UserProgram();
  spec.argv = {"user_program", "read", File()};
  const int32_t pid = *runner->Spawn(spec, nullptr);
  ASSERT_TRUE(AwaitWaiting(1));
  ::testing::internal::CaptureStderr();
  const SteadyTime begin = Clock::Real().SteadyNow();
  runner.reset();
  const absl::Duration took = Clock::Real().SteadyNow() - begin;
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_LT(took, absl::Seconds(10));
  EXPECT_EQ(KernelStateOf(pid).state, 'D');
  EXPECT_THAT(said, HasSubstr("process " + std::to_string(pid) + " (user_program): state D"));
  server_->AnswerAll();
  EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
}

// Everything but that rank is ended, dsrun ends, and says what is left.
TEST_F(StuckInTheKernel, RankOfAJob_DsrunEndsAndNamesIt) {
  Job job({"--num_gpus=1", "--stop-grace", "1s", UserProgram(), "read", File()});
  ASSERT_TRUE(AwaitWaiting(1)) << job.Words();
  job.Signal(SIGTERM);
  ASSERT_TRUE(job.AwaitError("once more stops now")) << job.Words();
  ASSERT_TRUE(job.SignalOnceMore(SIGTERM)) << job.Words();
  EXPECT_EQ(job.AwaitExit(absl::Seconds(120)), 96) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("did not end after SIGKILL"));
  EXPECT_THAT(job.err(), HasSubstr("(user_program): state D"));
  server_->AnswerAll();
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
