// Failures at random: short training jobs of two nodes with two ranks each, in which workers and
// agents are killed, stopped, or stopped and woken again, at random steps and moments. Whatever
// happened, the final content is the undisturbed run's, and nothing is left behind.
//
// The seed is printed. DSRUN_SOAK_SEED=N plays it again (as far as real processes let themselves be
// played again: what is done at which step is the same, the microsecond is not);
// DSRUN_SOAK_TRIALS=N asks for more than the few trials of an ordinary run:
//
//   bazel test //tests/integration:jobs_test --test_filter='SoakJob.*'
//       --test_env=DSRUN_SOAK_TRIALS=100 --test_timeout=3600 --test_output=all
//
// bench/campaigns/soak does that before anything is called done.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

enum class Deed { kKill, kStop, kPause };

struct Fault {
  Role victim = Role::kWorker;
  size_t index = 0;  // among the living of its role
  Deed deed = Deed::kKill;
  int64_t step = 0;           // once this step is done; 0: once the victim is there
  absl::Duration after;       // from then on
  absl::Duration paused_for;  // kPause: until it is woken
};

std::string Words(const Fault& fault) {
  std::stringstream text;
  text << (fault.deed == Deed::kKill   ? "kill"
           : fault.deed == Deed::kStop ? "stop"
                                       : "pause")
       << " " << (fault.victim == Role::kWorker ? "worker " : "agent ") << fault.index
       << " at step " << fault.step << " + " << absl::FormatDuration(fault.after);
  if (fault.deed == Deed::kPause) text << " for " << absl::FormatDuration(fault.paused_for);
  return text.str();
}

// One to four, half of the later ones a moment after the one before; at most one of an agent, so
// that a node is left to go on with.
std::vector<Fault> DrawFaults(std::mt19937_64& random) {
  const auto below = [&](uint64_t n) { return static_cast<int64_t>(random() % n); };
  std::vector<Fault> faults(static_cast<size_t>(1 + below(4)));
  bool agent_drawn = false;
  for (Fault& fault : faults) {
    if (!agent_drawn && below(3) == 0) fault.victim = Role::kAgent;
    agent_drawn |= fault.victim == Role::kAgent;
    fault.index = static_cast<size_t>(below(fault.victim == Role::kAgent ? 2 : 4));
    fault.deed = static_cast<Deed>(below(3));
    // A job whose agents die before it has begun has nothing to go on with.
    const int64_t first = fault.victim == Role::kAgent ? 1 : 0;
    // One in six while the job is starting: much happens there in few steps.
    fault.step = below(6) == 0 ? first : first + below(kSteps - 10);
    fault.after = absl::Microseconds(below(30'000));
    if (&fault != &faults.front() && below(2) == 0) {
      fault.step = std::max(first, (&fault - 1)->step);
      fault.after = absl::Microseconds(below(150'000));
    }
    fault.paused_for = absl::Milliseconds(below(4'500));  // the limits of silence are 3 s
  }
  std::stable_sort(faults.begin(), faults.end(),
                   [](const Fault& a, const Fault& b) { return a.step < b.step; });
  return faults;
}

// Not a wait for anything: the moment is what is drawn.
void Let(absl::Duration pass) {
  Eventually([] { return false; }, pass);
}

// False: the job had ended before.
bool Do(const Fault& fault, const Job& job, const std::string& folder) {
  std::vector<pid_t> victims;
  const auto moment = [&] {
    if (job.Ended()) return true;
    if (StepsDone(folder) < fault.step) return false;
    victims = job.Find(fault.victim);
    return !victims.empty();
  };
  if (!Eventually(moment) || job.Ended() || victims.empty()) return false;
  const pid_t victim = victims[fault.index % victims.size()];
  Let(fault.after);
  // Nobody else reaps it before its agent, keeper or dsrun does: the number is still its own, or
  // the job has just gone on without it.
  if (kill(victim, fault.deed == Deed::kKill ? SIGKILL : SIGSTOP) != 0) return false;
  if (fault.deed == Deed::kPause) {
    Let(fault.paused_for);
    kill(victim, SIGCONT);
  }
  return true;
}

struct Tally {
  int faults = 0;
  int incidents = 0;
  int too_late = 0;
  double longest_recovery_s = 0;
};

void Trial(uint64_t seed, Tally& tally) {
  std::mt19937_64 random(seed);
  const std::vector<Fault> faults = DrawFaults(random);
  std::string story;
  for (const Fault& fault : faults) story += (story.empty() ? "" : ", then ") + Words(fault);
  SCOPED_TRACE("DSRUN_SOAK_SEED=" + std::to_string(seed) + " DSRUN_SOAK_TRIALS=1: " + story);
  const TemporaryFolder folder;
  Job job(Train({"--hostfile", TwoNodes(folder.path())}, folder.path(), Long()));
  for (const Fault& fault : faults)
    ++(Do(fault, job, folder.path()) ? tally.faults : tally.too_late);
  ASSERT_EQ(job.AwaitExit(absl::Seconds(120)), 0) << job.Words();
  EXPECT_EQ(ContentHash(folder.path() + "/save"), UndisturbedHash()) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft()) << job.Words();
  const nlohmann::json report = job.ReportJson();
  tally.incidents += static_cast<int>(report["incidents"].size());
  for (const nlohmann::json& incident : report["incidents"]) {
    tally.longest_recovery_s =
        std::max(tally.longest_recovery_s, incident.value("next_step_after_s", 0.0));
  }
  std::cout << "seed " << seed << ": " << story << ": " << report["incidents"].size()
            << " incidents, " << report["seconds"] << " s" << std::endl;
}

TEST(SoakJob, RandomFailures_EndWithTheUndisturbedContent) {
  const uint64_t seed = FromEnvironment("DSRUN_SOAK_SEED", std::random_device()());
  const uint64_t trials = FromEnvironment("DSRUN_SOAK_TRIALS", 2);
  std::cout << "DSRUN_SOAK_SEED=" << seed << " DSRUN_SOAK_TRIALS=" << trials << std::endl;
  Tally tally;
  for (uint64_t trial = 0; trial < trials && !HasFatalFailure(); ++trial)
    Trial(seed + trial, tally);
  std::cout << trials << " trials, " << tally.faults << " faults (" << tally.too_late
            << " came after the end), " << tally.incidents << " incidents, longest recovery "
            << tally.longest_recovery_s << " s\n";
  EXPECT_GT(tally.faults, 0);
}

}  // namespace
}  // namespace dsrun
