// What dsrun gets from whoever starts it: children, ignored and blocked signals, a screen that
// takes nothing, and a Ctrl-Z.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "common/base/process_tree.h"
#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

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

// Standard output and error are one pipe that nobody ever reads.
TEST(StartOfAJob, ScreenThatTakesNothing_TheJobEndsAndItsReportSaysWhatWasLost) {
  const TemporaryFolder folder;
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Job::Options options = By(Script(folder.path(), "exec " + DsrunBinary() + " \"$@\" 2>&1"));
  options.stdout_fd = ends[1];
  Job job({"--num_gpus=1", "/usr/bin/seq", "200000"}, options);
  EXPECT_EQ(job.AwaitExit(), 0);
  const nlohmann::json report = job.ReportJson();
  ASSERT_TRUE(report.contains("screen")) << report;
  EXPECT_GT(report["screen"]["lines_lost"].get<int64_t>(), 100'000);
  EXPECT_EQ(report["screen"]["why"], "standard output: its reader takes nothing");
  // Every line is in the rank's file.
  EXPECT_THAT(ReadWholeFile(job.run_dir() + "/logs/localhost/rank-0.gen-1.log"),
              HasSubstr("\n200000\n"));
  EXPECT_TRUE(job.NothingIsLeft());
  close(ends[0]);
  close(ends[1]);
}

// A shell with job control: dsrun has a process group of its own that somebody can continue.
std::string Shell(const std::string& folder) {
  return Script(folder, "exec " + UserProgram() + " shell " + DsrunBinary() + " \"$@\"");
}

bool AwaitStopped(pid_t pid) {
  return Eventually([pid] { return KernelStateOf(pid).state == 'T'; });
}

TEST(StartOfAJob, CtrlZAndFg_TheJobGoesOn) {
  const TemporaryFolder folder;
  Job job({"--num_gpus=2", UserProgram(), "handle", "0"}, By(Shell(folder.path())));
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  const pid_t launcher = job.Find(Role::kLauncher).at(0);
  for (int i = 0; i < 2; ++i) {
    kill(launcher, SIGTSTP);
    ASSERT_TRUE(AwaitStopped(launcher)) << job.Words();
    EXPECT_THAT(job.err(), HasSubstr("Ctrl-Z: the job goes on without dsrun, but its agents end it "
                                     "after 30s (--lease)"));
    EXPECT_NE(job.ProgramOfRank(0), 0);
    EXPECT_NE(job.ProgramOfRank(1), 0);
    kill(launcher, SIGCONT);
    ASSERT_TRUE(Eventually([&] { return KernelStateOf(launcher).state != 'T'; }));
  }
  kill(launcher, SIGUSR1);  // it listens again
  EXPECT_TRUE(job.AwaitOutput("rank 1 got signal 10")) << job.Words();
  kill(launcher, SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(StartOfAJob, CtrlZForLongerThanTheLease_TheRanksEndAndDsrunSaysSoWhenItIsContinued) {
  const TemporaryFolder folder;
  Job job({"--node-silent-after", "1s", "--lease", "2s", "--heartbeat-interval", "300ms",
           "--num_gpus=2", UserProgram(), "wait"},
          By(Shell(folder.path())));
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  const pid_t launcher = job.Find(Role::kLauncher).at(0);
  kill(launcher, SIGTSTP);
  ASSERT_TRUE(AwaitStopped(launcher)) << job.Words();
  ASSERT_TRUE(Eventually([&] { return job.ProgramOfRank(0) == 0 && job.ProgramOfRank(1) == 0; }));
  EXPECT_EQ(KernelStateOf(launcher).state, 'T');
  kill(launcher, SIGCONT);
  EXPECT_GT(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("no word from the coordinator for 2 s: the lease has run out"));
  EXPECT_TRUE(job.NothingIsLeft());
}

// Without a shell that could continue it (a scheduler, a service manager) the kernel stops nobody.
TEST(StartOfAJob, CtrlZInAnOrphanedGroup_StopsNobody) {
  Job job({"--num_gpus=1", UserProgram(), "handle", "0"});
  ASSERT_TRUE(AwaitWaiting(job, 1)) << job.Words();
  job.Signal(SIGTSTP);
  ASSERT_TRUE(job.AwaitError("Ctrl-Z")) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
