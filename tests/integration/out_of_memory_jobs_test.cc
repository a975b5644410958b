// Jobs whose ranks are refused memory while they allocate it, under a real limit of their address
// space (RLIMIT_AS): the end says what takes the memory and what would take less. Killed for want
// of it: memory_jobs_test.cc.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

Args Train(const std::string& folder, const Args& more) {
  Args args = {"--num_gpus=1",
               "train",
               "--data",
               TextFile(),
               "--num-layers",
               "12",
               "--hidden-size",
               "1024",
               "--num-attention-heads",
               "8",
               "--seq-length",
               "64",
               "--global-batch-size",
               "4",
               "--micro-batch-size",
               "2",
               "--train-iters",
               "1",
               "--threads-per-rank",
               "1",
               "--save",
               folder + "/save"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// 151 million parameters: 1.2 GB of sums alone, and more than 3 GB in all.
TEST(OutOfMemoryJob, AllocationThatIsRefused_EndsWithWhatTakesItAndWhatTakesLess) {
  const TemporaryFolder folder;
  Job job(Train(folder.path(), {"--no-memory-check"}), {.limits = "-v 1800000"});
  EXPECT_EQ(job.AwaitExit(absl::Seconds(120)), 1) << job.Words();
  const std::string verdict = job.ReportJson()["verdict"];
  EXPECT_THAT(verdict, HasSubstr("rank 0 (")) << job.Words();
  EXPECT_THAT(verdict, HasSubstr("reported RESOURCE_EXHAUSTED: memory for "));
  EXPECT_THAT(verdict, HasSubstr("RLIMIT_AS) is 1800000 KiB"));
  EXPECT_THAT(verdict, HasSubstr("; by plan its engine takes "));
  EXPECT_THAT(verdict, HasSubstr(" GiB, most of it save_snapshot 1.7 GiB, "));
  EXPECT_THAT(verdict, HasSubstr("less take: --micro-batch-size 1"));
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
