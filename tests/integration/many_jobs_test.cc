// Good jobs, one after another: what goes wrong once in many times goes wrong at their ends, where
// processes, streams and folders are taken down. Each must exit 0, have nothing to complain of and
// leave nothing behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int kProgramJobs = 40;
constexpr int kTrainingJobs = 6;
constexpr int kJobsAtOnce = 6;

// Looks at the job's processes until its end, so that NothingIsLeft knows their socket folders.
void WatchToTheEnd(const Job& job) {
  EXPECT_TRUE(Eventually([&] {
    job.Processes();
    return job.Ended();
  })) << job.Words();
}

// A busy machine may let dsrun stand still for a while; it says so.
std::string WithoutPauses(const std::string& text) {
  std::string rest;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (!absl::StrContains(line, "the coordinator did not run for"))
      absl::StrAppend(&rest, line, "\n");
  }
  return rest;
}

TEST(ManyJobs, Programs_AllEndWellAndLeaveNothing) {
  for (int i = 0; i < kProgramJobs; ++i) {
    SCOPED_TRACE(i);
    // Where it is not set, a line says what the ranks get.
    Job job({"--num_gpus=2", UserProgram(), "exit", "0"},
            {.environment = {"OMP_NUM_THREADS=1"}, .folder = {}});
    WatchToTheEnd(job);
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
    EXPECT_THAT(WithoutPauses(job.err()), IsEmpty());
    EXPECT_THAT(job.out(), HasSubstr("rank 0 exits\n"));
    EXPECT_THAT(job.out(), HasSubstr("rank 1 exits\n"));
    ASSERT_TRUE(job.NothingIsLeft());
  }
}

// Each asks for the same first choice of port, folder and socket at the same time.
TEST(ManyJobs, StartedTogether_EachMeetsAtAPortOfItsOwn) {
  std::vector<std::unique_ptr<Job>> jobs;
  for (int i = 0; i < kJobsAtOnce; ++i) {
    jobs.push_back(
        std::make_unique<Job>(std::vector<std::string>{"--num_gpus=2", UserProgram(), "meet"},
                              Job::Options{.environment = {"OMP_NUM_THREADS=1"}, .folder = {}}));
  }
  for (const std::unique_ptr<Job>& job : jobs) {
    EXPECT_EQ(job->AwaitExit(), 0) << job->Words();
    EXPECT_THAT(job->out(), HasSubstr("rank 0 has met the others\n"));
    EXPECT_THAT(job->out(), HasSubstr("rank 1 has met the others\n"));
  }
}

TEST(ManyJobs, Trainings_AllEndWellAndLeaveNothing) {
  const TemporaryFolder data;
  const std::string text = data.path() + "/text";
  {
    std::ofstream file(text);
    for (int i = 0; i < 500; ++i) file << "line " << i * 7919 % 503 << " of a text to learn\n";
  }
  for (int i = 0; i < kTrainingJobs; ++i) {
    SCOPED_TRACE(i);
    const TemporaryFolder save;
    Job job({"--num_gpus=2",
             "train",
             "--data",
             text,
             "--num-layers",
             "1",
             "--hidden-size",
             "32",
             "--num-attention-heads",
             "2",
             "--seq-length",
             "16",
             "--global-batch-size",
             "4",
             "--micro-batch-size",
             "1",
             "--train-iters",
             "3",
             "--save",
             save.path() + "/save"});
    WatchToTheEnd(job);
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
    EXPECT_THAT(job.err(), Not(HasSubstr("warning")));
    const nlohmann::json report = job.ReportJson();
    EXPECT_EQ(report["final_step"], 3);
    EXPECT_EQ(report["checkpoint_step"], 3);
    EXPECT_TRUE(report["incidents"].empty());
    ASSERT_TRUE(job.NothingIsLeft());
  }
}

}  // namespace
}  // namespace dsrun
