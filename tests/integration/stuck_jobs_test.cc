// Processes that SIGKILL does not end: they wait in the kernel (state D) for a file server that
// does not answer, a real file system of FUSE.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_tree.h"
#include "tests/integration/fuse_folder.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

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
  std::string AgentInTheServersHands() const {
    const std::string path = folder_.path() + "/agent";
    std::ofstream(path) << "#!" << File() << "\n";
    std::filesystem::permissions(path, std::filesystem::perms(0755));
    return path;
  }
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
  // The grace is short, and a second signal might come after the end, which it would cut short.
  EXPECT_EQ(job.AwaitExit(absl::Seconds(120)), 96) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("did not end after SIGKILL"));
  EXPECT_THAT(job.err(), HasSubstr("(user_program): state D"));
  server_->AnswerAll();
  EXPECT_TRUE(job.NothingIsLeft());
}

// exec of the agent waits for its interpreter, in a system call that no signal ends.
TEST_F(StuckInTheKernel, StartOfAnAgent_DsrunGivesItUpAndSaysSo) {
  Job job({"--agent-binary", AgentInTheServersHands(), "--num_gpus=1", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(1)) << job.Words();
  EXPECT_EQ(job.AwaitExit(absl::Seconds(120)), 91) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("the kernel has not come back with"));
  EXPECT_THAT(job.err(), HasSubstr(folder_.path() + "/agent"));
  server_->AnswerAll();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(StuckInTheKernel, StartOfAnAgent_DsrunThatIsInterruptedDoesNotWaitForIt) {
  Job job({"--agent-binary", AgentInTheServersHands(), "--num_gpus=1", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(1)) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(absl::Seconds(120)), 96) << job.Words();
  server_->AnswerAll();
  EXPECT_TRUE(job.NothingIsLeft());
}

// Nothing of the server answers for the lock of the journal, which is the first file of a job.
TEST(StuckRunFolder, StartOfAJob_IsGivenUpAndSaysWhatToDo) {
  const TemporaryFolder folder;
  auto server = FuseFolder::Mount(folder.path() + "/server", {.unanswered = "journal.db.lock"});
  if (!server.ok()) GTEST_SKIP() << server.status();
  const std::string run = folder.path() + "/server/run";
  Job job({"--run-dir", run, "--num_gpus=1", UserProgram(), "wait"});
  EXPECT_TRUE(Eventually([&] { return (*server)->waiting() == 1; })) << job.Words();
  EXPECT_TRUE(
      job.AwaitError("cannot start the job: " + run + "/journal.db: there was no answer for"))
      << job.Words();
  (*server)->AnswerAll();  // a process whose thread is in there cannot be gone before
  EXPECT_EQ(job.AwaitExit(absl::Seconds(60)), 90) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("choose another folder with --run-dir; nothing was started"));
}

