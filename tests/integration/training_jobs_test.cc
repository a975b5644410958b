// Training with real processes. Whatever is killed or stopped on the way, and at whatever width it
// goes on: the final checkpoint has the same content, bit for bit, as the undisturbed run's.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/escaped.h"
#include "launcher/coordinator/events.h"
#include "launcher/shell/journal.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsSubsetOf;
using ::testing::Not;
using ::testing::SizeIs;

class TrainingJob : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(TrainingJob, LearnsWritesMetricsAndEndsWithASample) {
  Job job(
      Train({"--hostfile", TwoNodes(folder_.path())}, folder_.path(), Long({"--prompt", "line "})));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  const std::vector<nlohmann::json> metrics = ReadMetrics(folder_.path() + "/metrics");
  ASSERT_EQ(metrics.size(), static_cast<size_t>(kSteps));
  for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens_per_s", "step_ms"}) {
    EXPECT_TRUE(metrics[0][key].is_number()) << key;
  }
  EXPECT_EQ(metrics[0]["generation"], 1);
  EXPECT_NEAR(metrics[0]["loss"].get<double>(), 5.545, 0.3);  // ln 256
  EXPECT_LT(metrics.back()["loss"].get<double>(), 4.0);
  EXPECT_THAT(job.out(), HasSubstr("step 480/480"));
  EXPECT_THAT(job.out(), HasSubstr("| line "));
  EXPECT_EQ(ContentHash(folder_.path() + "/save"), UndisturbedHash());
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(TrainingJob, FoldersAndPromptThatAreNotUtf8_AreUsedAsTheyAre) {
  const std::string folder = folder_.path() + "/caf\xe9 \xff";
  ASSERT_TRUE(std::filesystem::create_directory(folder));
  for (const char* width : {"2", "1"}) {  // the second goes on from the first
    Args more = {"--train-iters", width[0] == '2' ? "4" : "8", "--prompt", "\xff\x80"};
    if (width[0] == '1') more.insert(more.end(), {"--load", folder + "/save"});
    Job job(Train({"--num_gpus", width}, folder, more));
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
    EXPECT_THAT(job.out(), HasSubstr(Escaped(folder) + "/save/manifest.step-"));
    EXPECT_FALSE(job.ReportJson().is_discarded());
    EXPECT_TRUE(job.NothingIsLeft());
  }
  EXPECT_EQ(ContentHash(folder + "/save").size(), 64u) << ContentHash(folder + "/save");
  EXPECT_EQ(StepsDone(folder), 8);
}

TEST_F(TrainingJob, EveryWidthAndZeroStage_HasTheSameContent) {
  std::vector<std::string> hashes;
  for (const auto& [width, stage] : {std::pair("1", "1"),
                                     {"2", "1"},
                                     {"3", "1"},
                                     {"4", "1"},
                                     {"6", "1"},
                                     {"4", "0"},
                                     {"1", "2"},
                                     {"2", "2"},
                                     {"3", "2"},
                                     {"4", "2"},
                                     {"4", "3"}}) {
    const TemporaryFolder folder;
    Job job(Train({"--num_gpus", width}, folder.path(),
                  {"--train-iters", "8", "--save-interval", "0", "--zero-stage", stage}));
    ASSERT_EQ(job.AwaitExit(), 0) << width << job.Words();
    hashes.push_back(ContentHash(folder.path() + "/save"));
    EXPECT_EQ(hashes.back().size(), 64u) << hashes.back();
    EXPECT_EQ(hashes.back(), hashes.front()) << "width " << width << ", stage " << stage;
    EXPECT_TRUE(job.NothingIsLeft());
  }
}

