#include "launcher/commands/help.h"

#include <fstream>
#include <set>
#include <sstream>

#include "gtest/gtest.h"
#include "launcher/commands/options.h"

namespace dsrun::launcher {
namespace {

TEST(Help, DocsCliIsTheTable) {
  std::ifstream in("docs/cli.md");
  std::ostringstream content;
  content << in.rdbuf();
  EXPECT_EQ(content.str(), HelpMarkdown())
      << "docs/cli.md is made by: dist/bin/dsrun help --markdown > docs/cli.md";
}

TEST(Help, EveryFlagIsShownOnItsSide) {
  for (const OptionGroup& group : OptionGroups()) {
    for (const Option& option : group.options) {
      EXPECT_NE(HelpText(group.train).find(option.name), std::string::npos) << option.name;
      EXPECT_EQ(FindOption(option.name, group.train), &option) << option.name << " is there twice";
      EXPECT_EQ(FindOption(option.name, !group.train), nullptr) << option.name;
    }
  }
}

TEST(Help, LinesFitATerminal) {
  for (const bool train : {false, true}) {
    std::istringstream lines(HelpText(train));
    std::string line;
    while (std::getline(lines, line)) EXPECT_LE(line.size(), 110u) << line;
  }
}

}  // namespace
}  // namespace dsrun::launcher
