// Training in real memory control groups (version 1): every node's agent, and what it starts, lives
// in a group with a limit. What would not fit is not begun; the kernel kills nobody.
//
// Needs root and a version 1 hierarchy that can be written to; elsewhere the tests say by name that
// they did not run. Version 2 is tested by its files (tests/common/base/machine_memory_test.cc).

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "common/plan/library_plan.h"
#include "common/plan/memory_plan.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr absl::Duration kLong = absl::Seconds(180);
// What a group's keeper and agent take, and some air.
constexpr int64_t kAgentBytes = 48 * kMiB;

// A group below this process's own; removed with it.
class MemoryGroup {
 public:
  static absl::StatusOr<std::unique_ptr<MemoryGroup>> Create(const std::string& name,
                                                             int64_t limit_bytes) {
    std::ifstream groups("/proc/self/cgroup");
    std::string own;
    for (std::string line; std::getline(groups, line);) {
      const size_t at = line.find(":memory:");
      if (at != std::string::npos) own = line.substr(at + 8);
    }
    if (own.empty()) return absl::UnavailableError("no version 1 memory control groups here");
    std::unique_ptr<MemoryGroup> group(new MemoryGroup(
        "/sys/fs/cgroup/memory" + own + "/dsrun-test-" + std::to_string(getpid()) + "-" + name));
    if (mkdir(group->path_.c_str(), 0755) != 0) {
      return absl::UnavailableError("no memory control group can be made here: " + group->path_ +
                                    ": " + strerror(errno));
    }
    std::ofstream limit(group->path_ + "/memory.limit_in_bytes");
    limit << limit_bytes;
    limit.close();
    if (!limit) return absl::UnavailableError("no memory limit can be set here");
    return group;
  }
  ~MemoryGroup() {
    if (!Eventually([this] { return rmdir(path_.c_str()) == 0 || errno == ENOENT; })) {
      std::cerr << "left behind: " << path_ << "\n";
    }
  }

  const std::string& path() const { return path_; }
  // How many processes the kernel killed here because the limit was met.
  int64_t Killed() const {
    std::ifstream control(path_ + "/memory.oom_control");
    int64_t value = -1;
    for (std::string name; control >> name >> value;) {
      if (name == "oom_kill") return value;
    }
    return -1;
  }
  int64_t MostUsed() const {
    return std::stoll(ReadWholeFile(path_ + "/memory.max_usage_in_bytes"));
  }

 private:
  explicit MemoryGroup(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

MemoryInput Model(int64_t width) {
  MemoryInput input;
  input.model = {"custom", 12, 256, 4, 16, 256};
  input.micro_batch_size = 1;
  input.micro_batches = 8;
  input.width = width;
  input.bucket_bytes = int64_t{4} << 20;
  return input;
}

int64_t LibrariesOf(int64_t width) {
  return LibraryBytes(
      {.threads = 1, .width = width, .ranks_of_machine = std::min<int64_t>(width, 2)});
}

// What the largest rank of this width may take, of two on each machine.
int64_t RankBytes(int64_t width) {
  int64_t most = 0;
  for (const MemoryPlan& plan : PlanMemoryOfRanks(Model(width))) {
    most = std::max(most, plan.total_bytes());
  }
  return most + LibrariesOf(width);
}

Args TrainModel(Args launcher, const std::string& folder) {
  Args args = std::move(launcher);
  const Args train = {"train",
                      "--data",
                      TextFile(),
                      "--num-layers",
                      "12",
                      "--hidden-size",
                      "256",
                      "--num-attention-heads",
                      "4",
                      "--seq-length",
                      "16",
                      "--global-batch-size",
                      "8",
                      "--micro-batch-size",
                      "1",
                      "--threads-per-rank",
                      "1",
                      "--bucket-bytes",
                      std::to_string(4 << 20),
                      "--train-iters",
                      "6",
                      "--save-interval",
                      "2",
                      "--save",
                      folder + "/save",
                      "--metrics",
                      folder + "/metrics"};
  args.insert(args.end(), train.begin(), train.end());
  return args;
}

class MemoryJob : public ::testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "the address sanitizer's own memory is not in the plan";
#endif
  }

