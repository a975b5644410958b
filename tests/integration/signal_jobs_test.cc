// Signals that reach more than dsrun: schedulers, service managers and terminals signal every
// process of a job, and some of them twice. docs/failure_model.md has the table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kCancelled = 96;  // docs/errors.md

// What the last screen says, without its line breaks.
std::string InOneLine(const std::string& text) {
  std::stringstream words(text);
  std::string line;
  for (std::string word; words >> word;) line += word + " ";
  return line;
}

void SignalAll(const std::vector<pid_t>& pids, int signal) {
  for (const pid_t pid : pids) kill(pid, signal);
}

// Everybody of the job. `launcher_first`: else the keepers come first, whose death would take
// everything with it, and dsrun last.
void SignalEveryProcess(const Job& job, int signal, bool launcher_first) {
  std::vector<JobProcess> processes = job.Processes();
  const auto order = [launcher_first](const JobProcess& process) {
    switch (process.role) {
      case Role::kLauncher:
        return launcher_first ? 0 : 9;
      case Role::kKeeper:
        return 1;
      case Role::kAgent:
        return 2;
      case Role::kWorker:
      case Role::kProgram:
        return 3;
    }
    return 9;
  };
  std::stable_sort(processes.begin(), processes.end(),
                   [&](const auto& a, const auto& b) { return order(a) < order(b); });
  for (const JobProcess& process : processes) kill(process.pid, signal);
}

class SignalledTraining : public ::testing::Test {
 protected:
  // Too long to come to its end, and nothing is saved before the stop.
  Args Endless() const {
    return Train({"--hostfile", TwoNodes(folder_.path())}, folder_.path(),
                 {"--train-iters", "1000000", "--save-interval", "0"});
  }

  // It stopped, and the checkpoint is of the last step that was made.
  void ExpectSavedItsLastStep(Job& job) const {
    ASSERT_EQ(job.AwaitExit(), kCancelled) << job.Words();
    EXPECT_TRUE(job.NothingIsLeft());
    const nlohmann::json report = job.ReportJson();
    EXPECT_TRUE(report["stopped_early"].get<bool>()) << job.Words();
    EXPECT_EQ(report["restarts"], 0) << "nobody dies of it" << job.Words();
    EXPECT_GE(report["final_step"].get<int>(), StepsDone(folder_.path())) << job.Words();
    EXPECT_EQ(report["checkpoint_step"], report["final_step"]) << job.Words();
    EXPECT_EQ(ContentHash(folder_.path() + "/save").size(), 64u);
  }

  const TemporaryFolder folder_;
};

class EverySignal : public SignalledTraining, public ::testing::WithParamInterface<int> {};

TEST_P(EverySignal, ToEveryProcessOfATraining_SavesTheLastStepAndExits96) {
  for (const bool launcher_first : {false, true}) {
    SCOPED_TRACE(launcher_first);
    const TemporaryFolder folder;
    Job job(Train({"--hostfile", TwoNodes(folder.path())}, folder.path(),
                  {"--train-iters", "1000000", "--save-interval", "0"}));
    ASSERT_TRUE(AwaitStep(job, folder.path(), 20)) << job.Words();
    SignalEveryProcess(job, GetParam(), launcher_first);
    ASSERT_EQ(job.AwaitExit(), kCancelled) << job.Words();
    EXPECT_TRUE(job.NothingIsLeft());
    const nlohmann::json report = job.ReportJson();
    EXPECT_TRUE(report["stopped_early"].get<bool>()) << job.Words();
    EXPECT_EQ(report["restarts"], 0) << "nobody dies of it" << job.Words();
    EXPECT_EQ(report["checkpoint_step"], report["final_step"]) << job.Words();
    EXPECT_EQ(ContentHash(folder.path() + "/save").size(), 64u);
  }
}

TEST_P(EverySignal, ToTheLauncherAlone_StopsATraining) {
  Job job(Endless());
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 20)) << job.Words();
  kill(-job.pid(), GetParam());  // its process group, as a terminal does
  ExpectSavedItsLastStep(job);
}

INSTANTIATE_TEST_SUITE_P(All, EverySignal,
                         ::testing::Values(SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2),
                         [](const auto& info) { return std::string(sigabbrev_np(info.param)); });

