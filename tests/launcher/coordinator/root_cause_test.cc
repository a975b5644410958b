// What failures say, whom the others wait for, and how a node's clock is learnt.

#include "launcher/coordinator/root_cause.h"

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/exit_words.h"
#include "launcher/shell/node_clocks.h"

namespace dsrun::launcher {
namespace {

absl::Duration Ms(double n) { return absl::Milliseconds(n); }

TEST(FailureFromExit, KnowsWhatAProcessDidItself) {
  struct Row {
    const char* name;
    int code, signal;
    bool by_agent, stuck;
    bool from_outside;
  };
  const Row rows[] = {
      {"exited", 1, 0, false, false, false},
      {"a shell's word for SIGKILL is still an exit code", 137, 0, false, false, false},
      {"SIGILL", 0, 4, false, false, false},
      {"SIGABRT", 0, 6, false, false, false},
      {"SIGBUS", 0, 7, false, false, false},
      {"SIGFPE", 0, 8, false, false, false},
      {"SIGSEGV", 0, 11, false, false, false},
      {"SIGHUP", 0, 1, false, false, true},
      {"SIGKILL", 0, 9, false, false, true},
      {"SIGTERM", 0, 15, false, false, true},
      {"a signal without a name", 0, 40, false, false, true},
      {"killed by its agent because it was silent", 0, 9, true, false, true},
      {"killed by its agent because it was in an endless loop", 0, 9, true, true, false},
  };
  for (const Row& row : rows) {
    proto::WorkerExited exited;
    exited.set_exit_code(row.code);
    exited.set_term_signal(row.signal);
    exited.set_killed_by_agent(row.by_agent);
    exited.set_stuck(row.stuck);
    EXPECT_EQ(FailureFromExit(exited).from_outside, row.from_outside) << row.name;
  }
}

TEST(FailureFromReport, LostPeerIsFromOutside_AnOwnFaultAndAVainWaitAreNot) {
  proto::Failed failed;
  failed.set_code(14);
  failed.set_peer_rank(-1);
  EXPECT_FALSE(FailureFromReport(failed).from_outside);
  failed.set_peer_rank(2);
  EXPECT_TRUE(FailureFromReport(failed).from_outside);
  failed.set_code(4);
  EXPECT_FALSE(FailureFromReport(failed).from_outside);
}

TEST(FailureFromReport, TheVerdictSaysWhatItIs_AndWithoutOneTheOldMark) {
  using proto::Failed;
  struct Row {
    Failed::Verdict verdict;
    bool fatal_mark;
    bool fatal;
    bool replace_process;
    bool from_outside;
  };
  for (const Row& row : {Row{Failed::kUnset, false, false, false, true},
                         Row{Failed::kUnset, true, true, false, false},
                         Row{Failed::kRetry, false, false, false, true},
                         Row{Failed::kReplaceProcess, false, false, true, false},
                         Row{Failed::kEndJob, true, true, false, false}}) {
    Failed failed;
    failed.set_code(14);
    failed.set_peer_rank(2);
    failed.set_verdict(row.verdict);
    failed.set_fatal(row.fatal_mark);
    const Failure failure = FailureFromReport(failed);
    EXPECT_EQ(failure.fatal, row.fatal) << row.verdict;
    EXPECT_EQ(failure.replace_process, row.replace_process) << row.verdict;
    EXPECT_EQ(failure.from_outside, row.from_outside) << row.verdict;
  }
}

// What a rank hung in decides whose doing it was (node_core.h).
TEST(FailureFromExit, KilledWhileItWaitedForADisk_IsFromOutside) {
  proto::WorkerExited exited;
  exited.set_term_signal(9);
  exited.set_killed_by_agent(true);
  exited.set_reason("made no progress for 1800 s in 'saving' after step 5");
  EXPECT_TRUE(FailureFromExit(exited).from_outside);
  exited.set_stuck(true);
  EXPECT_FALSE(FailureFromExit(exited).from_outside);
}

TEST(FailureFromExit, NotStartedForWantOfTheNodes_IsFromOutsideAndSaysSo) {
  proto::WorkerExited exited;
  exited.set_exit_code(126);
  exited.set_reason("no descriptor left");
  EXPECT_FALSE(FailureFromExit(exited).from_outside);
  exited.set_node_lacked(true);
  EXPECT_TRUE(FailureFromExit(exited).from_outside);
  EXPECT_EQ(FailureFromExit(exited).what,
            "was not started, because its node lacked what that takes: no descriptor left");
}

TEST(AwaitedRank, IsTheOneThatDidNotReportAndIsWaitedFor) {
  struct Report {
    int rank;
    int peer;
    bool timed_out;
  };
  struct Row {
    const char* name;
    std::vector<Report> reports;
    int odd;  // -1: none
  };
  const Row rows[] = {
      {"nobody has reported", {}, -1},
      {"a lost connection is no deadline", {{0, 2, false}, {1, 2, false}}, -1},
      {"all wait for one", {{0, 2, true}, {1, 2, true}}, 2},
      {"the others saw the first one leave", {{0, 2, true}, {1, 0, false}, {3, 1, false}}, 2},
      {"in a circle", {{0, 1, true}, {1, 2, true}, {2, 0, true}}, -1},
      {"in a circle, and one outside of it", {{0, 1, true}, {1, 0, true}, {2, 3, true}}, 3},
      {"nobody is named", {{0, -1, true}}, -1},
      {"most wait for 3", {{0, 4, true}, {1, 3, true}, {2, 3, true}}, 3},
      {"as many wait for 4 as for 3", {{0, 4, true}, {1, 3, true}}, 3},
  };
  for (const Row& row : rows) {
    std::map<Rank, Failure> reports;
    for (const Report& report : row.reports) {
      reports[Rank(report.rank)].peer_rank = report.peer;
      reports[Rank(report.rank)].timed_out = report.timed_out;
    }
    EXPECT_EQ(AwaitedRank(reports).value_or(Rank(-1)), Rank(row.odd)) << row.name;
  }
}

// Chains and circles of any shape, walked step by step from every rank.
std::optional<Rank> AwaitedStepByStep(const std::map<Rank, Failure>& reports) {
  std::map<Rank, int> waiters;
  bool timed_out = false;
  for (const auto& [rank, report] : reports) {
    timed_out |= report.timed_out;
    Rank end = rank;
    for (size_t i = 0; i < reports.size() && reports.contains(end); ++i) {
      end = Rank(reports.at(end).peer_rank);
    }
    if (end.value() >= 0 && !reports.contains(end)) ++waiters[end];
  }
  std::optional<Rank> odd;
  for (const auto& [rank, count] : waiters) {
    if (!odd || count > waiters[*odd]) odd = rank;
  }
  return timed_out ? odd : std::nullopt;
}

TEST(AwaitedRank, OfAnyReports_IsWhereTheChainsEnd) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    std::mt19937_64 luck(seed);
    std::map<Rank, Failure> reports;
    const int width = 1 + static_cast<int>(luck() % 12);
    for (int rank = 0; rank < width; ++rank) {
      if (luck() % 4 == 0) continue;
      Failure& report = reports[Rank(rank)];
      report.peer_rank = static_cast<int>(luck() % static_cast<uint64_t>(width + 1)) - 1;
      report.timed_out = luck() % 3 == 0;
    }
    ASSERT_EQ(AwaitedRank(reports), AwaitedStepByStep(reports)) << "seed " << seed;
  }
}