TEST_F(StuckInTheKernel, RankOfAProgramThatIsKilled_TheNextGenerationDoesNotWaitForIt) {
  Job job({"--num_gpus=1", "--max-restarts", "1", UserProgram(), "read", File()});
  ASSERT_TRUE(AwaitWaiting(1)) << job.Words();
  const std::vector<pid_t> first = job.Find(Role::kProgram);
  ASSERT_EQ(first.size(), 1u);
  ASSERT_EQ(kill(first[0], SIGKILL), 0);
  // The new one waits, too: in the kernel, for the answer to the first one's question.
  EXPECT_TRUE(Eventually([&] { return job.Find(Role::kProgram).size() == 2; })) << job.Words();
  EXPECT_EQ(KernelStateOf(first[0]).state, 'D');
  EXPECT_TRUE(job.AwaitError("process " + std::to_string(first[0]) + " (user_program) is dead"));
  server_->AnswerAll();
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

// ---- A log that is written to a disk that does not answer

// The keeper tells its log first that the agent is dead, and then ends what is below it.
class StuckLog : public ::testing::Test {
 protected:
  void SetUp() override {
    auto mounted = FuseFolder::Mount(folder_.path() + "/server", {.held_writes = "log"});
    if (!mounted.ok()) GTEST_SKIP() << mounted.status();
    server_ = *std::move(mounted);
  }
  ~StuckLog() override {
    if (server_ != nullptr) server_->LetGo();
  }
  // What dsrun takes for its agent, with a log of its own.
  std::string Agent() const {
    const std::string path = folder_.path() + "/agent";
    std::ofstream(path) << "#!/bin/bash\nexec " << DsagentBinary() << " \"$@\" 2>>"
                        << folder_.path() << "/server/log\n";
    std::filesystem::permissions(path, std::filesystem::perms(0755));
    return path;
  }
  Job::Options WithThatAgent() const {
    Job::Options options;
    options.agent_binary = Agent();
    return options;
  }

  const TemporaryFolder folder_;
  std::unique_ptr<FuseFolder> server_;
};

TEST_F(StuckLog, DeathOfAnAgent_IsActedUponByItsKeeper) {
  Job job({"--num_gpus=2", UserProgram(), "daemon"}, WithThatAgent());
  for (const char* rank : {"rank 0 waits", "rank 1 waits"}) {
    ASSERT_TRUE(job.AwaitOutput(rank)) << job.Words();
  }
  const std::vector<pid_t> programs = job.Find(Role::kProgram);
  ASSERT_GE(programs.size(), 4u) << "ranks and what they have left behind";
  server_->HoldWrites();
  kill(job.Find(Role::kAgent).at(0), SIGKILL);
  EXPECT_TRUE(Eventually([&] { return server_->writes_waiting() > 0; }));
  EXPECT_TRUE(Eventually([&] { return job.Find(Role::kProgram).empty(); }, absl::Seconds(10)));
  EXPECT_GT(server_->writes_waiting(), 0);
  server_->LetGo();  // else dsrun waits 20 s for the keeper, which is in the kernel
  EXPECT_EQ(job.AwaitExit(), 95) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(StuckLog, Term_IsHeededByAgentAndRanks) {
  Job job({"--num_gpus=2", UserProgram(), "handle", "0"}, WithThatAgent());
  for (const char* rank : {"rank 0 waits", "rank 1 waits"}) {
    ASSERT_TRUE(job.AwaitOutput(rank)) << job.Words();
  }
  server_->HoldWrites();
  job.Signal(SIGTERM);
  EXPECT_TRUE(job.AwaitOutput("rank 0 has saved")) << job.Words();
  EXPECT_TRUE(job.AwaitOutput("rank 1 has saved")) << job.Words();
  EXPECT_GT(server_->writes_waiting(), 0);
  server_->LetGo();
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

// ---- A worker that dies while its save writer waits in the kernel

pid_t ProcessOfThread(uint32_t thread) {
  const std::string status = ReadWholeFile("/proc/" + std::to_string(thread) + "/status");
  const size_t at = status.find("\nTgid:");
  return at == std::string::npos ? 0 : std::stoi(status.substr(at + 6));
}

class DeathInASync : public ::testing::TestWithParam<int> {
 protected:
  static constexpr int kRanks = 2;

  void SetUp() override {
    // Of the second save, so that there is a checkpoint to go on from.
    auto mounted = FuseFolder::Mount(save(), {.hard_links = true, .held_sync = kRanks + kRanks});
    if (!mounted.ok()) GTEST_SKIP() << mounted.status();
    server_ = *std::move(mounted);
  }
  ~DeathInASync() override {
    if (server_ != nullptr) server_->LetGo();
  }
  std::string save() const { return folder_.path() + "/save"; }
  // All ranks live; `dead` is none of them, and may still be there.
  bool SlotIsFilled(const Job& job, pid_t dead) const {
    const std::vector<pid_t> workers = job.Find(Role::kWorker);
    return std::count_if(workers.begin(), workers.end(),
                         [&](pid_t each) { return each != dead; }) == kRanks;
  }

  const TemporaryFolder folder_;
  std::unique_ptr<FuseFolder> server_;
};

TEST_P(DeathInASync, GoesOnAtOnceWithANewProcessInThatSlot) {
  Job job(Train({"--num_gpus=" + std::to_string(kRanks)}, folder_.path(), Long()));
  ASSERT_TRUE(Eventually([&] { return server_->held_thread() != 0 || job.Ended(); }));
  const uint32_t thread = server_->held_thread();
  const pid_t worker = ProcessOfThread(thread);
  ASSERT_NE(worker, 0) << job.Words();
  const SteadyTime died = Clock::Real().SteadyNow();
  ASSERT_EQ(kill(worker, GetParam()), 0);
  ASSERT_TRUE(Eventually([&] { return SlotIsFilled(job, worker) || job.Ended(); })) << job.Words();
  const absl::Duration took = Clock::Real().SteadyNow() - died;
  std::cout << "a new process in its slot after " << took << "\n";
  EXPECT_EQ(KernelStateOf(static_cast<int32_t>(thread)).state, 'D');
  // Silence is noticed after 3 s; a worker that is stopped is killed for that by its agent.
  const absl::Duration silence = GetParam() == SIGSTOP ? absl::Seconds(3) : absl::ZeroDuration();
  EXPECT_LT(took, silence + absl::Seconds(2));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 2 * kSaveInterval + 5)) << job.Words();
  EXPECT_EQ(KernelStateOf(static_cast<int32_t>(thread)).state, 'D');
  EXPECT_EQ(server_->held_thread(), thread);
  EXPECT_TRUE(job.AwaitError("process " + std::to_string(worker) + " (dsworker)")) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("(save-writer)"));
  server_->LetGo();
  ASSERT_TRUE(job.AwaitError("process " + std::to_string(worker) + " has ended")) << job.Words();
  ExpectWentOn(job, folder_);
  EXPECT_EQ(job.ReportJson()["restarts"], 1) << job.Words();
  EXPECT_THAT(job.err(), Not(HasSubstr("LOST")));
}

INSTANTIATE_TEST_SUITE_P(Signals, DeathInASync, ::testing::Values(SIGKILL, SIGSEGV, SIGSTOP),
                         [](const auto& info) { return std::string(sigabbrev_np(info.param)); });

}  // namespace
}  // namespace dsrun