TEST_F(SignalledTraining, ToOneWorker_AllRanksStopInTheSameStepAndSave) {
  Job job(Endless());
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 20)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 2, SIGTERM));
  ExpectSavedItsLastStep(job);
  EXPECT_THAT(job.err(), HasSubstr(": its dsworker (pid "));
  EXPECT_THAT(job.err(), HasSubstr("got SIGTERM"));
  EXPECT_THAT(InOneLine(job.err()), HasSubstr("stopped by a signal to one of its ranks or agents"));
}

// No handler may run in a thread that computes (worker/engine/stop_signals.h): the signals are
// blocked in all but the one that waits for them.
TEST_F(SignalledTraining, SignalsToStop_AreTakenByAThreadOfTheirOwn) {
  Job job(Endless());
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 5)) << job.Words();
  const std::string tasks = "/proc/" + std::to_string(WorkerOf(job, 0)) + "/task";
  uint64_t wanted = 0;
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    wanted |= uint64_t{1} << (signal - 1);
  }
  int threads = 0;
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    std::ifstream status(task.path() / "status");
    uint64_t blocked = 0, caught = 0;
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("SigBlk:")) blocked = std::stoull(line.substr(7), nullptr, 16);
      if (line.starts_with("SigCgt:")) caught = std::stoull(line.substr(7), nullptr, 16);
    }
    EXPECT_EQ(caught & wanted, 0u) << task.path();
    std::ifstream comm(task.path() / "comm");
    std::string name;
    std::getline(comm, name);
    if (name == "stop-signals") continue;  // sigwait unblocks while it waits
    ++threads;
    EXPECT_EQ(blocked & wanted, wanted) << name;
  }
  EXPECT_GE(threads, 4);
  kill(job.pid(), SIGTERM);
  ExpectSavedItsLastStep(job);
}

TEST_F(SignalledTraining, ToOneNodesKeeperAndAgent_AllRanksStopAndSave) {
  Job job(Endless());
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 20)) << job.Words();
  // As `systemctl stop` of one node's agent, but for the ranks. The keeper passes it on, too.
  kill(job.Find(Role::kKeeper).at(0), SIGTERM);
  ExpectSavedItsLastStep(job);
  EXPECT_THAT(job.err(), HasSubstr("the dsagent of its node got SIG"));
}

// `timeout` signals its child and then the child's group; a shell passes a hang-up on.
TEST_F(SignalledTraining, TheSameSignalTwiceAtOnce_IsOneRequest) {
  for (const int signal : {SIGTERM, SIGHUP}) {
    const TemporaryFolder folder;
    Job job(Train({"--num_gpus=2"}, folder.path(),
                  {"--train-iters", "1000000", "--save-interval", "0"}));
    ASSERT_TRUE(AwaitStep(job, folder.path(), 20)) << job.Words();
    job.Signal(signal);
    ASSERT_TRUE(job.AwaitError("once more stops now")) << job.Words();
    job.Signal(signal);
    ASSERT_EQ(job.AwaitExit(), kCancelled) << job.Words();
    const nlohmann::json report = job.ReportJson();
    EXPECT_EQ(report["checkpoint_step"], report["final_step"]) << job.Words();
    EXPECT_THAT(job.err(), Not(HasSubstr("stopping now")));
  }
}

// Slurm's preemption: TERM to everybody, and KILL when the grace is over.
TEST_F(SignalledTraining, TermToAllThenKillToAll_TheCheckpointIsThere) {
  Job job(Endless());
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 20)) << job.Words();
  SignalEveryProcess(job, SIGTERM, /*launcher_first=*/false);
  ASSERT_TRUE(Eventually([&] { return !NewestManifest(folder_.path() + "/save").empty(); }));
  for (const JobProcess& process : job.Processes()) kill(process.pid, SIGKILL);
  EXPECT_NE(job.AwaitExit(), -1);
  // No process; of keepers and agents that are killed together, a folder in /tmp may stay.
  EXPECT_TRUE(Eventually([&] { return job.Processes().empty(); }));
  EXPECT_EQ(ContentHash(folder_.path() + "/save").size(), 64u);
}

bool AwaitWaiting(const Job& job, int ranks) {
  return Eventually([&] {
    const std::string out = job.out();
    for (int rank = 0; rank < ranks; ++rank) {
      if (out.find("rank " + std::to_string(rank) + " waits") == std::string::npos) return false;
    }
    return true;
  });
}

