#include "launcher/console/line_collapser.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun::launcher {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Source = LineCollapser::Source;

constexpr absl::Duration Ms(int n) { return absl::Milliseconds(n); }
const std::vector<std::string> kHosts = {"alpha", "beta"};

// Ranks 0 to 3 are on alpha, the others on beta.
Source Of(int rank) { return {NodeId(rank < 4 ? 0 : 1), Rank(rank)}; }

std::vector<std::string> Text(const std::vector<LineCollapser::Line>& lines) {
  std::vector<std::string> text;
  for (const LineCollapser::Line& line : lines) {
    text.push_back(absl::StrCat("[", SourcesText(line.sources, kHosts), "] ", line.text));
  }
  return text;
}

TEST(LineCollapser, SameLineOfSeveralRanks_IsShownOnceWithTheRanks) {
  LineCollapser lines(Ms(100));
  for (int rank = 0; rank < 4; ++rank) lines.Add(Ms(10 * rank), Of(rank), "hello");
  EXPECT_THAT(lines.Due(Ms(99)), IsEmpty());
  EXPECT_EQ(lines.next(), Ms(100));
  EXPECT_THAT(Text(lines.Due(Ms(100))), ElementsAre("[alpha:0-3] hello"));
  EXPECT_EQ(lines.next(), absl::InfiniteDuration());
}

TEST(LineCollapser, LineAfterTheWindow_IsShownAgain) {
  LineCollapser lines(Ms(100));
  lines.Add(Ms(0), Of(0), "hello");
  EXPECT_THAT(Text(lines.Due(Ms(100))), ElementsAre("[alpha:0] hello"));
  lines.Add(Ms(101), Of(1), "hello");
  EXPECT_THAT(Text(lines.Due(Ms(201))), ElementsAre("[alpha:1] hello"));
}

TEST(LineCollapser, LineThatOthersJoin_DoesNotWaitLongerForIt) {
  LineCollapser lines(Ms(100));
  lines.Add(Ms(0), Of(0), "hello");
  lines.Add(Ms(99), Of(1), "hello");
  EXPECT_THAT(Text(lines.Due(Ms(100))), ElementsAre("[alpha:0-1] hello"));
}

TEST(LineCollapser, LineThatAllRanksHaveSaid_GoesAtOnce) {
  LineCollapser lines(Ms(100));
  lines.SetWidth(2);
  lines.Add(Ms(0), Of(0), "hello");
  EXPECT_THAT(lines.Due(Ms(0)), IsEmpty());
  lines.Add(Ms(1), Of(1), "hello");
  EXPECT_THAT(Text(lines.Due(Ms(1))), ElementsAre("[alpha:0-1] hello"));
}

TEST(LineCollapser, OneRank_NeverWaits) {
  LineCollapser lines(Ms(100));
  lines.SetWidth(1);
  lines.Add(Ms(0), Of(0), "a");
  lines.Add(Ms(0), Of(0), "a");
  EXPECT_THAT(Text(lines.Due(Ms(0))), ElementsAre("[alpha:0] a", "[alpha:0] a"));
}

TEST(LineCollapser, RepeatedLinesOfOneRank_AreNotOne) {
  LineCollapser lines(Ms(100));
  lines.Add(Ms(0), Of(0), "tick");
  lines.Add(Ms(1), Of(0), "tick");
  lines.Add(Ms(2), Of(1), "tick");
  lines.Add(Ms(3), Of(1), "tick");
  lines.Add(Ms(4), Of(1), "tick");
  EXPECT_THAT(Text(lines.All()),
              ElementsAre("[alpha:0-1] tick", "[alpha:0-1] tick", "[alpha:1] tick"));
}

// Rank 1 says b before a: joining rank 0's a, which is first, would turn its lines around.
TEST(LineCollapser, OrderWithinARank_IsKept) {
  LineCollapser lines(Ms(100));
  lines.Add(Ms(0), Of(0), "a");
  lines.Add(Ms(0), Of(0), "b");
  lines.Add(Ms(0), Of(1), "b");
  lines.Add(Ms(0), Of(1), "a");
  EXPECT_THAT(Text(lines.All()), ElementsAre("[alpha:0] a", "[alpha:0-1] b", "[alpha:1] a"));
}

TEST(LineCollapser, RanksOfSeveralNodes_AreNamedByHost) {
  LineCollapser lines(Ms(100));
  for (const int rank : {6, 0, 2, 3, 4}) lines.Add(Ms(0), Of(rank), "x");
  EXPECT_THAT(Text(lines.All()), ElementsAre("[alpha:0,2-3 beta:4,6] x"));
}

TEST(LineCollapser, Flood_WaitsInBoundedMemory) {
  LineCollapser lines(Ms(100));
  size_t shown = 0;
  for (size_t i = 0; i < 3 * LineCollapser::kMostWaiting; ++i) {
    lines.Add(Ms(0), Of(0), absl::StrCat("line ", i));
    for (const std::string& text : Text(lines.Due(Ms(0)))) {
      EXPECT_EQ(text, absl::StrCat("[alpha:0] line ", shown));
      ++shown;
    }
  }
  EXPECT_EQ(shown, 2 * LineCollapser::kMostWaiting);
}

// What every rank said comes out, in its order, whatever the mixture; and never later than the
// window after it was said.
TEST(LineCollapser, RandomMixtures_LoseNothingAndReorderNothing) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    uint64_t state = seed;
    const auto below = [&](uint64_t n) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return (state >> 33) % n;
    };
    LineCollapser lines(Ms(100));
    if (seed % 2 == 0) lines.SetWidth(3);
    std::map<Source, std::vector<std::string>> said, shown;
    std::map<Source, std::vector<absl::Duration>> said_at;
    absl::Duration now;
    const auto show = [&](const std::vector<LineCollapser::Line>& out) {
      for (const LineCollapser::Line& line : out) {
        for (const Source& source : line.sources) {
          EXPECT_LE(now - said_at[source][shown[source].size()], Ms(100)) << "seed " << seed;
          shown[source].push_back(line.text);
        }
      }
    };
    for (int i = 0; i < 200; ++i) {
      now = std::min(now + Ms(static_cast<int>(below(20))), lines.next());
      show(lines.Due(now));
      const Source source = Of(static_cast<int>(below(3)));
      const std::string text = absl::StrCat("line ", below(4));
      said[source].push_back(text);
      said_at[source].push_back(now);
      lines.Add(now, source, text);
      show(lines.Due(now));
    }
    show(lines.All());
    ASSERT_EQ(said, shown) << "seed " << seed;
  }
}

}  // namespace
}  // namespace dsrun::launcher
