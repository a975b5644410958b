#include "common/config/env_file.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(EnvFile, AcceptsBlanksCommentsExportQuotesAndBareNames) {
  const SourceText text(".deepspeed_env",
                        "# comment\n\n  A=1\nexport B=2\nC=\"x y\"\nD='$HOME `id`'\nE=a=b\nF=\nG\n"
                        "export H\nexport=1\nI=\"\nignored\n");
  Findings findings;
  const auto got = ParseEnvFile(text, findings);
  const std::vector<EnvSetting> want = {{"A", "1"},          {"B", "2"},
                                        {"C", "x y"},        {"D", "$HOME `id`"},
                                        {"E", "a=b"},        {"F", ""},
                                        {"G", std::nullopt}, {"H", std::nullopt},
                                        {"export", "1"},     {"ignored", std::nullopt}};
  EXPECT_EQ(got, want);
  EXPECT_EQ(findings.Render(),
            ".deepspeed_env:12:3: the quote is not closed at the end of the line\n  I=\"\n    ^\n");
}

TEST(EnvFile, RefusesWhatIsNoVariable_WithTheWholeMessage) {
  const std::string no_name =
      "a variable's name is of letters, digits and '_' and begins with no "
      "digit, got ";
  struct Row {
    std::string text;
    std::string findings;
  };
  const std::vector<Row> table = {
      {"=1\n", "e:1:1: expected NAME=VALUE, got no name before '='\n  =1\n  ^\n"},
      {"A B=1\n",
       "e:1:2: expected NAME=VALUE, got a blank inside the name \"A B\"\n  A B=1\n   ^\n"},
      {"A+=1\n", "e:1:1: " + no_name + "\"A+\"\n  A+=1\n  ^\n"},
      {"1A=1\n", "e:1:1: " + no_name + "\"1A\"\n  1A=1\n  ^\n"},
      {"export A-B\n", "e:1:8: " + no_name + "\"A-B\"\n  export A-B\n         ^\n"},
      {"A\xc2\xa0=1\n", "e:1:1: " + no_name + "\"A\\u00a0\"\n  A\\u00a0=1\n  ^\n"},
      {"\xe2\x80\x8b"
       "A=1\n",
       "e:1:1: " + no_name + "\"\\u200bA\"\n  \\u200bA=1\n  ^\n"},
      {"caf\xe9=1\n", "e:1:1: " + no_name + "\"caf\\xe9\"\n  caf\\xe9=1\n  ^\n"},
      {std::string("C=\0\n", 4),
       "e:1:3: expected text, got a zero byte; is this an environment file?\n  C=\\x00\n    ^\n"},
      {std::string("\xff\xfe"
                   "A\0=\0",
                   6),
       "e:1:1: expected plain UTF-8, got UTF-16 (by the two bytes at the start of the file); save "
       "it "
       "as UTF-8\n  \\xff\\xfeA\\x00=\\x00\n  ^\n"},
  };
  for (const Row& row : table) {
    const SourceText text("e", row.text);
    Findings findings;
    EXPECT_TRUE(ParseEnvFile(text, findings).empty()) << row.findings;
    EXPECT_EQ(findings.Render(), row.findings);
  }
}

// It is named, and is no part of the first variable's name.
TEST(EnvFile, ByteOrderMark_IsRefusedAsInAHostfile) {
  const SourceText text("e", "\xef\xbb\xbfOMP_NUM_THREADS=4\n");
  Findings findings;
  EXPECT_EQ(ParseEnvFile(text, findings), (std::vector<EnvSetting>{{"OMP_NUM_THREADS", "4"}}));
  EXPECT_EQ(
      findings.Render(),
      "e:1:1: expected plain UTF-8, got a byte order mark (the bytes EF BB BF) at the start of "
      "the file; save it without one\n  OMP_NUM_THREADS=4\n  ^\n");
}

TEST(EnvFile, EndsOfLinesOfEverySystem_AndValuesOfAnyBytes) {
  const SourceText text("e", "A=1\r\nB=2\rC=\xff\xc2\xa0\n");
  Findings findings;
  EXPECT_EQ(ParseEnvFile(text, findings),
            (std::vector<EnvSetting>{{"A", "1"}, {"B", "2"}, {"C", "\xff\xc2\xa0"}}));
  EXPECT_EQ(findings.Render(), "");
}

}  // namespace
}  // namespace dsrun