// Of the other family, with grouped heads: from the middle on at another width, and out again as
// one file with Hugging Face's names and orientation.
TEST_F(TrainingJob, AnotherFamily_GoesOnAtAnotherWidthAndIsExported) {
  const auto train = [](const char* width, const TemporaryFolder& folder, Args more) {
    const Args model = {"--model",       "llama-nano", "--num-query-groups", "1",
                        "--train-iters", "8",          "--save-interval",    "4",
                        "--prompt",      "line "};
    more.insert(more.end(), model.begin(), model.end());
    return Train({"--num_gpus", width}, folder.path(), more);
  };
  Job whole(train("2", folder_, {}));
  ASSERT_EQ(whole.AwaitExit(), 0) << whole.Words();
  const std::string hash = ContentHash(folder_.path() + "/save");
  EXPECT_EQ(hash.size(), 64u) << hash;

  const TemporaryFolder other;
  Job half(train("3", other, {"--load", folder_.path() + "/save", "--load-step", "4"}));
  ASSERT_EQ(half.AwaitExit(), 0) << half.Words();
  EXPECT_EQ(ContentHash(other.path() + "/save"), hash);
  EXPECT_TRUE(half.NothingIsLeft());

  const std::string file = folder_.path() + "/model.safetensors";
  const std::string command =
      DsrunBinary() + " checkpoint export '" + folder_.path() + "/save' '" + file + "'";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream in(file, std::ios::binary);
  uint64_t bytes = 0;
  in.read(reinterpret_cast<char*>(&bytes), sizeof(bytes));
  ASSERT_TRUE(in.good() && bytes < 100'000) << bytes;
  std::string header(bytes, ' ');
  in.read(header.data(), static_cast<std::streamsize>(bytes));
  const nlohmann::json tensors = nlohmann::json::parse(header);
  EXPECT_EQ(tensors["model.embed_tokens.weight"]["shape"], nlohmann::json({256, 32}));
  EXPECT_EQ(tensors["model.layers.1.self_attn.k_proj.weight"]["shape"], nlohmann::json({16, 32}));
  EXPECT_EQ(tensors["model.layers.1.mlp.down_proj.weight"]["shape"], nlohmann::json({32, 128}));
  EXPECT_FALSE(tensors.contains("lm_head.weight"));
}

// The processes that joined `generation`, by the events that the coordinator wrote down.
std::vector<pid_t> ProcessesOf(const Job& job, int generation) {
  const absl::StatusOr<launcher::JournalContent> journal =
      launcher::ReadJournal(job.run_dir() + "/journal.db", launcher::ReadFrom::kStart);
  EXPECT_TRUE(journal.ok()) << journal.status();
  std::map<uint64_t, pid_t> started;  // by the process's own incarnation
  std::vector<pid_t> joined;
  for (const launcher::JournalRecord& record : journal->records) {
    const auto* spoke = std::get_if<launcher::AgentSpoke>(&record.event);
    if (spoke == nullptr) continue;
    if (spoke->message.has_worker_started()) {
      const proto::WorkerStarted& worker = spoke->message.worker_started();
      started[worker.incarnation()] = worker.pid();
    }
    const proto::WorkerMessage& report = spoke->message.worker_report().message();
    if (report.has_joined() && report.generation() == generation) {
      joined.push_back(started.at(report.incarnation()));
    }
  }
  return joined;
}

// From the failure to the coordinator's knowledge of it. docs/failure_model.md says 20 ms for a
// death and 3 s for silence; the rest is for machines that are busy with other tests.
constexpr double kDeathNoticedWithinSeconds = 5;
constexpr double kSilenceNoticedWithinSeconds = 10;

void ExpectNoticedWithin(double seconds, const Job& job) {
  const nlohmann::json cause = job.ReportJson()["incidents"][0]["cause"];
  ASSERT_TRUE(cause.contains("detection_s")) << job.Words();
  EXPECT_LT(cause["detection_s"].get<double>(), seconds) << job.Words();
}

// Kills the worker at `index` once `step` is done; the others must live on in their processes.
void KillWorkerAt(size_t index, int64_t step, const TemporaryFolder& folder, Args more = {}) {
  Job job(Train({"--hostfile", TwoNodes(folder.path())}, folder.path(), Long(std::move(more))));
  ASSERT_TRUE(AwaitStep(job, folder.path(), step)) << job.Words();
  std::vector<pid_t> survivors = job.Find(Role::kWorker);
  ASSERT_EQ(survivors.size(), 4u) << job.Words();
  const pid_t victim = survivors[index];
  survivors.erase(survivors.begin() + static_cast<ptrdiff_t>(index));
  kill(victim, SIGKILL);
  ExpectWentOn(job, folder);
  EXPECT_THAT(ProcessesOf(job, 1), SizeIs(4));
  EXPECT_THAT(survivors, IsSubsetOf(ProcessesOf(job, 2)));
  EXPECT_THAT(ProcessesOf(job, 2), SizeIs(4));
  EXPECT_THAT(job.ReportJson()["incidents"][0]["cause"]["what"].get<std::string>(),
              HasSubstr("SIGKILL"));
  EXPECT_EQ(job.ReportJson()["incidents"][0]["cause"]["pid"], victim);
  ExpectNoticedWithin(kDeathNoticedWithinSeconds, job);
}

TEST_F(TrainingJob, KilledWorker_BeforeTheFirstCheckpoint) { KillWorkerAt(3, 2, folder_); }
TEST_F(TrainingJob, KilledWorker_InTheMiddle) { KillWorkerAt(1, kSteps / 2 + 3, folder_); }
TEST_F(TrainingJob, KilledWorker_RankZero) { KillWorkerAt(0, kSteps / 3, folder_); }
// Each has the whole of it, and its own share alone back from the checkpoint.
TEST_F(TrainingJob, KilledWorker_WhereEverybodyHasTheOptimizersState) {
  KillWorkerAt(2, kSteps / 2 + 3, folder_, {"--zero-stage", "0"});
}
// In whatever round the others are: two ranks have two atoms, two have one.
TEST_F(TrainingJob, KilledWorker_WhoseSumsLieWithTheirOwners) {
  KillWorkerAt(1, kSteps / 2 + 3, folder_, {"--zero-stage", "2"});
}
TEST_F(TrainingJob, KilledWorker_WhoseParametersLieWithTheirOwners) {
  KillWorkerAt(3, kSteps / 2 + 3, folder_, {"--zero-stage", "3"});
}

// Nearly all of it one letter, which is soon learnt: where a batch has some of the rest, gradients
// are thousands of times larger than before, and its step is void.
Args TrainOnMonotony(const std::string& folder) {
  std::string text(20000, 'a');
  for (size_t i = 0; i < 64; ++i) text[11000 + i] = static_cast<char>('b' + i * 37 % 23);
  const std::string path = folder + "/monotony";
  std::ofstream(path) << text;
  return {"--num_gpus=2",
          "train",
          "--data",
          path,
          "--num-layers",
          "4",
          "--hidden-size",
          "128",
          "--num-attention-heads",
          "2",
          "--seq-length",
          "64",
          "--global-batch-size",
          "32",
          "--micro-batch-size",
          "1",
          "--lr",
          "0.02",
          "--lr-warmup-iters",
          "0",
          "--train-iters",
          "40",
          "--save-interval",
          "10",
          "--save",
          folder + "/save",
          "--metrics",
          folder + "/metrics"};
}

std::vector<int64_t> VoidSteps(const std::string& words) {
  std::vector<int64_t> steps;
  const std::regex told("step ([0-9]+) was computed twice");
  for (auto at = std::sregex_iterator(words.begin(), words.end(), told);
       at != std::sregex_iterator(); ++at) {
    steps.push_back(std::stoll((*at)[1]));
  }
  return steps;
}

// In the middle of the second computation of a void step: the next generation finds it void, too,
// and comes to the bits of a run that nobody disturbed.
TEST_F(TrainingJob, KilledWorker_WhileAVoidStepIsComputedAgain) {
  const TemporaryFolder undisturbed_folder;
  Job undisturbed(TrainOnMonotony(undisturbed_folder.path()));
  ASSERT_EQ(undisturbed.AwaitExit(), 0) << undisturbed.Words();
  const std::vector<int64_t> voids = VoidSteps(undisturbed.Words());
  ASSERT_FALSE(voids.empty()) << undisturbed.Words();
  const int64_t step = voids.back();

  Job job(TrainOnMonotony(folder_.path()));
  const std::string said = absl::StrCat("step ", step, " is void");
  const std::string log = job.run_dir() + "/logs/localhost/rank-1.gen-1.log";
  ASSERT_TRUE(Eventually([&] {
    return ReadWholeFile(log).find(said) != std::string::npos || job.Ended();
  })) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 1, SIGKILL)) << job.Words();
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ContentHash(folder_.path() + "/save"),
            ContentHash(undisturbed_folder.path() + "/save"));
  EXPECT_EQ(VoidSteps(job.Words()).back(), step);
  for (const nlohmann::json& line : ReadMetrics(folder_.path() + "/metrics")) {
    if (line["step"] == step) {
      EXPECT_EQ(line["generation"], 2) << "it was through before the kill";
    }
  }
  EXPECT_TRUE(job.NothingIsLeft());
}

