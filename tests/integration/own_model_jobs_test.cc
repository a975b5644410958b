// A model of one's own (examples/spirals), trained by its own program under the real dsrun: the
// same bits at every number of ranks and stage of ZeRO, also when a rank is killed in the middle.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using Args = std::vector<std::string>;

std::string Spirals() { return RepositoryFile("examples/spirals/spirals"); }

Args Training(Args launcher, const std::string& folder, Args more) {
  Args args = std::move(launcher);
  const Args common = {Spirals(),
                       "--global-batch-size",
                       "48",
                       "--micro-batch-size",
                       "8",
                       "--lr",
                       "0.01",
                       "--hidden",
                       "48",
                       "--bucket-bytes",
                       "4096",
                       "--threads-per-rank",
                       "1",
                       "--save",
                       folder + "/save"};
  args.insert(args.end(), common.begin(), common.end());
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// What rank 0 has said of its training, without what names ranks, memory and manifests.
std::string LossesAndAccuracy(const Job& job) {
  std::string said;
  std::stringstream out(job.out());
  for (std::string line; std::getline(out, line);) {
    for (const char* const word : {"step ", "accuracy "}) {
      const size_t at = line.find(word);
      if (at != std::string::npos && line.find("from step") == std::string::npos) {
        said += line.substr(at) + "\n";
        break;
      }
    }
  }
  return said;
}

double AccuracyIn(const std::string& said) {
  const size_t at = said.find("accuracy ");
  return at == std::string::npos ? 0 : std::stod(said.substr(at + 9));
}

struct Output {
  int code = -1;
  std::string text;  // of both streams
};

Output OutputOf(const std::string& command) {
  Output output;
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
    output.text.append(buffer, got);
  }
  const int status = pclose(pipe);
  output.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return output;
}

TEST(OwnModelJob, EveryNumberOfRanksAndStage_HasTheSameLossesHashAndAccuracy) {
  const Args steps = {"--train-iters", "300", "--save-interval", "100", "--log-interval", "10"};
  std::string losses, hash;
  const std::vector<std::pair<const char*, const char*>> layouts = {
      {"1", "1"}, {"2", "3"}, {"3", "0"}};
  for (const auto& [ranks, stage] : layouts) {
    const TemporaryFolder folder;
    Args more = steps;
    more.insert(more.end(), {"--zero-stage", stage});
    Job job(Training({std::string("--num_gpus=") + ranks}, folder.path(), more));
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
    EXPECT_THAT(job.out(), HasSubstr(std::string(" ZeRO stage ") + stage));
    if (losses.empty()) losses = LossesAndAccuracy(job);
    if (hash.empty()) hash = ContentHash(folder.path() + "/save");
    EXPECT_THAT(losses, HasSubstr("step 300  loss "));
    EXPECT_GE(AccuracyIn(losses), 0.95) << losses;
    EXPECT_EQ(hash.size(), 64u) << hash;
    EXPECT_EQ(LossesAndAccuracy(job), losses);
    EXPECT_EQ(ContentHash(folder.path() + "/save"), hash);
    EXPECT_TRUE(job.NothingIsLeft());
  }
}

