#include "common/config/env_file.h"

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

TEST(EnvFile, RefusesWhatIsNoVariable) {
  const SourceText text("e", "=1\nA B=1\n" + std::string("C=\0", 3));
  Findings findings;
  EXPECT_TRUE(ParseEnvFile(text, findings).empty());
  EXPECT_EQ(findings.Render(),
            "e:1:1: expected NAME=VALUE, got no name before '='\n  =1\n  ^\n"
            "e:2:2: expected NAME=VALUE, got a blank inside the name \"A B\"\n  A B=1\n   ^\n"
            "e:3:3: a zero byte cannot be part of an environment variable\n  C=?\n    ^\n");
}

}  // namespace
}  // namespace dsrun
