// dsrun ended at odd moments of its start, by a signal it can hear and by one it cannot: the
// documented exit code, and nothing stays behind. Seeds are printed (SEED gives one back).

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "tests/integration/job_fixture.h"
#include "tests/support/random_messages.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

constexpr int kInterrupts = 30;
constexpr int kCancelled = 96;  // docs/errors.md

// dsrun runs its own instructions: before, the kernel and the dynamic loader have it.
bool AwaitOwnSignals(const Job& job) {
  return Eventually([&] {
    std::stringstream status(ReadWholeFile("/proc/" + std::to_string(job.pid()) + "/status"));
    for (std::string line; std::getline(status, line);) {
      if (!line.starts_with("SigCgt:")) continue;
      const uint64_t caught = std::stoull(line.substr(7), nullptr, 16);
      return (caught >> (SIGTERM - 1) & 1) != 0;
    }
    return false;
  });
}

// Looks at the job meanwhile, so that it knows the socket folders of all its agents.
void LookFor(const Job& job, absl::Duration time) {
  const SteadyTime until = Clock::Real().SteadyNow() + time;
  Eventually([&] {
    job.Processes();
    return Clock::Real().SteadyNow() >= until;
  });
}

TEST(LauncherEnds, InterruptedAtAnyMoment_Exits96AndLeavesNothing) {
  std::mt19937 random(TestSeed());
  for (int i = 0; i < kInterrupts; ++i) {
    const absl::Duration delay = absl::Microseconds(random() % 200'000);
    const int signal = random() % 2 == 0 ? SIGINT : SIGTERM;
    SCOPED_TRACE("interrupt " + std::to_string(i) + ": signal " + std::to_string(signal) +
                 " after " + absl::FormatDuration(delay));
    const TemporaryFolder folder;
    std::ofstream(folder.path() + "/hosts") << "127.0.0.1 slots=1\n127.0.0.2 slots=1\n";
    Job job({"--hostfile", folder.path() + "/hosts", UserProgram(), "wait"});
    ASSERT_TRUE(AwaitOwnSignals(job)) << job.Words();
    LookFor(job, delay);
    job.Signal(signal);
    ASSERT_EQ(job.AwaitExit(), kCancelled) << job.Words();
    EXPECT_THAT(job.err(), HasSubstr(signal == SIGINT ? "got Interrupt" : "got Terminated"));
    ASSERT_TRUE(job.NothingIsLeft());
  }
}

TEST(LauncherEnds, InterruptedWhileItReadsItsHostfile_Exits96AndHasMadeNothing) {
  const TemporaryFolder folder;
  const std::string fifo = folder.path() + "/hosts";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);  // nobody ever writes: the reader waits
  Job job({"--hostfile", fifo, UserProgram(), "wait"});
  ASSERT_TRUE(AwaitOwnSignals(job)) << job.Words();
  job.Signal(SIGINT);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("got Interrupt: nothing was started"));
  EXPECT_NE(access(job.run_dir().c_str(), F_OK), 0);
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(LauncherEnds, KilledBeforeItsAgentHasTheJob_TheAgentEndsWithTheLease) {
  const TemporaryFolder folder;
  const std::string script = folder.path() + "/agent";
  // The agent listens, but its port never comes: dsrun waits for it, and the pipe stays open.
  std::ofstream(script) << "#!/bin/sh\nexec " << DsagentBinary() << " \"$@\" 5>&4 4>/dev/null\n";
  chmod(script.c_str(), 0755);
  Job job({"--agent-binary", script, "--node-silent-after", "2s", "--lease", "4s",
           "--heartbeat-interval", "300ms", "--num_gpus=1", UserProgram(), "wait"});
  ASSERT_TRUE(Eventually([&] { return !job.Find(Role::kAgent).empty() || job.Ended(); }));
  job.Signal(SIGKILL);
  EXPECT_EQ(job.AwaitExit(), 128 + SIGKILL);
  EXPECT_FALSE(job.Find(Role::kKeeper).empty()) << "the agent should wait for its lease";
  EXPECT_TRUE(job.NothingIsLeft(absl::Seconds(40)));
}

TEST(LauncherEnds, KilledAtAnyMoment_NothingIsLeftAfterTheLease) {
  std::mt19937 random(TestSeed());
  for (int i = 0; i < 8; ++i) {
    const absl::Duration delay = absl::Microseconds(random() % 100'000);
    SCOPED_TRACE("kill " + std::to_string(i) + " after " + absl::FormatDuration(delay));
    Job job({"--node-silent-after", "1s", "--lease", "2s", "--heartbeat-interval", "300ms",
             "--num_gpus=2", UserProgram(), "daemon"});
    LookFor(job, delay);
    job.Signal(SIGKILL);
    ASSERT_EQ(job.AwaitExit(), 128 + SIGKILL) << job.Words();
    ASSERT_TRUE(job.NothingIsLeft(absl::Seconds(20)));
  }
}

}  // namespace
}  // namespace dsrun
