// LaunchJob where nothing can be started: bad input, said with a way out.

#include "launcher/shell/launch_job.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"
#include "common/format/save_folder.h"
#include "launcher/shell/operator_stops.h"
#include "launcher/shell/path_lock.h"
#include "launcher/shell/run_folder.h"
#include "tests/fakes/stopping_file_system.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

proto::JobSpec Job(const std::string& run_dir) {
  proto::JobSpec job;
  job.set_job_id("j");
  job.set_run_dir(run_dir);
  job.mutable_program()->set_executable("/bin/true");
  proto::NodeSpec& node = *job.add_nodes();
  node.set_host("h");
  node.set_address("127.0.0.1");
  node.add_slots(0);
  return job;
}

struct Said {
  int code = 0;
  std::string text;
};

Said Launch(const proto::JobSpec& job, const std::string& probe_path = "") {
  LaunchOptions options;
  options.agent_binary = "/bin/false";
  options.probe_path = probe_path;
  ::testing::internal::CaptureStderr();
  Said said;
  const auto stops = OperatorStops::Create();
  EXPECT_TRUE(stops.ok()) << stops.status();
  said.code = LaunchJob(job, options, **stops);
  said.text = ::testing::internal::GetCapturedStderr();
  return said;
}

TEST(LaunchJob, RunFolderThatCannotBeMade_IsBadInputAndNamesTheFlag) {
  const Said said = Launch(Job("/proc/no-such-folder"));
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("/proc/no-such-folder"));
  EXPECT_THAT(said.text, HasSubstr("--run-dir"));
  EXPECT_THAT(said.text, HasSubstr("nothing was started"));
}

TEST(LaunchJob, SaveFolderThatCannotBeMade_IsBadInputAndNamesTheFlag) {
  std::string folder = ::testing::TempDir() + "/runXXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const Said said = Launch(Job(folder), "/proc/x/.probe");
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("/proc/x"));
  EXPECT_THAT(said.text, HasSubstr("--save"));
}

TEST(LaunchJob, ReportOfSomebodyElseInTheRunFolder_IsNotWrittenOver) {
  std::string folder = ::testing::TempDir() + "/runXXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/report.json") << "mine";
  const Said said = Launch(Job(folder));
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("there is a report.json that no job of dsrun has left"));
  EXPECT_THAT(said.text, HasSubstr("choose another folder with --run-dir"));
  std::string content;
  std::ifstream(folder + "/report.json") >> content;
  EXPECT_EQ(content, "mine");
}

std::string NewFolder() {
  std::string folder = ::testing::TempDir() + "/runXXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  return folder;
}

TEST(LaunchJob, SaveFolderOfAJobThatRuns_IsRefusedWithWhoHasIt) {
  const std::string save = NewFolder();
  const auto other = PathLock::Take(save, "save folder");
  ASSERT_TRUE(other.ok()) << other.status();
  const Said said = Launch(Job(NewFolder()), save + "/.probe");
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("save folder " + save + ": another job of dsrun"));
  EXPECT_THAT(said.text, HasSubstr("choose another folder with --save"));
}

// A start that was refused has taken nothing away, and the same command works once the way is free.
TEST(LaunchJob, RefusedStart_LeavesMetricsLatestAndTheRunFolderAsTheyWere) {
  const std::string save = NewFolder();
  const std::string runs = NewFolder();
  PointLatestTo(runs + "/earlier");
  std::ofstream(runs + "/metrics") << "{\"step\":1}\n";
  std::optional<PathLock> other = *PathLock::Take(save, "save folder");
  proto::JobSpec job = Job(runs + "/run");
  job.mutable_train()->set_metrics_path(runs + "/metrics");
  EXPECT_EQ(Launch(job, save + "/.probe").code, 90);
  std::string line;
  std::getline(std::ifstream(runs + "/metrics"), line);
  EXPECT_EQ(line, "{\"step\":1}");
  EXPECT_EQ(std::filesystem::read_symlink(runs + "/latest"), "earlier");
  for (const char* name : {"journal.db", "journal.db-wal", "journal.db-shm"}) {
    EXPECT_FALSE(std::filesystem::exists(runs + "/run/" + name)) << name;
  }
  other.reset();
  const Said again = Launch(job, save + "/.probe");
  EXPECT_NE(again.code, 90) << again.text;
  EXPECT_TRUE(std::filesystem::exists(runs + "/run/journal.db"));
}

