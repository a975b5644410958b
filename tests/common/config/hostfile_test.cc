#include "common/config/hostfile.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

std::string Messages(const std::string& content) {
  const SourceText text("f", content);
  Findings findings;
  ParseHostfile(text, findings);
  std::string out;
  for (const Diagnostic& d : findings.all()) out += (out.empty() ? "" : "\n") + d.Headline();
  return out;
}

std::string Parsed(const std::string& content) {
  const SourceText text("f", content);
  Findings findings;
  return PrintHostfile(ParseHostfile(text, findings));
}

struct Good {
  std::string content;
  std::string printed;
};

TEST(Hostfile, AcceptsWhatDeepSpeedAccepts) {
  const std::vector<Good> table = {
      {"w1 slots=4", "w1 slots=4\n"},
      {"  w1\tslots=4  # note", "w1 slots=4\n"},
      {"w1 slots=4 max_slots=8", "w1 slots=4\n"},
      {"w1 slots=4#note slots=2", "w1 slots=4\n"},
      {"w1 slots=4 # was slots=2", "w1 slots=4\n"},
      {"# c\n\n   \nw1 slots=4\r\nw2 slots=02\r\n", "w1 slots=4\nw2 slots=2\n"},
      {"user@w1 slots=2", "user@w1 slots=2\n"},
      {"w1:2222 slots=2\nw1:2223 slots=2", "w1:2222 slots=2\nw1:2223 slots=2\n"},
      {"[::1] slots=2", "[::1] slots=2\n"},
      {"ada@[fe80::1%eth0]:7411 slots=2", "ada@[fe80::1%eth0]:7411 slots=2\n"},
      {"w[1-3] slots=2", "w1 slots=2\nw2 slots=2\nw3 slots=2\n"},
      {"w[08-10,12]b:70 slots=1",
       "w08b:70 slots=1\nw09b:70 slots=1\nw10b:70 slots=1\n"
       "w12b:70 slots=1\n"},
      {"127.0.0.1 slots=4096", "127.0.0.1 slots=4096\n"},
  };
  for (const Good& row : table) {
    EXPECT_EQ(Messages(row.content), "") << row.content;
    EXPECT_EQ(Parsed(row.content), row.printed) << row.content;
  }
}

TEST(Hostfile, WarnsWhereDeepSpeedTakesANumberOutOfGarbage) {
  EXPECT_EQ(Messages("w1 slots=4abc"),
            "f:1:10: warning: slots must be a positive integer, got \"4abc\"; 4 is used");
  EXPECT_EQ(Parsed("w1 slots=4abc"), "w1 slots=4\n");
}

struct Bad {
  std::string content;
  std::string message;
};

