// What dsrun gets from whoever starts it: children, ignored and blocked signals, and a
// pause that nobody can refuse.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <fstream>
#include <string>

#include "common/base/process_tree.h"
#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

// docs/errors.md
constexpr int kNoNodesLeft = 95;
constexpr int kCancelled = 96;

// A script that stands for dsrun.
std::string Script(const std::string& folder, const std::string& lines) {
  const std::string path = folder + "/start";
  std::ofstream(path) << "#!/bin/bash\n" << lines << "\n";
  chmod(path.c_str(), 0755);
  return path;
}

Job::Options By(const std::string& script) {
  Job::Options options;
  options.dsrun_binary = script;
  return options;
}

bool AwaitWaiting(const Job& job, int ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    if (!job.AwaitOutput("rank " + std::to_string(rank) + " waits")) return false;
  }
  return true;
}

// `exec 2> >(tee errors)` makes tee a child of dsrun.
TEST(StartOfAJob, ChildOfWhoeverStartedIt_IsNotEndedWithTheJob) {
  const TemporaryFolder folder;
  const std::string copy = folder.path() + "/errors";
  Job job({"--num_gpus=2", UserProgram(), "exit", "3"},
          By(Script(folder.path(),
                    "exec 2> >(exec tee " + copy + ")\nexec " + DsrunBinary() + " \"$@\"")));
  EXPECT_EQ(job.AwaitExit(), 3) << job.Words();
  // The last thing that is said, after the end of the agents.
  EXPECT_TRUE(Eventually([&] {
    return ReadWholeFile(copy).find("exited with code 3") != std::string::npos;
  })) << ReadWholeFile(copy);
  EXPECT_THAT(ReadWholeFile(copy), HasSubstr(job.run_dir()));
  EXPECT_TRUE(job.NothingIsLeft());
}

std::string Spoilt(const std::string& folder) {
  return Script(folder, "exec " + UserProgram() + " spoilt " + DsrunBinary() + " \"$@\"");
}

TEST(StartOfAJob, WithSigchldIgnoredAndAllSignalsBlocked_RanksStartWithDefaults) {
  const TemporaryFolder folder;
  Job job({"--num_gpus=1", "/bin/cat", "/proc/self/status"}, By(Spoilt(folder.path())));
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(job.out(), HasSubstr("SigIgn:\t0000000000000000"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(StartOfAJob, WithSigchldIgnoredAndAllSignalsBlocked_TermStopsIt) {
  const TemporaryFolder folder;
  Job job({"--num_gpus=2", UserProgram(), "handle", "0"}, By(Spoilt(folder.path())));
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 1 has saved"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(StartOfAJob, WithSigchldIgnoredAndAllSignalsBlocked_AKilledAgentIsNoticed) {
  const TemporaryFolder folder;
  Job job({"--num_gpus=2", UserProgram(), "daemon"}, By(Spoilt(folder.path())));
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  kill(job.Find(Role::kAgent).at(0), SIGKILL);
  EXPECT_EQ(job.AwaitExit(), kNoNodesLeft) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("SIGKILL"));
  EXPECT_TRUE(job.NothingIsLeft());
}

bool AwaitStopped(pid_t pid) {
  return Eventually([pid] { return KernelStateOf(pid).state == 'T'; });
}

TEST(StartOfAJob, StoppedAndContinued_TheJobGoesOn) {
  Job job({"--num_gpus=2", UserProgram(), "handle", "0"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  for (int i = 0; i < 2; ++i) {
    job.Signal(SIGSTOP);
    ASSERT_TRUE(AwaitStopped(job.pid())) << job.Words();
    EXPECT_NE(job.ProgramOfRank(0), 0);
    EXPECT_NE(job.ProgramOfRank(1), 0);
    job.Signal(SIGCONT);
    ASSERT_TRUE(Eventually([&] { return KernelStateOf(job.pid()).state != 'T'; }));
  }
  job.Signal(SIGUSR1);  // it listens again
  EXPECT_TRUE(job.AwaitOutput("rank 1 got signal 10")) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(StartOfAJob, StoppedForLongerThanTheLease_TheRanksEndAndDsrunSaysSoWhenItIsContinued) {
  Job job({"--node-silent-after", "1s", "--lease", "2s", "--heartbeat-interval", "300ms",
           "--num_gpus=2", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGSTOP);
  ASSERT_TRUE(AwaitStopped(job.pid())) << job.Words();
  ASSERT_TRUE(Eventually([&] { return job.ProgramOfRank(0) == 0 && job.ProgramOfRank(1) == 0; }));
  EXPECT_EQ(KernelStateOf(job.pid()).state, 'T');
  job.Signal(SIGCONT);
  EXPECT_GT(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("no word from the coordinator for 2 s: the lease has run out"));
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