void KillWhileSaving(size_t index, const TemporaryFolder& folder) {
  // Saving all the time: there is always a save to hit.
  Job job(Train({"--num_gpus=4"}, folder.path(),
                {"--train-iters", std::to_string(kSteps), "--save-interval", "4"}));
  ASSERT_TRUE(AwaitStep(job, folder.path(), 10)) << job.Words();
  const pid_t victim = WorkerOf(job, index);
  ASSERT_NE(victim, 0);
  ASSERT_TRUE(Eventually([&] { return CheckpointIsBeingWritten(folder.path() + "/save"); }));
  kill(victim, SIGKILL);
  ExpectWentOn(job, folder);
}

TEST_F(TrainingJob, KilledWhileSaving_RankZeroWhoCommits) { KillWhileSaving(0, folder_); }
TEST_F(TrainingJob, KilledWhileSaving_AnotherRank) { KillWhileSaving(2, folder_); }

// What happens to one of two agents; the job goes on with the other node. Nobody tells the moment
// of the signal but this test: it measures by the machine's clock, to the millisecond of the
// report.
void LoseAnAgent(int signal, double noticed_within_seconds, const TemporaryFolder& folder) {
  Job job(Train({"--hostfile", TwoNodes(folder.path())}, folder.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder.path(), kSteps / 3)) << job.Words();
  const std::vector<pid_t> agents = job.Find(Role::kAgent);
  ASSERT_EQ(agents.size(), 2u);
  const absl::Time before = Clock::Real().WallNow();
  kill(agents[1], signal);
  ExpectWentOn(job, folder);
  const nlohmann::json incident = job.ReportJson()["incidents"][0];
  EXPECT_FALSE(incident["cause"].contains("slot")) << job.Words();
  absl::Time noticed;
  std::string error;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, incident["noticed_at"].get<std::string>(),
                              &noticed, &error))
      << error;
  const double seconds = absl::ToDoubleSeconds(noticed - before);
  EXPECT_GT(seconds, -0.01);
  EXPECT_LT(seconds, noticed_within_seconds) << job.Words();
  std::cout << "the loss of the agent was noticed after " << seconds << " s\n";
  const nlohmann::json generations = job.ReportJson()["generations"];
  ASSERT_GE(generations.size(), 2u);
  EXPECT_EQ(generations[0]["ranks"].size(), 4u);
  EXPECT_EQ(generations.back()["ranks"].size(), 2u);
}