  // False, and skipped, where groups cannot be made.
  bool MakeGroups(int count, int64_t limit_bytes) {
    for (int i = 0; i < count; ++i) {
      absl::StatusOr<std::unique_ptr<MemoryGroup>> group =
          MemoryGroup::Create(std::to_string(i), limit_bytes);
      if (!group.ok()) {
        [&] { GTEST_SKIP() << "DID NOT RUN: " << group.status().message(); }();
        return false;
      }
      groups_.push_back(*std::move(group));
    }
    return true;
  }

  // A dsagent that goes into the next free group, or into the last, before it is one.
  std::string AgentInItsGroup() const {
    const std::string path = folder_.path() + "/dsagent-in-group";
    std::ofstream script(path);
    script << "#!/bin/sh\n";
    for (size_t i = 0; i + 1 < groups_.size(); ++i) {
      script << "if mkdir '" << path << "." << i << "' 2>/dev/null; then echo $$ > '"
             << groups_[i]->path() << "/cgroup.procs'; exec '" << DsagentBinary()
             << "' \"$@\"; fi\n";
    }
    script << "echo $$ > '" << groups_.back()->path() << "/cgroup.procs'\nexec '" << DsagentBinary()
           << "' \"$@\"\n";
    script.close();
    std::filesystem::permissions(path, std::filesystem::perms(0755));
    return path;
  }

  std::string TwoNodesOf(int slots) const {
    std::ofstream(folder_.path() + "/hosts")
        << "127.0.0.1 slots=" << slots << "\n127.0.0.2 slots=" << slots << "\n";
    return folder_.path() + "/hosts";
  }

  void ExpectNobodyWasKilledByTheKernel() const {
    for (const auto& group : groups_) {
      EXPECT_EQ(group->Killed(), 0) << group->path();
      std::cout << group->path() << ": " << group->MostUsed() / kMiB << " MiB at most\n";
    }
  }

  TemporaryFolder folder_;
  std::vector<std::unique_ptr<MemoryGroup>> groups_;
};

void KillOneAgentAfterASave(const Job& job, const std::string& folder) {
  // Written behind the training, and known to dsrun.
  const auto saved = [&] { return absl::StrContains(job.out() + job.err(), "manifest.step-"); };
  ASSERT_TRUE(
      Eventually([&] { return (StepsDone(folder) >= 3 && saved()) || job.Ended(); }, kLong));
  ASSERT_FALSE(job.Ended()) << job.Words();
  const std::vector<pid_t> agents = job.Find(Role::kAgent);
  ASSERT_EQ(agents.size(), 2u) << job.Words();
  ASSERT_EQ(kill(agents[1], SIGKILL), 0);
}