TEST(Hostfile, RefusesWithTheWholeMessage) {
  const std::string bad = "Hostfile contains a bad entry: ";
  const std::string unable = ", unable to proceed with launching: ";
  const std::vector<Bad> table = {
      {"w1", "f:1:3: " + bad + "w1" + unable + "slots=N is missing; write w1 slots=N"},
      {"w1 # slots=2",
       "f:1:4: " + bad + "w1 # slots=2" + unable + "slots=N is missing; write w1 slots=N"},
      {"w1 slots = 4",
       "f:1:4: " + bad + "w1 slots = 4" + unable + "write slots=N without blanks around ="},
      {"w1 slots=", "f:1:10: " + bad + "w1 slots=" + unable + "the number after slots= is missing"},
      {"w1 slots= 4",
       "f:1:10: " + bad + "w1 slots= 4" + unable + "the number after slots= is missing"},
      {"w1 slots=-1",
       "f:1:10: " + bad + "w1 slots=-1" + unable + "slots must be a positive integer, got \"-1\""},
      {"w1 SLOTS=2", "f:1:4: " + bad + "w1 SLOTS=2" + unable + "write slots= in small letters"},
      {"w1 gpus=1 slots=2", "f:1:4: " + bad + "w1 gpus=1 slots=2" + unable +
                                "expected slots=N right after the host, got \"gpus=1\""},
      {"slots=4", "f:1:1: " + bad + "slots=4" + unable + "the host is missing; write HOST slots=N"},
      {"w1 slots=0",
       "f:1:10: slots must be a positive integer, got \"0\"; to leave w1 out, delete "
       "the line or use --exclude w1"},
      {"w1 slots=4097", "f:1:10: slots must be a positive integer up to 4096, got \"4097\""},
      {"w1 slots=2,w2 slots=2",
       "f:1:11: one host a line: what follows the comma (\"w2 slots=2\") "
       "would be lost; give it a line of its own"},
      {"w1 slots=2 w2 slots=2",
       "f:1:12: one host a line: a second slots= follows (\"w2 slots=2\") "
       "and would be lost; give it a line of its own"},
      {"w1 slots=1\nw1 slots=2",
       "f:2:1: Hostfile contains multiple entries for w1, unable to "
       "proceed with launching: the first is in line 1"},
      {"w1 slots=1\n w[1-2] slots=2",
       "f:2:2: Hostfile contains multiple entries for w1, unable to "
       "proceed with launching: the first is in line 1"},
      {"",
       "f:1:1: Hostfile is empty or not formatted correctly, unable to proceed with "
       "launching."},
      {"# only\n\n",
       "f:1:1: Hostfile is empty or not formatted correctly, unable to proceed with "
       "launching."},
      {"u@w1:x slots=1",
       "f:1:6: expected the port of a running agent (1 to 65535) after ':', got "
       "\"x\"; write an IPv6 address in brackets: [::1]"},
      {"w1: slots=1",
       "f:1:4: expected the port of a running agent (1 to 65535) after ':', got "
       "\"\"; write an IPv6 address in brackets: [::1]"},
      {"w[1-2 slots=1", "f:1:2: expected one range such as w[1-3] or w[1-3,7], got \"w[1-2\""},
      {"u@w[2-1] slots=1", "f:1:5: the range \"2-1\" runs backwards; write 1-2"},
      {"w[] slots=1", "f:1:3: expected a number or a range such as 1-3 inside [], got \"\""},
      {"w[1-99999] slots=1", "f:1:3: the range \"1-99999\" names more than 16384 hosts"},
      {"a;b slots=1", "f:1:2: a host name holds letters, digits, '.', '-' and '_', got \"a;b\""},
      {"a,b slots=1",
       "f:1:2: a host name holds letters, digits, '.', '-' and '_', got \"a,b\"; "
       "one host a line"},
      {"@a slots=1",
       "f:1:1: expected a user name of letters, digits, '.', '-' and '_' before "
       "'@', got \"\""},
      {"a@ slots=1", "f:1:3: the host name is empty; write HOST slots=N"},
      {std::string("a\0 slots=1", 10),
       "f:1:2: expected text, got a zero byte; is this a "
       "hostfile?"},
  };
  for (const Bad& row : table) EXPECT_EQ(Messages(row.content), row.message) << row.content;
}

TEST(Hostfile, CollectsAllFindings) {
  EXPECT_EQ(Messages("w1 slots=x\nw2 slots=2\nw3 slots=0\nw2 slots=1\n"),
            "f:1:10: Hostfile contains a bad entry: w1 slots=x, unable to proceed with launching: "
            "slots must be a positive integer, got \"x\"\n"
            "f:3:10: slots must be a positive integer, got \"0\"; to leave w3 out, delete the line "
            "or use --exclude w3\n"
            "f:4:1: Hostfile contains multiple entries for w2, unable to proceed with launching: "
            "the first is in line 2");
}

TEST(Hostfile, ManyMistakes_AreTheFirstTwentyAndACount) {
  std::string lines = "w0 slots=x\n";
  for (int i = 1; i < 1000; ++i) lines += "w" + std::to_string(i) + " slots=x\n";
  Findings findings;
  ParseHostfile(SourceText("f", lines), findings);
  ASSERT_EQ(findings.all().size(), 21u);
  EXPECT_EQ(findings.all()[0].line, 1);
  EXPECT_EQ(findings.all()[19].line, 20);
  EXPECT_EQ(findings.all()[20].Headline(),
            "f: 980 more of this file are not shown; is it a hostfile?");
  EXPECT_TRUE(findings.has_errors());
}

// Warnings alone start the job, however many there are.
TEST(Hostfile, ManyWarnings_AreBoundedAndNoError) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "w" + std::to_string(i) + " slots=4abc\n";
  Findings findings;
  const Hostfile file = ParseHostfile(SourceText("f", lines), findings);
  EXPECT_EQ(findings.all().size(), 21u);
  EXPECT_FALSE(findings.has_errors());
  EXPECT_EQ(file.hosts.size(), 100u);
}

TEST(Hostfile, RendersLineAndCaret) {
  const SourceText text("hosts", "  w1 slots=0\n");
  Findings findings;
  ParseHostfile(text, findings);
  EXPECT_EQ(findings.Render(),
            "hosts:1:12: slots must be a positive integer, got \"0\"; to leave w1 out, delete the "
            "line or use --exclude w1\n"
            "    w1 slots=0\n"
            "             ^\n");
}

}  // namespace
}  // namespace dsrun
