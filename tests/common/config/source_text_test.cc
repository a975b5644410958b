#include "common/config/source_text.h"

#include <string>
#include <vector>

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

TEST(SourceText, ACarriageReturnAloneEndsALine_AsInOldFiles) {
  const SourceText text("a", "one\rtwo\r\rthree\r");
  ASSERT_EQ(text.lines().size(), 4u);
  EXPECT_EQ(text.lines()[1].text, "two");
  EXPECT_EQ(text.lines()[2].text, "");
  EXPECT_EQ(text.lines()[3].number, 4);
}

// Every parser begins with the same look at the text.
TEST(SourceText, IsPlain_OrSaysWhatElse) {
  struct Row {
    std::string text;
    bool goes_on;
    std::string findings;
  };
  const std::vector<Row> table = {
      {"plain\r\n\xc3\xa9\n", true, ""},
      {"", true, ""},
      {"\xef\xbb\xbfone\n", true,
       "f:1:1: expected plain UTF-8, got a byte order mark (the bytes EF BB BF) at the start of "
       "the "
       "file; save it without one\n  one\n  ^\n"},
      {std::string("\xff\xfe") + std::string("A\0=\0", 4), false,
       "f:1:1: expected plain UTF-8, got UTF-16 (by the two bytes at the start of the file); save "
       "it "
       "as UTF-8\n  \\xff\\xfeA\\x00=\\x00\n  ^\n"},
      {std::string("one\nt\0o\n", 8), false,
       "f:2:2: expected text, got a zero byte; is this a list?\n  t\\x00o\n   ^\n"},
  };
  for (const Row& row : table) {
    const SourceText text("f", row.text);
    Findings findings;
    EXPECT_EQ(text.IsPlain("a list", findings), row.goes_on) << row.findings;
    EXPECT_EQ(findings.Render(), row.findings);
  }
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

TEST(Diagnostic, WhatCannotBeSeen_IsSpeltOutEverywhere_AndTheCaretStandsRight) {
  const SourceText text("f\x07", "a\x1b[2Jb\xc2\xa0z");
  EXPECT_EQ(text.At(text.lines()[0], 0, "got \xe2\x80\x8b").Render(),
            "f\\x07:1:1: got \\u200b\n  a\\x1b[2Jb\\u00a0z\n  ^");
  EXPECT_EQ(text.At(text.lines()[0], 8, "m").Render(),
            "f\\x07:1:9: m\n  a\\x1b[2Jb\\u00a0z\n  " + std::string(15, ' ') + "^");
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
  EXPECT_EQ(Quoted("caf\xc3\xa9 \xff\xe2\x80\xae\xef\xbb\xbf"),
            "\"caf\xc3\xa9 \\xff\\u202e\\ufeff\"");
  EXPECT_EQ(Quoted(std::string(200, 'x')), "\"" + std::string(120, 'x') + "...\"");
}

}  // namespace
}  // namespace dsrun
