#include "common/config/source_text.h"

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(SourceText, LinesAreSplitAndCarriageReturnsDropped) {
  const SourceText text("a", "one\r\n\ntwo");
  ASSERT_EQ(text.lines().size(), 3u);
  EXPECT_EQ(text.lines()[0].text, "one");
  EXPECT_EQ(text.lines()[1].text, "");
  EXPECT_EQ(text.lines()[2].text, "two");
  EXPECT_EQ(text.lines()[2].number, 3);
  EXPECT_TRUE(SourceText("a", "").lines().empty());
}

TEST(Diagnostic, RendersPlaceLineAndCaret) {
  const SourceText text("two.hosts", "w0 slots=2\ngpu-03 slots=8x\n");
  EXPECT_EQ(text.At(text.lines()[1], 13, "slots must be a positive integer, got \"8x\"").Render(),
            "two.hosts:2:14: slots must be a positive integer, got \"8x\"\n"
            "  gpu-03 slots=8x\n"
            "               ^");
}

TEST(Diagnostic, CaretStandsBelowItsByteWithTabsAndUtf8) {
  const SourceText text("f", "\tw\xc3\xa9x slots=");
  EXPECT_EQ(text.At(text.lines()[0], 4, "m").Render(), "f:1:5: m\n  \tw\xc3\xa9x slots=\n  \t  ^");
}

TEST(Diagnostic, ControlBytesAreNotSentToTheTerminal) {
  const SourceText text("f", "a\x1b[2Jb");
  EXPECT_EQ(text.At(text.lines()[0], 0, "m").Render(), "f:1:1: m\n  a?[2Jb\n  ^");
}

TEST(Diagnostic, LongLinesAreCutAroundThePlace) {
  const SourceText text("f", std::string(500, 'a') + "X" + std::string(500, 'b'));
  const std::string shown = text.At(text.lines()[0], 500, "m").Render();
  EXPECT_EQ(shown, "f:1:501: m\n  ..." + std::string(80, 'a') + "X" + std::string(79, 'b') +
                       "...\n  " + std::string(83, ' ') + "^");
}

TEST(Findings, WarningsAreNoErrors) {
  Findings findings;
  Diagnostic warning;
  warning.file = "f";
  warning.message = "odd";
  warning.warning = true;
  findings.Add(warning);
  EXPECT_FALSE(findings.has_errors());
  EXPECT_TRUE(findings.ToStatus().ok());
  findings.AddFlag("--lr", "expected a number");
  findings.AddFlagAt("--include", "w0@w9", 3, "Hostname 'w9' not found in hostfile");
  EXPECT_EQ(findings.Render(),
            "f: warning: odd\n"
            "--lr: expected a number\n"
            "--include: Hostname 'w9' not found in hostfile\n"
            "  w0@w9\n"
            "     ^\n");
  EXPECT_EQ(std::string(findings.ToStatus().message()),
            "--lr: expected a number\n"
            "--include: Hostname 'w9' not found in hostfile\n"
            "  w0@w9\n"
            "     ^");
}

TEST(Quoted, EscapesAndCuts) {
  EXPECT_EQ(Quoted("a\"b\\c\x01"), "\"a\\\"b\\\\c\\x01\"");
  EXPECT_EQ(Quoted(std::string(200, 'x')), "\"" + std::string(120, 'x') + "...\"");
}

}  // namespace
}  // namespace dsrun