TEST(FailureFromReport, WordsOfMegabytes_AreCutAndItSaysSo) {
  proto::Failed failed;
  failed.set_peer_rank(-1);
  failed.set_message(std::string(1 << 20, 'x'));
  const Failure failure = FailureFromReport(failed);
  EXPECT_LT(failure.what.size(), 5000u);
  EXPECT_TRUE(failure.what.ends_with("... (1044480 bytes more)")) << failure.what.substr(4000);
}

// A node whose clock is ahead by an hour; `there` and `back` in milliseconds, asked at `sent`.
NodeClock::RoundTrip Trip(double sent, double there, double held, double back) {
  const absl::Duration ahead = absl::Hours(1);
  return {Ms(sent), Ms(sent + there) + ahead, Ms(sent + there + held) + ahead,
          Ms(sent + there + held + back)};
}

TEST(NodeClock, BeforeTheFirstRoundTrip_NothingIsKnown) {
  EXPECT_FALSE(NodeClock().OnOurs(Ms(1), Ms(1)).has_value());
}

TEST(NodeClock, EqualWays_GiveTheOffsetExactly) {
  NodeClock clock;
  clock.Add(Trip(100, 2, 300, 2));
  const auto moment = clock.OnOurs(absl::Hours(1) + Ms(200), Ms(404));
  ASSERT_TRUE(moment.has_value());
  EXPECT_EQ(moment->at, Ms(200));
  EXPECT_EQ(moment->within, Ms(2));
}

