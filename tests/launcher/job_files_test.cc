// The files of a job on disks and file servers that do not answer: whatever hangs, the start says
// within its bound what it waits for and what to do.

#include "launcher/shell/job_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "common/format/save_folder.h"
#include "launcher/shell/path_lock.h"
#include "tests/fakes/stopping_file_system.h"

namespace dsrun::launcher {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;

std::string NewFolder() {
  std::string folder = ::testing::TempDir() + "/filesXXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  return folder;
}

// With a save folder, metrics and a trace, of both of which an earlier job has left one.
proto::JobSpec JobIn(const std::string& folder) {
  proto::JobSpec job;
  job.set_job_id("j");
  job.set_run_dir(folder + "/run");
  job.mutable_train()->set_save_dir(folder + "/save");
  job.mutable_train()->set_metrics_path(folder + "/metrics");
  job.mutable_train()->set_trace_path(folder + "/trace");
  std::ofstream(folder + "/metrics") << "{}\n";
  std::ofstream(folder + "/trace") << "{}\n";
  proto::NodeSpec& node = *job.add_nodes();
  node.set_host("h");
  node.set_address("127.0.0.1");
  node.add_slots(0);
  return job;
}

std::string MarkerOf(const proto::JobSpec& job) {
  return job.train().save_dir() + "/" + SaveFolderMarker("j");
}

TEST(JobFiles, AllThatAnswers_IsThere) {
  const proto::JobSpec job = JobIn(NewFolder());
  std::vector<std::string> said;
  JobFiles files(job, MarkerOf(job), [&](const std::string& line) { said.push_back(line); });
  ASSERT_EQ(files.Claim(ConfigFromJob(job)), absl::OkStatus());
  ASSERT_EQ(files.MakeRoom(), absl::OkStatus());
  EXPECT_TRUE(std::filesystem::exists(files.folder().journal));
  EXPECT_TRUE(std::filesystem::exists(MarkerOf(job)));
  EXPECT_GE(files.save_lock().fd(), 0);
  EXPECT_NE(files.metrics(), nullptr);
  EXPECT_THAT(said, Contains(HasSubstr("/metrics: kept as ")));
  EXPECT_THAT(said, Contains(HasSubstr("/trace: kept as ")));
}

// The lock moves on with the name: what was kept is free, what is written is not.
TEST(JobFiles, MetricsAfterThoseOfAnEarlierJob_AreLocked) {
  const proto::JobSpec job = JobIn(NewFolder());
  JobFiles files(job, MarkerOf(job), [](const std::string&) {});
  ASSERT_EQ(files.Claim(ConfigFromJob(job)), absl::OkStatus());
  const std::string& metrics = job.train().metrics_path();
  EXPECT_TRUE(absl::IsAlreadyExists(PathLock::Take(metrics, "it").status()));
  ASSERT_EQ(files.MakeRoom(), absl::OkStatus());
  EXPECT_TRUE(absl::IsAlreadyExists(PathLock::Take(metrics, "it").status()));
  EXPECT_EQ(PathLock::Take(metrics + ".1", "it").status(), absl::OkStatus());
}

// One operation after the other is the one that hangs.
TEST(JobFiles, AnyOperationThatHangs_IsGivenUpAndNamed) {
  // They outlive the threads that are left behind.
  static auto* const systems = new std::vector<std::unique_ptr<StoppingFileSystem>>();
  int hung = 0;
  JobFiles::Limits limits = {.step = absl::Milliseconds(50), .take_back = absl::Seconds(5)};
  for (int at = 0; at < 200;) {
    SCOPED_TRACE("operation " + std::to_string(at));
    const std::string folder = NewFolder();
    const proto::JobSpec job = JobIn(folder);
    std::promise<void> answer;
    std::atomic<bool> hangs = false;  // it has come to that operation
    FileSystem* const fs = systems
                               ->emplace_back(std::make_unique<StoppingFileSystem>(
                                   FileSystem::Real(), at,
                                   [&hangs, answered = answer.get_future().share()] {
                                     hangs = true;
                                     answered.wait();
                                   }))
                               .get();
    absl::Status status;
    bool hung_by_then = false;
    {
      JobFiles files(
          *fs, job, MarkerOf(job), [](const std::string&) {}, limits);
      status = files.Claim(ConfigFromJob(job));
      if (status.ok()) status = files.MakeRoom();
      hung_by_then = hangs;
      if (!status.ok()) files.TakeBack();
      answer.set_value();
    }
    if (!hung_by_then && absl::IsDeadlineExceeded(status)) {
      limits.step *= 2;  // a step that nothing held up: the machine is busy, so once more
      continue;
    }
    EXPECT_EQ(hung_by_then, !status.ok()) << status;
    if (status.ok()) break;
    ++hung;
    ++at;
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    const std::string text(status.message());
    EXPECT_THAT(text, HasSubstr(folder + "/"));
    EXPECT_THAT(text, HasSubstr("no answer for "));
    EXPECT_THAT(text, AnyOf(HasSubstr("--run-dir"), HasSubstr("--save"), HasSubstr("--metrics"),
                            HasSubstr("--trace")));
  }
  // The run folder, the save folder and its marker, both files of an earlier job, the new one.
  EXPECT_GE(hung, 8);
}

TEST(JobFiles, StepThatHangs_SaysWhatItWasDoing) {
  EXPECT_EQ(StepError(absl::DeadlineExceededError("no answer for 20s"), "lock the save folder",
                      "/data/save", "choose another folder with --save"),
            absl::DeadlineExceededError(
                "/data/save: there was no answer for 20s when dsrun was to lock the save folder: "
                "its disk or file server hangs, look at it; choose another folder with --save"));
}

}  // namespace
}  // namespace dsrun::launcher
