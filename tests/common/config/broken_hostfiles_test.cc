// hostfiles/broken: every file earns exactly the message of its first line, and every kind of
// mistake has a file. The working examples have no finding.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/config/hostfile.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;

std::string Read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<fs::path> HostsIn(const fs::path& folder) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".hosts") out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

// "LINE:COLUMN: MESSAGE" of each finding.
std::vector<std::string> Relative(const fs::path& path) {
  const SourceText text("x", Read(path));
  Findings findings;
  ParseHostfile(text, findings);
  std::vector<std::string> out;
  for (const Diagnostic& d : findings.all()) out.push_back(d.Headline().substr(2));
  return out;
}

TEST(BrokenHostfiles, EachEarnsTheMessageOfItsFirstLine) {
  const auto files = HostsIn("hostfiles/broken");
  ASSERT_FALSE(files.empty());
  for (const fs::path& path : files) {
    const std::string content = Read(path);
    std::string first = content.substr(0, content.find('\n'));
    for (const std::string mark : {"\xef\xbb\xbf", "\xff\xfe"}) {  // the mistake itself
      if (first.starts_with(mark)) first.erase(0, mark.size());
    }
    const std::vector<std::string> got = Relative(path);
    ASSERT_EQ(got.size(), 1u) << path << ": one mistake a file";
    EXPECT_EQ(first, "# expect: " + got.front()) << path;
  }
}

TEST(BrokenHostfiles, EveryKindOfMistakeHasAFile) {
  const std::vector<std::string> kinds = {
      "slots=N is missing",
      "without blanks around =",
      "the number after slots= is missing",
      "slots must be a positive integer, got \"-1\"",
      "warning: slots must be a positive integer",
      "slots must be a positive integer, got \"0\"",
      "slots must be a positive integer up to",
      "write slots= in small letters",
      "expected slots=N right after the host",
      "the host is missing",
      "what follows the comma",
      "a second slots= follows",
      "Hostfile contains multiple entries for",
      "Hostfile is empty or not formatted correctly",
      "expected the port of a running agent",
      "expected an IPv6 address in brackets",
      "runs backwards",
      "expected one range",
      "expected a number or a range",
      "names more than",
      "expected a user name",
      "the host name is empty",
      "a host name holds letters",
      "zero byte",
      "byte order mark",
      "UTF-16",
      "that can be seen, got \\u00a0",
      "that can be seen, got \\x1b",
  };
  std::string all;
  for (const fs::path& path : HostsIn("hostfiles/broken")) {
    for (const std::string& message : Relative(path)) all += message + "\n";
  }
  for (const std::string& kind : kinds) {
    EXPECT_NE(all.find(kind), std::string::npos) << "no file in hostfiles/broken for: " << kind;
  }
}

TEST(WorkingHostfiles, HaveNoFinding) {
  const auto files = HostsIn("hostfiles");
  ASSERT_GE(files.size(), 2u);
  for (const fs::path& path : files) EXPECT_TRUE(Relative(path).empty()) << path;
}

}  // namespace
}  // namespace dsrun