TEST_F(TrainingJob, KilledAgent_GoesOnAtHalfTheWidth) {
  LoseAnAgent(SIGKILL, kDeathNoticedWithinSeconds, folder_);
}
TEST_F(TrainingJob, StoppedAgent_GoesOnAtHalfTheWidth) {
  LoseAnAgent(SIGSTOP, kSilenceNoticedWithinSeconds, folder_);
}

TEST_F(TrainingJob, StoppedWorker_IsReplacedAndGone) {
  Job job(Train({"--num_gpus=3"}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSteps / 3)) << job.Words();
  const pid_t victim = WorkerOf(job, 1);
  ASSERT_NE(victim, 0);
  kill(victim, SIGSTOP);
  ExpectWentOn(job, folder_);
  EXPECT_THAT(job.ReportJson()["generations"].back()["ranks"], testing::SizeIs(3));
  ExpectNoticedWithin(kSilenceNoticedWithinSeconds, job);
}

TEST_F(TrainingJob, TwoFailuresInARow_StillTheSameContent) {
  Job job(Train({"--hostfile", TwoNodes(folder_.path())}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSteps / 4)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 2, SIGKILL));
  ASSERT_TRUE(job.AwaitError("recovered in")) << job.Words();
  const std::vector<pid_t> agents = job.Find(Role::kAgent);
  ASSERT_EQ(agents.size(), 2u);
  kill(agents[0], SIGKILL);
  ExpectWentOn(job, folder_);
  EXPECT_GE(job.ReportJson()["incidents"].size(), 2u);
}

// How often a generation has started or begun to run so far.
int64_t Beginnings(const Job& job) {
  static const std::regex beginning("generation \\d+ (starts|runs)");
  const std::string words = job.err();
  return std::distance(std::sregex_iterator(words.begin(), words.end(), beginning),
                       std::sregex_iterator());
}

