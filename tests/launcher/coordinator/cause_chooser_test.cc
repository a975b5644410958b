// Which failure is named, asked after every report: by the rule itself, against the rule written
// down without any thought of cost, and with what a large incident may keep.

#include "launcher/coordinator/cause_chooser.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/history.h"

namespace dsrun::launcher {
namespace {

absl::Duration Ms(double n) { return absl::Milliseconds(n); }

// A rank's process on `node` that ended by itself, heard of at `noticed`.
Failure Exit(int node, absl::Duration noticed, std::optional<absl::Duration> node_time,
             std::optional<absl::Duration> happened_at, absl::Duration within) {
  Failure failure;
  failure.kind = Failure::Kind::kWorkerExited;
  failure.node = NodeId(node);
  failure.noticed_at = noticed;
  failure.node_time = node_time;
  failure.happened_at = happened_at;
  failure.happened_within = within;
  return failure;
}

size_t CauseOf(const std::vector<Failure>& heard) {
  CauseChooser chooser;
  for (const Failure& failure : heard) chooser.Add(failure);
  return chooser.Choose();
}

TEST(CauseChooser, FirstInCorrectedTime_ElseInTheOrderOfHearing) {
  const std::optional<absl::Duration> none;
  Failure killed = Exit(1, Ms(1), Ms(1), Ms(1), Ms(1));
  killed.killed_by_agent = true;
  Failure reported = Exit(1, Ms(1), none, none, Ms(0));
  reported.kind = Failure::Kind::kWorkerReported;
  struct Row {
    const char* name;
    std::vector<Failure> heard;  // in this order
    size_t cause;
  };
  const Row rows[] = {
      {"one alone", {Exit(0, Ms(9), none, none, Ms(0))}, 0},
      {"heard in the right order",
       {Exit(0, Ms(10), Ms(5), Ms(5), Ms(1)), Exit(1, Ms(11), Ms(9), Ms(9), Ms(1))},
       0},
      {"heard in the wrong order; the nodes' own clocks say the opposite",
       {Exit(0, Ms(10), Ms(100), Ms(9), Ms(1)), Exit(1, Ms(90), Ms(999999), Ms(5), Ms(1))},
       1},
      {"too close to tell",
       {Exit(0, Ms(10), Ms(9), Ms(9), Ms(2)), Exit(1, Ms(90), Ms(8), Ms(8), Ms(2))},
       0},
      {"the difference is just as large as what both may be wrong by",
       {Exit(0, Ms(10), Ms(9), Ms(9), Ms(3)), Exit(1, Ms(90), Ms(5), Ms(5), Ms(1))},
       0},
      {"one of them has no time on our clock",
       {Exit(0, Ms(10), Ms(9), none, Ms(0)), Exit(1, Ms(90), Ms(5), Ms(5), Ms(1))},
       0},
      {"on one node its own clock decides, however loose the estimate is",
       {Exit(1, Ms(10), Ms(502), Ms(9), Ms(50)), Exit(1, Ms(11), Ms(501), Ms(8), Ms(50))},
       1},
      {"three, the last heard was the first",
       {Exit(0, Ms(10), Ms(1), Ms(8), Ms(1)), Exit(1, Ms(20), Ms(1), Ms(9), Ms(1)),
        Exit(2, Ms(30), Ms(1), Ms(2), Ms(1))},
       2},
      {"the first heard cannot be told from the first, who is certainly before the second",
       {Exit(0, Ms(10), Ms(1), Ms(5), Ms(9)), Exit(1, Ms(20), Ms(1), Ms(9), Ms(1)),
        Exit(2, Ms(30), Ms(1), Ms(2), Ms(1))},
       0},
      {"what an agent killed is a consequence, whatever its time",
       {killed, Exit(0, Ms(10), Ms(9), Ms(9), Ms(1))},
       1},
      {"what was only reported is a consequence too",
       {reported, Exit(0, Ms(10), Ms(9), Ms(9), Ms(1))},
       1},
      // 0 before 1 by its own node's clock, 1 before 2 and 2 before 0 by corrected time.
      {"a circle of estimates is broken by the order of hearing",
       {Exit(0, Ms(10), Ms(1), Ms(9), Ms(0)), Exit(0, Ms(20), Ms(2), Ms(1), Ms(0)),
        Exit(1, Ms(30), Ms(0), Ms(5), Ms(0))},
       0},
  };
  for (const Row& row : rows) EXPECT_EQ(CauseOf(row.heard), row.cause) << row.name;
}

// ---- The rule, looking at all pairs every time: what History did before.

bool CertainlyBefore(const Failure& a, const Failure& b) {
  if (a.node == b.node) {
    if (a.node_time && b.node_time) return *a.node_time < *b.node_time;
    return a.wall_time && b.wall_time && *a.wall_time < *b.wall_time;
  }
  return a.happened_at && b.happened_at &&
         *a.happened_at + a.happened_within < *b.happened_at - b.happened_within;
}

size_t CauseByAllPairs(const std::vector<Failure>& failures) {
  size_t cause = 0;
  bool cause_preceded = true;
  for (size_t i = 0; i < failures.size(); ++i) {
    const Failure& failure = failures[i];
    const bool preceded = std::any_of(failures.begin(), failures.end(), [&](const Failure& other) {
      return CauseWeight(other) == CauseWeight(failure) && CertainlyBefore(other, failure);
    });
    const Failure& best = failures[cause];
    const bool better = std::tuple(CauseWeight(failure), preceded, failure.noticed_at) <
                        std::tuple(CauseWeight(best), cause_preceded, best.noticed_at);
    if (i > 0 && !better) continue;
    cause = i;
    cause_preceded = preceded;
  }
  return cause;
}

// The newest incident, as it was kept.
struct IncidentByAllPairs {
  std::optional<Failure> cause;
  std::vector<Failure> consequences;