TEST(OwnModelJob, KilledRank_StartsAgainAndEndsWithTheBitsOfAnUndisturbedRun) {
  const Args steps = {"--train-iters",  "3000", "--save-interval", "100",
                      "--log-interval", "100",  "--zero-stage",    "3"};
  const TemporaryFolder calm;
  Job undisturbed(Training({"--num_gpus=2"}, calm.path(), steps));
  ASSERT_EQ(undisturbed.AwaitExit(), 0) << undisturbed.Words();

  const TemporaryFolder folder;
  Job job(Training({"--num_gpus=2", "--max-restarts=1"}, folder.path(), steps));
  ASSERT_TRUE(job.AwaitOutput("saved manifest.step-00000200")) << job.Words();
  const pid_t rank = job.ProgramOfRank(1);
  ASSERT_NE(rank, 0) << "it has ended already" << job.Words();
  ASSERT_EQ(kill(rank, SIGKILL), 0);
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("goes on from step ")) << job.Words();
  EXPECT_EQ(ContentHash(folder.path() + "/save"), ContentHash(calm.path() + "/save"));
  EXPECT_EQ(ContentHash(folder.path() + "/save").size(), 64u);
  const std::string said = LossesAndAccuracy(undisturbed);
  const std::string last = said.substr(said.find("step 3000 "));
  EXPECT_THAT(LossesAndAccuracy(job), HasSubstr(last));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(OwnModelJob, ItsCheckpoint_IsVerifiedInspectedExportedAndRefusedByTrain) {
  const TemporaryFolder folder;
  const std::string save = folder.path() + "/save";
  Job job(Training({"--num_gpus=2"}, folder.path(), {"--train-iters", "2"}));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  const Output verify = OutputOf(DsrunBinary() + " checkpoint verify " + save);
  EXPECT_EQ(verify.code, 0) << verify.text;
  const Output exported =
      OutputOf(DsrunBinary() + " checkpoint export " + save + " " + folder.path() + "/model");
  EXPECT_EQ(exported.code, 0) << exported.text;
  const Output inspect = OutputOf(DsrunBinary() + " checkpoint inspect " + save);
  EXPECT_EQ(inspect.code, 0) << inspect.text;
  EXPECT_THAT(inspect.text, HasSubstr("model       spirals: 4 layers, width 48, family \"own\", 1 "
                                      "row a sample, 3 outputs"));
  EXPECT_THAT(inspect.text, HasSubstr("model/radial.centres"));
  const Output train = OutputOf("cd " + folder.path() + " && " + DsrunBinary() +
                                " --dry-run train --data /etc/passwd --load " + save);
  EXPECT_NE(train.code, 0);
  EXPECT_THAT(train.text, HasSubstr("there is no family \"own\" of models"));
}

TEST(OwnModelJob, NextRunInTheFolder_GoesOnAtAnotherWidth) {
  const TemporaryFolder folder;
  for (const char* const ranks : {"2", "3"}) {
    const bool first = std::string(ranks) == "2";
    Job job(Training({std::string("--num_gpus=") + ranks}, folder.path(),
                     {"--train-iters", first ? "40" : "80", "--lr-schedule", "constant",
                      "--lr-warmup-iters", "4"}));
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
    EXPECT_EQ(job.out().find("goes on from step 40") != std::string::npos, !first) << job.Words();
  }
  const TemporaryFolder calm;
  Job job(Training({"--num_gpus=1"}, calm.path(),
                   {"--train-iters", "80", "--lr-schedule", "constant", "--lr-warmup-iters", "4"}));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ContentHash(folder.path() + "/save"), ContentHash(calm.path() + "/save"));
}

// ---- By hand, without dsrun

TEST(OwnModelProgram, WrongFlag_IsExitCodeTwoWithOneMessage) {
  const Output output = OutputOf(Spirals() + " --zero 1");
  EXPECT_EQ(output.code, 2);
  EXPECT_EQ(output.text,
            "spirals: there is no flag \"--zero\"; --help lists those that there are\n");
  EXPECT_EQ(OutputOf(Spirals() + " --help").code, 0);
}

TEST(OwnModelProgram, OffLoopback_IsRefusedWithOneMessage) {
  const Output output =
      OutputOf("env RANK=1 WORLD_SIZE=2 MASTER_ADDR=192.0.2.1 MASTER_PORT=29500 " + Spirals());
  EXPECT_EQ(output.code, 1);
  EXPECT_EQ(output.text,
            "spirals: rank 1 of 2: 192.0.2.1:29500 (MASTER_ADDR, MASTER_PORT) is off loopback: "
            "refused until TLS exists; run all ranks on one machine, with an address such as "
            "127.0.0.1\n");
}

TEST(OwnModelProgram, ByItself_IsTheOnlyRank) {
  const Output output = OutputOf(Spirals() + " --train-iters 3 --test-points 10");
  EXPECT_EQ(output.code, 0) << output.text;
  EXPECT_THAT(output.text, HasSubstr("1 rank, ZeRO stage 1"));
}

}  // namespace
}  // namespace dsrun