TEST_F(MemoryJob, NarrowerThatDoesNotFit_GoesOnWithFewerRanksAndTheSameContent) {
  ASSERT_LT(2 * RankBytes(4) + kAgentBytes, 2 * RankBytes(2));
  ASSERT_LT(RankBytes(1) + kAgentBytes, 2 * RankBytes(4) + kAgentBytes);
  if (!MakeGroups(2, 2 * RankBytes(4) + kAgentBytes)) return;
  Job job(TrainModel({"--hostfile", TwoNodesOf(2)}, folder_.path()),
          {.agent_binary = AgentInItsGroup()});
  KillOneAgentAfterASave(job, folder_.path());
  ASSERT_EQ(job.AwaitExit(kLong), 0) << job.Words();
  EXPECT_THAT(job.out() + job.err(),
              HasSubstr("goes on with 1 rank instead of 2, which do not fit"))
      << job.Words();
  ExpectNobodyWasKilledByTheKernel();
  const TemporaryFolder alone;
  Job undisturbed(TrainModel({"--num_gpus=1"}, alone.path()));
  ASSERT_EQ(undisturbed.AwaitExit(kLong), 0) << undisturbed.Words();
  EXPECT_EQ(ContentHash(folder_.path() + "/save"), ContentHash(alone.path() + "/save"));
  EXPECT_EQ(ContentHash(folder_.path() + "/save").size(), 64u);
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(MemoryJob, NoWidthFits_EndsWithWhatWouldFitAndACheckpoint) {
  ASSERT_LT(RankBytes(2) + kAgentBytes, RankBytes(1));
  if (!MakeGroups(2, RankBytes(2) + kAgentBytes)) return;
  Job job(TrainModel({"--hostfile", TwoNodesOf(1)}, folder_.path()),
          {.agent_binary = AgentInItsGroup()});
  KillOneAgentAfterASave(job, folder_.path());
  ASSERT_EQ(job.AwaitExit(kLong), 95) << job.Words();
  const std::string words = job.out() + job.err();
  EXPECT_THAT(words, HasSubstr("does not fit into the memory of")) << job.Words();
  EXPECT_THAT(words, HasSubstr("1 rank of up to"));
  EXPECT_THAT(words, HasSubstr("would fit   "));
  EXPECT_THAT(words, HasSubstr("1 more node like 127.0.0."));
  EXPECT_THAT(words, HasSubstr("go on from the checkpoint with what would fit and --load " +
                               folder_.path() + "/save"));
  EXPECT_EQ(job.ReportJson()["lacking_memory"].size(), 1u) << job.Words();
  ExpectNobodyWasKilledByTheKernel();
  EXPECT_EQ(ContentHash(folder_.path() + "/save").size(), 64u);
  EXPECT_TRUE(job.NothingIsLeft());
}

// The test of the tester: without the check, the same is what the kernel answers.
TEST_F(MemoryJob, WithoutTheCheck_TheKernelKills) {
  // Less than the arenas of one rank alone, and what two of half the optimizer really take.
  if (!MakeGroups(2, RankBytes(1) - LibrariesOf(1) - 16 * kMiB)) return;
  Args args = TrainModel({"--hostfile", TwoNodesOf(1), "--max-restarts", "1"}, folder_.path());
  args.push_back("--no-memory-check");
  Job job(args, {.agent_binary = AgentInItsGroup()});
  KillOneAgentAfterASave(job, folder_.path());
  EXPECT_NE(job.AwaitExit(kLong), 0) << job.Words();
  EXPECT_GT(groups_[0]->Killed() + groups_[1]->Killed(), 0) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
  // Whose doing it was, what took the memory, and what would help.
  const std::string report = job.ReportJson().dump();
  EXPECT_THAT(report, HasSubstr("killed for want of memory by the kernel (oom_kill "))
      << job.Words();
  EXPECT_THAT(report, HasSubstr("; by plan its engine takes ")) << job.Words();
  EXPECT_THAT(report, HasSubstr("most of it save_snapshot ")) << job.Words();
  EXPECT_THAT(report, HasSubstr("1 more node like 127.0.0.")) << job.Words();
}

TEST_F(MemoryJob, NodesInOneGroup_ShareItsMemoryOnce_AndNothingIsStarted) {
  if (!MakeGroups(1, 2 * RankBytes(4) + kAgentBytes)) return;
  Job job(TrainModel({"--hostfile", TwoNodesOf(2)}, folder_.path()),
          {.agent_binary = AgentInItsGroup()});
  ASSERT_EQ(job.AwaitExit(kLong), 92) << job.Words();
  const std::string words = job.out() + job.err();
  EXPECT_THAT(words, HasSubstr("127.0.0.1, 127.0.0.2: 4 ranks of up to")) << job.Words();
  EXPECT_THAT(words, HasSubstr(groups_[0]->path().substr(strlen("/sys/fs/cgroup/memory"))));
  EXPECT_THAT(words, HasSubstr("1 rank, or "));
  EXPECT_THAT(words, HasSubstr("most of a rank's: gradient_sums "));
  EXPECT_THAT(words, Not(HasSubstr("rank 0 (")));
  ExpectNobodyWasKilledByTheKernel();
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
