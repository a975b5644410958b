// The journal that a real job leaves in its run folder, read by the real coordinator_replay: it
// replays to the end that the job had, and also when dsrun was killed in the middle.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/integration/job_fixture.h"
#include "tests/integration/private_mounts.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Told {
  int exit_code = -1;
  std::string text;  // both streams
  // From the last "state: " on: the end of the story.
  std::string End() const {
    const size_t at = text.rfind("state: ");
    return at == std::string::npos ? "no end: " + text : text.substr(at);
  }
  std::string EndState() const { return End().substr(0, End().find('\n')); }
};

// `coordinator_replay JOURNAL OPTIONS`
Told Replay(const Job& job, const std::string& options = "") {
  const std::string command = RepositoryFile("tools/coordinator_replay") + " '" + job.run_dir() +
                              "/journal.db' " + options + " 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  Told told;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
    told.text.append(buffer, got);
  }
  const int status = pclose(pipe);
  told.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return told;
}

bool AwaitWaiting(const Job& job, int ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    if (!job.AwaitOutput("rank " + std::to_string(rank) + " waits")) return false;
  }
  return true;
}

int LineOf(const std::string& text, const std::string& words) {
  const size_t at = text.find(words);
  if (at == std::string::npos) return -1;
  return static_cast<int>(std::count(text.begin(), text.begin() + static_cast<long>(at), '\n'));
}

// A trained job of two ranks, one of them killed, from the command to the end.
TEST(JournalOfAJob, AfterAKilledWorker_TellsRankSignalAndTheEndOfTheJob) {
  const TemporaryFolder folder;
  Job job(Train({"--num_gpus=2"}, folder.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder.path(), kSteps / 8)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 1, SIGKILL));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  const nlohmann::json report = job.ReportJson();
  ASSERT_FALSE(report["incidents"].empty()) << "it was never disturbed" << job.Words();
  const nlohmann::json& cause = report["incidents"][0]["cause"];
  const std::string rank = "rank " + std::to_string(cause["rank"].get<int>());

  const Told told = Replay(job);
  EXPECT_EQ(told.exit_code, 0) << told.text;
  EXPECT_THAT(told.EndState(), HasSubstr("state: ended, generation " +
                                         std::to_string(report["generations"].size())));
  EXPECT_THAT(told.End(), AllOf(HasSubstr("exit code 0: all ranks finished"),
                                HasSubstr("generation 1 failed: " + rank),
                                HasSubstr("killed by signal 9 (SIGKILL"), HasSubstr("1 restart,"),
                                HasSubstr("final step " + std::to_string(kSteps))));
  EXPECT_THAT(told.text, Not(HasSubstr("another state")));
  // In the order in which it was: lost, the next generation claimed, begun, and over.
  EXPECT_LT(LineOf(told.text, "tell: lost: " + rank), LineOf(told.text, "prepare, generation 2"));
  EXPECT_LT(LineOf(told.text, "prepare, generation 2"), LineOf(told.text, "begin, generation 2"));
  EXPECT_LT(LineOf(told.text, "begin, generation 2"), LineOf(told.text, "end: exit code 0"));
}

// A launcher that was killed leaves a log that nobody has closed.
TEST(JournalOfAJob, OfAKilledLauncher_IsReadToWhereItWas) {
  Job job({"--num_gpus=2", "--node-silent-after", "2s", "--lease", "4s", "--heartbeat-interval",
           "300ms", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  // Its output may come before the ranks' start is written down.
  ASSERT_TRUE(Eventually([&] { return Replay(job).EndState().starts_with("state: running"); }))
      << Replay(job).text;
  job.Signal(SIGKILL);
  ASSERT_EQ(job.AwaitExit(), 128 + SIGKILL);
  const Told told = Replay(job);
  EXPECT_EQ(told.exit_code, 0) << told.text;
  EXPECT_THAT(told.EndState(), HasSubstr("state: running, generation 1,"));
  EXPECT_THAT(told.text,
              AllOf(HasSubstr("begin, generation 1: 0:0 0:1"),
                    HasSubstr("slot 1 started as process"), Not(HasSubstr("another state"))));
  EXPECT_TRUE(job.NothingIsLeft(absl::Seconds(40)));
}

// So many failures that there are snapshots: from the newest, the same end in fewer records.
TEST(JournalOfAJob, FromItsSnapshot_IsTheSameEnd) {
  Job job({"--num_gpus=8", "--max-restarts", "40", UserProgram(), "exit", "3"});
  ASSERT_EQ(job.AwaitExit(), 3) << job.Words();
  const Told whole = Replay(job);
  const Told rest = Replay(job, "--from-snapshot");
  ASSERT_EQ(whole.exit_code, 0) << whole.text;
  ASSERT_EQ(rest.exit_code, 0) << rest.text;
  EXPECT_THAT(whole.text, Not(HasSubstr("begins with the snapshot")));
  EXPECT_THAT(rest.text, HasSubstr("begins with the snapshot after record "));
  EXPECT_EQ(rest.End(), whole.End());
  EXPECT_LT(rest.text.size(), whole.text.size());
  EXPECT_THAT(whole.EndState(), HasSubstr("state: ended, generation 41,"));
}

// A rank is killed while the run folder's disk has no room: the job goes on to its next generation,
// the journal says that it does not know of it, and has it all once there is room.
TEST(JournalOfAJob, OnADiskThatIsFullForAWhile_IsMarkedAsBehind_AndTellsAllInTheEnd) {
  const TemporaryFolder folder;
  const auto disk = LoopDisk::Create(folder.path() + "/run", 16 << 20);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  Job job({"--num_gpus=2", "--max-restarts", "5", UserProgram(), "wait"},
          {.folder = folder.path()});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  ASSERT_TRUE((*disk)->LeaveRoom(0).ok());
  const pid_t killed = job.ProgramOfRank(1);
  ASSERT_NE(killed, 0) << job.Words();
  ASSERT_EQ(kill(killed, SIGKILL), 0);
  ASSERT_TRUE(job.AwaitError("the journal is not written: ")) << job.Words();
  ASSERT_TRUE(Eventually([&] {
    const pid_t now = job.ProgramOfRank(1);
    return now != 0 && now != killed;
  })) << "the job did not go on"
      << job.Words();
  const Told refused = Replay(job);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.text, HasSubstr("is behind its job"));
  const Told prefix = Replay(job, "--even-behind");
  EXPECT_EQ(prefix.exit_code, 0);
  EXPECT_THAT(prefix.text, HasSubstr("BEHIND ITS JOB"));
  EXPECT_THAT(prefix.EndState(), HasSubstr(", generation 1,"));
  (*disk)->GiveRoomBack();
  ASSERT_TRUE(job.AwaitError("the journal is whole again")) << job.Words();
  job.Signal(SIGTERM);
  ASSERT_EQ(job.AwaitExit(), 96) << job.Words();
  const Told told = Replay(job);
  EXPECT_EQ(told.exit_code, 0) << told.text;
  EXPECT_THAT(told.EndState(), HasSubstr("state: ended, generation 2,"));
  EXPECT_THAT(told.text, Not(HasSubstr("another state")));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(JournalOfAJob, NoJournal_SaysSo) {
  Job job({"--num_gpus=1", UserProgram(), "exit", "0"});
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  const std::string journal = job.run_dir() + "/journal.db";
  ASSERT_EQ(rename(journal.c_str(), (journal + ".away").c_str()), 0);
  const Told told = Replay(job);
  EXPECT_EQ(told.exit_code, 1);
  EXPECT_THAT(told.text, HasSubstr("no journal at " + journal));
}

}  // namespace
}  // namespace dsrun