  void Add(Failure failure) {
    std::vector<Failure> all = std::move(consequences);
    if (cause) all.insert(all.begin(), *std::move(cause));
    Sort(all);
    all.push_back(std::move(failure));
    const size_t at = CauseByAllPairs(all);
    cause = std::move(all[at]);
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(at));
    consequences = std::move(all);
  }
  static void Sort(std::vector<Failure>& failures) {
    std::stable_sort(failures.begin(), failures.end(), [](const Failure& a, const Failure& b) {
      return a.noticed_at < b.noticed_at;
    });
  }
};

// Few values of everything, so that every tie, overlap and circle comes up. `pid` names it.
Failure AnyFailure(int number, std::mt19937_64& luck) {
  const auto below = [&luck](uint64_t n) { return static_cast<int>(luck() % n); };
  Failure failure = Exit(below(4), Ms(below(12)), std::nullopt, std::nullopt, Ms(below(3)));
  if (below(3) > 0) failure.node_time = Ms(below(9));
  if (below(3) > 0) failure.wall_time = Ms(below(9));
  if (below(4) > 0) failure.happened_at = Ms(below(15));
  failure.killed_by_agent = below(6) == 0;
  if (below(6) == 0) failure.kind = Failure::Kind::kNodeLost;
  if (below(4) == 0) failure.kind = Failure::Kind::kWorkerReported;
  failure.fatal = below(8) == 0;
  failure.pid = number;
  return failure;
}

std::vector<int> Names(const std::vector<Failure>& failures) {
  std::vector<int> names;
  for (const Failure& failure : failures) names.push_back(failure.pid);
  return names;
}

TEST(CauseChooser, AfterEveryReport_SaysWhatAllPairsSay_AlsoWhenRestoredMeanwhile) {
  constexpr uint64_t kSeeds = 120;
  constexpr int kFailures = 40;
  int changes = 0;
  for (uint64_t seed = 1; seed <= kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 luck(seed);
    History history;
    IncidentByAllPairs expected;
    for (int i = 0; i < kFailures; ++i) {
      const int before = expected.cause ? expected.cause->pid : -1;
      const Failure failure = AnyFailure(i, luck);
      expected.Add(failure);
      history.AddFailure(failure, Generation(1));
      if (luck() % 5 == 0) history = History::Of(history.WholeReport());
      changes += before != expected.cause->pid ? 1 : 0;
      ASSERT_EQ(history.Cause().pid, expected.cause->pid) << "after " << i;
      std::vector<Failure> others = expected.consequences;
      IncidentByAllPairs::Sort(others);
      ASSERT_EQ(Names(history.WholeReport().incidents[0].consequences), Names(others))
          << "after " << i;
    }
  }
  EXPECT_GT(changes, static_cast<int>(3 * kSeeds)) << "the cause hardly ever changed";
}

// ---- What an incident keeps

size_t LineBytes(const Failure& failure) {
  size_t bytes = 0;
  for (const std::string& line : failure.last_lines) bytes += line.size();
  return bytes;
}

Failure ExitWithLines(int number) {
  Failure failure = Exit(number, Ms(number), std::nullopt, Ms(1000 - number), Ms(0));
  failure.pid = number;
  failure.last_lines.assign(20, std::string(16 << 10, 'x'));
  return failure;
}

TEST(AnIncident, KeepsTheLinesOfItsCauseAndSoManyOfTheOthers_AndSaysWhatItLeavesOut) {
  History history;
  // Each happened before all that were heard before it, so each in turn is the cause.
  for (int i = 0; i < 1000; ++i) history.AddFailure(ExitWithLines(i), Generation(1));
  const Incident whole = history.WholeReport().incidents.at(0);
  EXPECT_EQ(whole.cause.pid, 999);
  EXPECT_EQ(whole.cause.last_lines.size(), 19u);  // 20 and their ends are a little too much
  EXPECT_EQ(whole.cause.lines_left_out, 1);
  ASSERT_EQ(whole.consequences.size(), 999u);
  size_t bytes = 0;
  for (const Failure& each : whole.consequences) {
    bytes += LineBytes(each);
    EXPECT_EQ(each.last_lines.size() + static_cast<size_t>(each.lines_left_out), 20u);
  }
  EXPECT_LE(bytes, History::kMostLineBytesOfOthers);
  EXPECT_GT(bytes, History::kMostLineBytesOfOthers / 2);
  const Incident told = history.ToldReport().incidents.at(0);
  EXPECT_EQ(told.consequences.size(), History::kMostConsequences);
  EXPECT_EQ(told.more, 999 - static_cast<int64_t>(History::kMostConsequences));
}

TEST(AnIncident, ThatIsOver_IsShortened_AndAnOldOneIsItsCause) {
  History history;
  history.Claimed(Generation(1), "first start", Ms(0));
  for (int incident = 0; incident < 150; ++incident) {
    for (int i = 0; i < 20; ++i) history.AddFailure(ExitWithLines(i), Generation(1));
    history.Began({}, Ms(2000));
  }
  const Report report = history.WholeReport();
  ASSERT_EQ(report.incidents.size(), 150u);
  EXPECT_EQ(report.incidents[149].cause.last_lines.size(), 19u);
  EXPECT_EQ(report.incidents[148].cause.last_lines.size(), 3u);  // 64 KiB
  EXPECT_EQ(report.incidents[148].consequences.size(), 19u);
  EXPECT_EQ(report.incidents[0].cause.last_lines.size(), 0u);
  EXPECT_EQ(report.incidents[0].cause.lines_left_out, 20);
  EXPECT_EQ(report.incidents[0].consequences.size(), 8u);
  EXPECT_EQ(report.incidents[0].more, 11);
}

}  // namespace
}  // namespace dsrun::launcher