// The journal of another job is not this call's to remove.
TEST(LaunchJob, RunFolderOfAnotherJob_KeepsItsJournal) {
  const std::string run = NewFolder();
  std::ofstream(run + "/journal.db") << "the other's";
  EXPECT_EQ(Launch(Job(run)).code, 90);
  EXPECT_TRUE(std::filesystem::exists(run + "/journal.db"));
}

std::string Content(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path).rdbuf();
  return content.str();
}

// A job that begins anew, the same command once more; with --load it goes on in the file.
TEST(LaunchJob, MetricsAndTraceOfAnEarlierJob_AreKept) {
  const std::string folder = NewFolder();
  const std::string line = "{\"step\":1}\n";
  std::ofstream(folder + "/metrics") << line;
  std::ofstream(folder + "/trace") << "[1]\n";
  proto::JobSpec job = Job(NewFolder());
  job.mutable_train()->set_metrics_path(folder + "/metrics");
  job.mutable_train()->set_trace_path(folder + "/trace");
  const Said said = Launch(job);
  EXPECT_THAT(said.text, HasSubstr("the metrics of an earlier job in " + folder +
                                   "/metrics: kept as " + folder + "/metrics.1\n"));
  EXPECT_EQ(Content(folder + "/metrics.1"), line);
  EXPECT_EQ(Content(folder + "/metrics"), "");
  EXPECT_EQ(Content(folder + "/trace.1"), "[1]\n");
  EXPECT_FALSE(std::filesystem::exists(folder + "/trace"));

  std::ofstream(folder + "/metrics") << line;
  job.set_run_dir(NewFolder());
  job.mutable_train()->set_load_dir(folder);
  EXPECT_THAT(Launch(job).text, Not(HasSubstr("/metrics: kept")));
  EXPECT_EQ(Content(folder + "/metrics"), line);
}

TEST(LaunchJob, MetricsPipeThatNobodyReads_IsBadInputAndNothingIsStarted) {
  proto::JobSpec job = Job(NewFolder());
  const std::string pipe = NewFolder() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0666), 0);
  job.mutable_train()->set_metrics_path(pipe);
  const Said said = Launch(job);
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("metrics file " + pipe + ": expected to open it"));
  EXPECT_THAT(said.text, HasSubstr("choose another file with --metrics; nothing was started"));
  close(open(pipe.c_str(), O_RDONLY | O_NONBLOCK));  // the thread that was left behind ends
}

TEST(LaunchJob, MetricsFileOfAJobThatRuns_IsRefusedAndNotEmptied) {
  const std::string metrics = NewFolder() + "/metrics.jsonl";
  std::ofstream(metrics) << "a line of the other job\n";
  std::optional<PathLock> other = *PathLock::Take(metrics, "metrics file");
  proto::JobSpec job = Job(NewFolder());
  job.mutable_train()->set_metrics_path(metrics);
  const Said said = Launch(job);
  EXPECT_EQ(said.code, 90);
  EXPECT_THAT(said.text, HasSubstr("metrics file " + metrics + ": another job of dsrun"));
  std::string line;
  std::getline(std::ifstream(metrics), line);
  EXPECT_EQ(line, "a line of the other job");
  other.reset();
  EXPECT_TRUE(PathLock::Take(metrics, "metrics file").ok());  // free again
}

// Devices and pipes are shared by all.
TEST(PathLock, WhatIsNeitherFileNorFolder_NeedsNone) {
  const auto first = PathLock::Take("/dev/null", "metrics file");
  const auto second = PathLock::Take("/dev/null", "metrics file");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(second->missing(), "");
}

