// Lines that are not whole yet, on an output that several ranks share.

#include "launcher/console/open_lines.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {
namespace {

constexpr absl::Duration kNow = absl::Seconds(100);

OpenLines::Source R(int rank) { return {NodeId(0), Rank(rank)}; }

OpenLines Lines(OpenLines::Options options = {}) { return OpenLines({"w"}, options); }

TEST(OpenLines, OneRank_IsGoneOnWith) {
  OpenLines lines = Lines();
  EXPECT_FALSE(lines.Has(R(0)));
  EXPECT_EQ(lines.Add(kNow, R(0), "a"), "[w:0] a");
  EXPECT_EQ(lines.Add(kNow, R(0), ""), "");
  EXPECT_EQ(lines.Add(kNow, R(0), "b"), "b");
  EXPECT_TRUE(lines.Has(R(0)));
  EXPECT_EQ(lines.End(kNow, R(0), "c"), "c\n");
  EXPECT_FALSE(lines.Has(R(0)));
  EXPECT_EQ(lines.Interrupt(), "");
}

TEST(OpenLines, Interrupted_GoesOnOnALineOfItsOwn_OrHasNothingMoreToSay) {
  OpenLines lines = Lines();
  lines.Add(kNow, R(0), "a");
  EXPECT_EQ(lines.Interrupt(), "\n");
  EXPECT_EQ(lines.End(kNow, R(0), "b"), "[w:0] b\n");
  lines.Add(kNow, R(0), "a");
  lines.Interrupt();
  EXPECT_EQ(lines.End(kNow, R(0), ""), "");
}

TEST(OpenLines, Redrawn_InPlaceOrWhole) {
  OpenLines lines = Lines({.terminal = true});
  lines.Add(kNow, R(0), "100 of 200");
  EXPECT_EQ(lines.Add(kNow, R(0), "\rdone"), "\r[w:0] done\033[K");
  lines.Interrupt();
  EXPECT_EQ(lines.End(kNow, R(0), "\rall done\r"), "[w:0] all done\n");
}

TEST(OpenLines, WiderThanTheTerminal_GoesOnInRowsOfOurOwn) {
  OpenLines lines = Lines({.terminal = true});
  lines.SetColumns(12);
  EXPECT_EQ(lines.Add(kNow, R(0), "123456"), "[w:0] 123456");
  EXPECT_EQ(lines.Add(kNow, R(0), "dsrun: x"), "\n  dsrun: x");
  const auto before = lines.at_end();
  EXPECT_EQ(lines.Add(kNow, R(0), "yzdsrun:"), "yz\n  dsrun:");
  lines.PutBack(before);
  EXPECT_EQ(lines.Add(kNow, R(0), "yzabc"), "yz\n  abc");
  EXPECT_EQ(lines.Add(kNow, R(0), "\r100%"), "\r[w:0] 100%\033[K");
  EXPECT_EQ(lines.End(kNow, R(0), "dsrun:"), "ds\n  run:\n");
}

TEST(OpenLines, ReturnWithinOneText_IsItsNewestState) {
  OpenLines lines = Lines();
  EXPECT_EQ(lines.Add(kNow, R(0), "1%\r2%\r3%\r"), "[w:0] 3%");
  EXPECT_EQ(lines.Add(kNow, R(0), "\r\r"), "");
}

// Two progress bars: the one that was interrupted waits its second, and its newest state is shown.
TEST(OpenLines, InterruptedAgainAndAgain_GoesOnOnceASecond) {
  OpenLines lines = Lines();
  EXPECT_EQ(lines.Add(kNow, R(0), "1%"), "[w:0] 1%");
  EXPECT_EQ(lines.Add(kNow, R(1), "1%"), "\n[w:1] 1%");
  EXPECT_EQ(lines.Add(kNow + absl::Milliseconds(200), R(0), "\r2%"), "");
  EXPECT_EQ(lines.next(), kNow + OpenLines::kElsewhere);
  EXPECT_EQ(lines.Add(kNow + absl::Milliseconds(400), R(0), "\r3%"), "");
  EXPECT_EQ(lines.Due(kNow + absl::Milliseconds(999)), "");
  EXPECT_EQ(lines.Due(kNow + OpenLines::kElsewhere), "\n[w:0] 3%");
  EXPECT_EQ(lines.next(), absl::InfiniteDuration());
  // Its end waits for nobody.
  EXPECT_EQ(lines.Add(kNow + OpenLines::kElsewhere, R(1), "\r9%"), "\n[w:1] 9%");
  EXPECT_EQ(lines.End(kNow + OpenLines::kElsewhere, R(0), "\r4%"), "\n[w:0] 4%\n");
}

TEST(OpenLines, TheEnd_BringsOutWhatIsHeldBack) {
  OpenLines lines = Lines();
  lines.Add(kNow, R(0), "a");
  lines.Add(kNow, R(1), "b");
  lines.Add(kNow, R(0), "c");
  EXPECT_EQ(lines.EndAll(kNow), "\n[w:0] c\n");
  EXPECT_FALSE(lines.Has(R(0)) || lines.Has(R(1)));
}

TEST(OpenLines, TextThatWasNotWritten_LeavesTheScreenAsItWas) {
  OpenLines lines = Lines();
  lines.Add(kNow, R(0), "a");
  const auto before = lines.at_end();
  EXPECT_EQ(lines.Interrupt(), "\n");
  lines.PutBack(before);
  EXPECT_EQ(lines.Interrupt(), "\n");
}

TEST(OpenLines, OnATerminal_BytesDoNoHarmAndColoursGoOn) {
  OpenLines lines = Lines({.terminal = true});
  EXPECT_EQ(lines.Add(kNow, R(0), "a\x1b[2J\x1b[31mb"), "[w:0] a\\x1b[2J\x1b[31mb\x1b[0m");
  EXPECT_EQ(lines.Add(kNow, R(0), "c"), "\x1b[31mc\x1b[0m");
  EXPECT_EQ(lines.Add(kNow, R(0), "\rd"), "\r[w:0] \x1b[31md\x1b[0m\033[K");
  EXPECT_EQ(lines.End(kNow, R(0), "\x1b[0m\x1b[A"), "\x1b[31m\x1b[0m\\x1b[A\x1b[0m\n");
}

TEST(OpenLines, OnATerminal_HalfALetterOrColourWaits) {
  OpenLines lines = Lines({.terminal = true});
  EXPECT_EQ(lines.Add(kNow, R(0), "a\xc3"), "[w:0] a");
  EXPECT_EQ(lines.Add(kNow, R(0), "\xa9\x1b[3"), "\xc3\xa9");
  EXPECT_EQ(lines.Add(kNow, R(0), "1mb"), "\x1b[31mb\x1b[0m");
  EXPECT_EQ(lines.Add(kNow, R(0), "\xe6"), "");
  EXPECT_EQ(lines.End(kNow, R(0), ""), "\x1b[31m\\xe6\x1b[0m\n");  // nothing more comes
}

TEST(OpenLines, InAFile_BytesStay) {
  OpenLines lines = Lines();
  EXPECT_EQ(lines.Add(kNow, R(0), "a\x1b[2J\xc3"), "[w:0] a\x1b[2J\xc3");
}

// Without returns nothing is lost or shown twice, whoever speaks when.
TEST(OpenLines, RandomMixtures_LoseNothing) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  for (int trial = 0; trial < 200; ++trial) {
    OpenLines lines = Lines();
    std::map<int, std::string> said, seen;
    std::string out;
    absl::Duration now = kNow;
    for (int i = 0; i < 60; ++i) {
      now += absl::Milliseconds(random() % 400);
      const int rank = static_cast<int>(random() % 3);
      const std::string text(random() % 3, static_cast<char>('a' + random() % 26));
      out += lines.Due(now);
      if (random() % 4 == 0 && lines.Has(R(rank))) {
        out += lines.End(now, R(rank), text);
      } else if (random() % 8 == 0) {
        out += lines.Interrupt();
        continue;
      } else {
        out += lines.Add(now, R(rank), text);
      }
      said[rank] += text;
    }
    out += lines.EndAll(now);
    std::istringstream all(out);
    for (std::string line; std::getline(all, line);) {
      ASSERT_GE(line.size(), 6u) << out;
      ASSERT_EQ(line.substr(0, 3), "[w:") << out;
      seen[line[3] - '0'] += line.substr(6);
    }
    for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(seen[rank], said[rank]) << out;
  }
}

}  // namespace
}  // namespace dsrun::launcher