TEST(NodeClock, UnequalWays_AreWrongByNoMoreThanItSays) {
  for (const double there : {0.0, 1.0, 7.0, 50.0}) {
    for (const double back : {0.0, 1.0, 7.0, 50.0}) {
      NodeClock clock;
      clock.Add(Trip(100, there, 300, back));
      const auto moment = clock.OnOurs(absl::Hours(1) + Ms(200), Ms(400 + there + back));
      ASSERT_TRUE(moment.has_value());
      EXPECT_LE(absl::AbsDuration(moment->at - Ms(200)), moment->within) << there << " " << back;
      EXPECT_LE(moment->within, Ms((there + back) / 2)) << there << " " << back;
    }
  }
}

TEST(NodeClock, ShortestRoundTripOfTheLastEight_IsBelieved) {
  NodeClock clock;
  clock.Add(Trip(0, 0, 0, 0));  // the best of all, but too old at the end
  for (int i = 0; i < 4; ++i) clock.Add(Trip(100 + i, 40, 0, 0));
  EXPECT_LT(clock.OnOurs(absl::Hours(1), Ms(200))->within, Ms(1));
  clock.Add(Trip(200, 3, 0, 1));
  for (int i = 0; i < 7; ++i) clock.Add(Trip(300 + i, 40, 0, 0));
  const auto moment = clock.OnOurs(absl::Hours(1) + Ms(250), Ms(204));
  EXPECT_EQ(moment->within, Ms(2));
  EXPECT_EQ(moment->at, Ms(249));
}

TEST(NodeClock, OldRoundTrip_IsBelievedLess) {
  NodeClock clock;
  clock.Add(Trip(0, 1, 0, 1));
  EXPECT_EQ(clock.OnOurs(absl::Hours(1), Ms(2) + absl::Seconds(10))->within, Ms(6));
}

TEST(NodeClock, ImpossibleRoundTrip_IsDropped) {
  NodeClock clock;
  clock.Add({Ms(10), Ms(5), Ms(6), Ms(9)});    // came before it was sent
  clock.Add({Ms(10), Ms(5), Ms(4), Ms(19)});   // answered before it was heard
  clock.Add({Ms(10), Ms(5), Ms(50), Ms(19)});  // held for longer than it took
  EXPECT_FALSE(clock.OnOurs(Ms(1), Ms(1)).has_value());
}

TEST(NodeClocks, ExitOfAKnownNode_IsStamped_OfAnUnknownOneNot) {
  NodeClocks clocks;
  proto::AgentHeartbeat heartbeat;
  clocks.Heard(NodeId(0), heartbeat, Ms(1));  // answers nothing
  heartbeat.mutable_echo()->mutable_sent()->set_seconds(10);
  heartbeat.mutable_echo()->mutable_heard()->set_seconds(5010);
  heartbeat.mutable_echo()->mutable_answered()->set_seconds(5011);
  clocks.Heard(NodeId(0), heartbeat, absl::Seconds(11));
  proto::AgentMessage message;
  message.mutable_worker_exited()->mutable_steady_time()->set_seconds(5003);
  clocks.Correct(NodeId(0), absl::Seconds(11), message);
  EXPECT_EQ(message.worker_exited().launcher_time().seconds(), 3);
  EXPECT_EQ(message.worker_exited().launcher_time_within().seconds(), 0);
  // An agent cannot stamp by itself.
  clocks.Correct(NodeId(1), absl::Seconds(11), message);
  EXPECT_FALSE(message.worker_exited().has_launcher_time());
}

// The numbers come from an agent: whatever it says, a failure is never taken for success.
TEST(ExitWords, NumbersThatNoProcessHas_AreNoSuccess) {
  EXPECT_EQ(ShellExitCode(3, 0), 3);
  EXPECT_EQ(ShellExitCode(0, 9), 137);
  EXPECT_EQ(ShellExitCode(256, 0), 255);
  EXPECT_EQ(ShellExitCode(-1, 0), 255);
  EXPECT_EQ(ShellExitCode(0, INT32_MAX), 255);
  EXPECT_EQ(ShellExitCode(0, -128), 255);
}

}  // namespace
}  // namespace dsrun::launcher