class SignalledProgram : public ::testing::TestWithParam<int> {};

TEST_P(SignalledProgram, HandlerThatNeedsASecond_GetsIt_WhoeverIsSignalled) {
  Job job({"--num_gpus=2", UserProgram(), "handle", "1000"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  SignalEveryProcess(job, GetParam(), /*launcher_first=*/false);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 0 has saved"));
  EXPECT_THAT(job.out(), HasSubstr("rank 1 has saved"));
  EXPECT_THAT(InOneLine(job.err()),
              HasSubstr("stopped by the operator; ranks 0,1 exited with code 0"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_P(SignalledProgram, RanksWithoutAHandler_EndByIt_AndTheJobWasStopped) {
  Job job({"--num_gpus=2", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  SignalEveryProcess(job, GetParam(), /*launcher_first=*/false);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_THAT(InOneLine(job.err()), HasSubstr("ranks 0,1 killed by signal"));
  EXPECT_TRUE(job.NothingIsLeft());
}

INSTANTIATE_TEST_SUITE_P(All, SignalledProgram, ::testing::Values(SIGTERM, SIGINT, SIGHUP, SIGQUIT),
                         [](const auto& info) { return std::string(sigabbrev_np(info.param)); });

TEST(ProgramSignals, HandlerThatIsNotDoneWithinTheGrace_IsCutOffAndSaidSo) {
  Job job({"--num_gpus=2", "--stop-grace", "1s", UserProgram(), "handle", "600000"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 1 got signal 15"));
  EXPECT_THAT(job.out(), Not(HasSubstr("has saved")));
  EXPECT_THAT(InOneLine(job.err()), HasSubstr("ranks 0,1 cut off by SIGKILL (--stop-grace 1s)"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramSignals, Usr1AndUsr2_ArePassedOnToTheRanks_AndTheJobGoesOn) {
  Job job({"--num_gpus=2", UserProgram(), "handle", "0"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  for (const int signal : {SIGUSR1, SIGUSR2}) {
    job.Signal(signal);
    for (const char* rank : {"0", "1"}) {
      EXPECT_TRUE(
          job.AwaitOutput(std::string("rank ") + rank + " got signal " + std::to_string(signal)))
          << job.Words();
    }
  }
  // Keepers and agents leave it to the ranks.
  SignalAll(job.Find(Role::kKeeper), SIGUSR1);
  SignalAll(job.Find(Role::kAgent), SIGUSR1);
  EXPECT_FALSE(job.Ended());
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 1 has saved"));
  EXPECT_TRUE(job.NothingIsLeft());
}

// Nobody else was asked: its ranks get their grace, and the job loses a node.
TEST(ProgramSignals, ToTheAgentAlone_ItsRanksMaySaveAndTheNodeLeaves) {
  Job job({"--num_gpus=2", UserProgram(), "handle", "200"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  kill(job.Find(Role::kAgent).at(0), SIGTERM);
  EXPECT_NE(job.AwaitExit(), -1) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 0 has saved"));
  EXPECT_THAT(job.out(), HasSubstr("rank 1 has saved"));
  EXPECT_THAT(InOneLine(job.err()), HasSubstr("dsagent was asked to stop by SIGTERM"));
  EXPECT_TRUE(job.NothingIsLeft());
}

// What none of us takes ends the process it was sent to; the others act as for any death of it.
TEST(ProgramSignals, SignalThatNobodyTakes_OrphansNoRank) {
  for (const Role role : {Role::kLauncher, Role::kKeeper, Role::kAgent}) {
    for (const int signal : {SIGALRM, SIGVTALRM, SIGXCPU, SIGPWR}) {
      SCOPED_TRACE(signal);
      Job job({"--node-silent-after", "1s", "--lease", "2s", "--heartbeat-interval", "300ms",
               "--num_gpus=2", UserProgram(), "daemon"});
      ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
      kill(job.Find(role).at(0), signal);
      EXPECT_NE(job.AwaitExit(), -1) << job.Words();
      EXPECT_TRUE(job.NothingIsLeft(absl::Seconds(20)));
    }
  }
}

}  // namespace
}  // namespace dsrun