TEST(PrepareSaveFolder, OneThatIsThere_StaysWhoseItIs_AndAFileIsNone) {
  const std::string folder = NewFolder();
  EXPECT_TRUE(PrepareSaveFolder(FileSystem::Real(), folder, "nobody").ok());
  struct stat info;
  ASSERT_EQ(stat(folder.c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, geteuid());
  std::ofstream(folder + "/file") << "x";
  EXPECT_FALSE(PrepareSaveFolder(FileSystem::Real(), folder + "/file", "").ok());
  EXPECT_TRUE(PrepareSaveFolder(FileSystem::Real(), folder + "/a/b", "").ok());
}

// A save never makes its folder, so that a name which a crash of the machine takes back is missed
// for good: every new name is synced, and so is the marker.
TEST(PrepareSaveFolder, NewFoldersAndTheMarker_AreSynced) {
  const std::string folder = NewFolder();
  StoppingFileSystem counted(FileSystem::Real(), /*at=*/-1, nullptr);
  ASSERT_TRUE(PrepareSaveFolder(counted, folder + "/a/b/save", "").ok());
  // Made and synced: a and b; save is made by hand, and synced.
  EXPECT_EQ(counted.operations(), 2 + 2 + 1);
  const std::string marker = folder + "/a/b/save/" + SaveFolderMarker("job");
  {
    const auto probe = ProbeFile::Write(counted, marker);
    ASSERT_TRUE(probe.ok()) << probe.status();
    // Create, append, sync, close, sync of the folder.
    EXPECT_EQ(counted.operations(), 5 + 5);
    EXPECT_TRUE(CheckSaveFolder(counted, folder + "/a/b/save", "job").ok());
  }
  EXPECT_FALSE(CheckSaveFolder(counted, folder + "/a/b/save", "job").ok()) << "the job is over";
  EXPECT_FALSE(ProbeFile::Write(counted, folder + "/none/" + SaveFolderMarker("job")).ok());
  EXPECT_FALSE(std::filesystem::exists(folder + "/none"));
}

TEST(ProbeFile, SaveFolderThatDoesNotAnswer_HoldsUpItsRemovalForTheBoundOnly) {
  const std::string marker = NewFolder() + "/" + SaveFolderMarker("job");
  std::promise<void> answers;
  std::promise<void> removing;
  const int removal = 5;  // after create, append, sync, close, sync of the folder
  StoppingFileSystem hung(FileSystem::Real(), removal, [&] {
    removing.set_value();
    answers.get_future().wait();
  });
  absl::StatusOr<ProbeFile> probe = ProbeFile::Write(hung, marker);
  ASSERT_TRUE(probe.ok()) << probe.status();
  const absl::Status stays = probe->Remove(absl::Milliseconds(20));
  EXPECT_EQ(stays.code(), absl::StatusCode::kDeadlineExceeded) << stays;
  EXPECT_THAT(std::string(stays.message()), HasSubstr(marker));
  removing.get_future().wait();
  answers.set_value();
  while (std::filesystem::exists(marker)) std::this_thread::yield();
}

// A run folder that does not answer: here a pipe under the name that the report is written to
// first, which nobody reads.
TEST(LaunchJob, RunFolderThatDoesNotAnswer_HoldsUpTheLastScreenForTheBoundOnly) {
  const proto::JobSpec job = Job(NewFolder());
  const std::string pipe = job.run_dir() + "/report.json.new";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0666), 0);
  const Said said = Launch(job);
  EXPECT_EQ(said.code, 91);
  EXPECT_THAT(said.text,
              HasSubstr("warning: no report.json: write " + job.run_dir() + "/report.json"));
  EXPECT_THAT(said.text, HasSubstr("could not be opened"));
  close(open(pipe.c_str(), O_RDONLY | O_NONBLOCK));  // the thread that was left behind ends
}

TEST(PointLatestTo, PointsToTheNewestRun_AndLeavesAFolderOfThatNameAlone) {
  const std::string runs = NewFolder();
  for (const char* run : {"one", "two"}) PointLatestTo(runs + "/" + run);
  std::error_code error;
  EXPECT_EQ(std::filesystem::read_symlink(runs + "/latest", error), "two");
  EXPECT_FALSE(std::filesystem::exists(runs + "/latest.two", error));
  const std::string others = NewFolder();
  std::filesystem::create_directory(others + "/latest");
  PointLatestTo(others + "/one");
  EXPECT_TRUE(std::filesystem::is_directory(others + "/latest"));
}

}  // namespace
}  // namespace dsrun::launcher
