#include "tests/integration/training_job.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>

namespace dsrun {
namespace fs = std::filesystem;

std::string TextFile() {
  static const std::string* const path = [] {
    static TemporaryFolder* const folder = new TemporaryFolder();
    fs::permissions(folder->path(), fs::perms(0755));
    std::ofstream file(folder->path() + "/text");
    for (int i = 0; i < 2000; ++i) file << "line " << i * 7919 % 2003 << " of a text to learn\n";
    return new std::string(folder->path() + "/text");
  }();
  return *path;
}

Args Train(Args launcher, const std::string& folder, Args more) {
  Args args = std::move(launcher);
  const Args common = {"train",
                       "--data",
                       TextFile(),
                       "--num-layers",
                       "2",
                       "--hidden-size",
                       "32",
                       "--num-attention-heads",
                       "2",
                       "--seq-length",
                       "32",
                       "--global-batch-size",
                       "12",
                       "--micro-batch-size",
                       "1",
                       "--save",
                       folder + "/save",
                       "--metrics",
                       folder + "/metrics",
                       "--log-interval",
                       "10"};
  args.insert(args.end(), common.begin(), common.end());
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

Args Long(Args more) {
  Args args = {"--train-iters", std::to_string(kSteps), "--save-interval",
               std::to_string(kSaveInterval)};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

std::string TwoNodes(const std::string& folder) {
  std::ofstream(folder + "/hosts") << "127.0.0.1 slots=2\n127.0.0.2 slots=2\n";
  return folder + "/hosts";
}

int64_t StepsDone(const std::string& folder) {
  int64_t most = 0;
  for (const nlohmann::json& line : ReadMetrics(folder + "/metrics")) {
    most = std::max(most, line["step"].get<int64_t>());
  }
  return most;
}

bool AwaitStep(const Job& job, const std::string& folder, int64_t step) {
  return Eventually([&] { return StepsDone(folder) >= step || job.Ended(); }) && !job.Ended();
}

const std::string& UndisturbedHash() {
  static const std::string* const hash = [] {
    const TemporaryFolder folder;
    Job job(Train({"--num_gpus=1"}, folder.path(), Long()));
    EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
    auto* const found = new std::string(ContentHash(folder.path() + "/save"));
    EXPECT_EQ(found->size(), 64u) << *found;
    return found;
  }();
  return *hash;
}

pid_t WorkerOf(const Job& job, size_t index) {
  const std::vector<pid_t> workers = job.Find(Role::kWorker);
  return index < workers.size() ? workers[index] : 0;
}

bool SignalWorker(const Job& job, size_t index, int signal) {
  const pid_t worker = WorkerOf(job, index);
  EXPECT_NE(worker, 0) << "no worker " << index << job.Words();
  return worker != 0 && kill(worker, signal) == 0;  // 0 would be this very process group
}

void ExpectWentOn(Job& job, const TemporaryFolder& folder) {
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ContentHash(folder.path() + "/save"), UndisturbedHash()) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
  const nlohmann::json report = job.ReportJson();
  ASSERT_FALSE(report["incidents"].empty()) << "it was never disturbed" << job.Words();
  EXPECT_TRUE(report["incidents"][0].contains("went_on_as_generation")) << job.Words();
  const nlohmann::json& incident = report["incidents"][0];
  std::cout << "noticed after " << incident["cause"].value("detection_s", -1.0)
            << " s, next step after " << incident.value("next_step_after_s", -1.0) << " s\n";
}

bool CheckpointIsBeingWritten(const std::string& save) {
  std::set<std::string> shards;
  std::set<std::string> manifests;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(save, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("step-")) shards.insert(name.substr(5, 8));
    if (name.starts_with("manifest.step-")) manifests.insert(name.substr(14, 8));
  }
  return std::any_of(shards.begin(), shards.end(),
                     [&](const std::string& step) { return !manifests.contains(step); });
}

std::string NewestManifest(const std::string& save) {
  std::string newest;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(save, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("manifest.step-")) newest = std::max(newest, name);
  }
  return newest;
}

}  // namespace dsrun