// Four of four, each as soon as the one before has led to something: a generation that starts,
// which nobody has joined yet, or one that runs, because the agent found the rank dead when it came
// to start it. None of this is the program's own doing, however often it happens.
TEST_F(TrainingJob, FourKillsWithinASecond_StillTheSameContent) {
  Job job(Train({"--hostfile", TwoNodes(folder_.path())}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSaveInterval + 5)) << job.Words();
  const std::vector<pid_t> victims = job.Find(Role::kWorker);
  ASSERT_EQ(victims.size(), 4u) << job.Words();
  int64_t seen = 0;
  for (const pid_t victim : victims) {
    ASSERT_TRUE(Eventually([&] { return Beginnings(job) > seen; })) << job.Words();
    seen = Beginnings(job);
    ASSERT_EQ(kill(victim, SIGKILL), 0) << job.Words();
  }
  ExpectWentOn(job, folder_);
}

// The next plan may be faster than the news of the last death; it is one incident all the same.
TEST_F(TrainingJob, AllWorkersKilledAtOnce_AreOneIncidentAndOneRestart) {
  Job job(Train({"--hostfile", TwoNodes(folder_.path())}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSaveInterval + 5)) << job.Words();
  const std::vector<pid_t> victims = job.Find(Role::kWorker);
  ASSERT_EQ(victims.size(), 4u) << job.Words();
  for (const pid_t victim : victims) kill(victim, SIGKILL);
  ExpectWentOn(job, folder_);
  const nlohmann::json report = job.ReportJson();
  EXPECT_EQ(report["incidents"].size(), 1u) << job.Words();
  EXPECT_EQ(report["incidents"][0]["failed_generation"], 1) << job.Words();
  EXPECT_EQ(report["restarts"], 1) << job.Words();
}

// Steps that a generation has finished by itself: it may have started behind the others.
int64_t StepsDoneBy(int generation, const std::string& folder) {
  int64_t most = 0;
  for (const nlohmann::json& line : ReadMetrics(folder + "/metrics")) {
    if (line["generation"] == generation) most = std::max(most, line["step"].get<int64_t>());
  }
  return most;
}

// The first generation gets further than the next three, which train all the same.
TEST_F(TrainingJob, FourKillsWithinOneSaveInterval_StillTheSameContent) {
  Job job(Train({"--hostfile", TwoNodes(folder_.path())}, folder_.path(),
                {"--train-iters", std::to_string(kSteps), "--save-interval", "400"}));
  for (const int generation : {1, 2, 3, 4}) {
    const int64_t step = generation == 1 ? 50 : 15;
    ASSERT_TRUE(Eventually([&] { return StepsDoneBy(generation, folder_.path()) >= step; }))
        << job.Words();
    ASSERT_TRUE(SignalWorker(job, static_cast<size_t>(generation) - 1, SIGKILL));
  }
  ExpectWentOn(job, folder_);
  EXPECT_EQ(job.ReportJson()["incidents"].size(), 4u) << job.Words();
}

TEST_F(TrainingJob, InterruptOnce_SavesAndALaterRunGoesOnToTheSameContent) {
  {
    Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
    ASSERT_TRUE(AwaitStep(job, folder_.path(), kSteps / 2)) << job.Words();
    job.Signal(SIGINT);
    ASSERT_EQ(job.AwaitExit(), 96) << job.Words();
    EXPECT_TRUE(job.NothingIsLeft());
    const nlohmann::json report = job.ReportJson();
    EXPECT_TRUE(report["stopped_early"].get<bool>()) << job.Words();
    EXPECT_GE(report["checkpoint_step"].get<int>(), kSteps / 2);
    EXPECT_EQ(report["checkpoint_step"], report["final_step"]);
  }
  Job job(Train({"--num_gpus=3"}, folder_.path(), Long({"--load", folder_.path() + "/save"})));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ContentHash(folder_.path() + "/save"), UndisturbedHash());
  // Both runs are in the one metrics file, no step is missing or there twice.
  const std::vector<nlohmann::json> lines = ReadMetrics(folder_.path() + "/metrics");
  ASSERT_EQ(lines.size(), static_cast<size_t>(kSteps));
  for (int i = 0; i < kSteps; ++i) EXPECT_EQ(lines[static_cast<size_t>(i)]["step"], i + 1);
}

// The worker's death is not known yet, or just known, when the operator asks for the end.
TEST_F(TrainingJob, InterruptDuringARecovery_RecoversSavesAndEnds) {
  Job job(Train({"--num_gpus=3"}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSteps / 2)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 1, SIGKILL));
  job.Signal(SIGINT);
  ASSERT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
  const nlohmann::json report = job.ReportJson();
  EXPECT_TRUE(report["stopped_early"].get<bool>()) << job.Words();
  EXPECT_EQ(report["checkpoint_step"], report["final_step"]) << job.Words();
}

// The checkpoint of the first one cannot be finished: a rank that it needs is stopped.
TEST_F(TrainingJob, InterruptTwice_StopsNowWithoutACheckpoint) {
  Job job(
      Train({"--num_gpus=2"}, folder_.path(),
            {"--train-iters", "100000", "--save-interval", "0", "--worker-silent-after", "50s"}));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSteps / 3)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 1, SIGSTOP));
  job.Signal(SIGINT);
  ASSERT_TRUE(job.AwaitError("once more stops now")) << job.Words();
  ASSERT_TRUE(job.SignalOnceMore(SIGINT)) << job.Words();
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_EQ(NewestManifest(folder_.path() + "/save"), "");
  EXPECT_GE(job.ReportJson()["final_step"].get<int>(), kSteps / 3) << "made, though not saved";
  EXPECT_TRUE(job.NothingIsLeft());
}

// What has a name would outlive a rank that is killed.
TEST_F(TrainingJob, SharedMemory_IsUsedAndHasNoNameThatCouldStayBehind) {
  Job job(Train({"--num_gpus=2"}, folder_.path(), {"--train-iters", "100000"}));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 5)) << job.Words();
  for (const JobProcess& process : job.Processes()) {
    const std::string maps = ReadWholeFile("/proc/" + std::to_string(process.pid) + "/maps");
    if (process.role == Role::kWorker) {
      EXPECT_THAT(maps, HasSubstr("/memfd:"));
    }
    EXPECT_THAT(maps, Not(AnyOf(HasSubstr("/dev/shm"), HasSubstr("/SYSV"))));
  }
}

TEST_F(TrainingJob, KilledLauncher_EverythingEndsWithTheLease) {
  Job job(Train({"--hostfile", TwoNodes(folder_.path()), "--node-silent-after", "2s", "--lease",
                 "4s", "--heartbeat-interval", "300ms"},
                folder_.path(), {"--train-iters", "100000"}));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 5)) << job.Words();
  job.Signal(SIGKILL);
  EXPECT_EQ(job.AwaitExit(), 128 + SIGKILL);
  EXPECT_EQ(job.Find(Role::kWorker).size(), 4u) << "workers should outlive the launcher";
  EXPECT_TRUE(job.NothingIsLeft(absl::Seconds(40)));
}

TEST_F(TrainingJob, KilledWorkers_OfEveryRestart_EndTheJobWithItsOwnCode) {
  Job job(Train({"--num_gpus=2", "--max-restarts", "1"}, folder_.path(),
                {"--train-iters", "100000", "--save-interval", "5"}));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 8)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 0, SIGKILL));
  ASSERT_TRUE(job.AwaitError("recovered in")) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 0, SIGKILL));
  EXPECT_THAT(job.AwaitExit(), AnyOf(93, 94)) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

// A rank that is stopped, so that its peers' deadline finds it: whoever waited says where in its
// log, and the report names the one that all waited for, with the kernel's word for what it does.
TEST_F(TrainingJob, StoppedWorker_FoundByTheCollectiveTimeout_IsNamedAsTheOddOne) {
  Job job(Train({"--num_gpus=3", "--worker-silent-after", "50s", "--collective-timeout", "2s"},
                folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 30)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 2, SIGSTOP));
  ExpectWentOn(job, folder_);
  const nlohmann::json report = job.ReportJson();
  const nlohmann::json& cause = report["incidents"][0]["cause"];
  EXPECT_EQ(cause["rank"], 2) << job.Words();
  EXPECT_THAT(cause["what"].get<std::string>(),
              HasSubstr("kept the others waiting: it is stopped (state T"));
  EXPECT_THAT(job.err(), HasSubstr("rank 2 on localhost: kept the others waiting"));
  for (const int rank : {0, 1}) {
    const std::string log = ReadWholeFile(job.run_dir() + "/logs/localhost/rank-" +
                                          std::to_string(rank) + ".gen-1.log");
    EXPECT_THAT(log, HasSubstr(" in vain in '")) << "rank " << rank;
    EXPECT_THAT(log, HasSubstr("stack: main thread:\n")) << "rank " << rank;
    EXPECT_THAT(log, HasSubstr("::Exchange(")) << "rank " << rank;
  }
}

}  // namespace
}  // namespace dsrun
