// Mutated inputs: nothing crashes, every finding has its place inside the text, and an accepted
// hostfile prints and parses back to the same hosts. The seed is printed; DSRUN_FUZZ_SEED gives it
// back.

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "common/config/env_file.h"
#include "common/config/hostfile.h"
#include "common/config/include_exclude.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

constexpr int kInputs = 100000;

uint64_t Seed() {
  const char* given = std::getenv("DSRUN_FUZZ_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "DSRUN_FUZZ_SEED=" << seed << std::endl;
  return seed;
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t Below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  std::string Mutate(std::string text, const std::vector<std::string>& pieces) {
    const size_t steps = Below(6);
    for (size_t i = 0; i < steps; ++i) {
      const size_t at = Below(text.size() + 1);
      switch (Below(5)) {
        case 0:
          text.insert(at, pieces[Below(pieces.size())]);
          break;
        case 1:
          if (at < text.size()) text.erase(at, 1 + Below(4));
          break;
        case 2:
          if (at < text.size()) text[at] = static_cast<char>(Below(256));
          break;
        case 3:
          text.insert(at, text.substr(Below(text.size() + 1), Below(12)));
          break;
        default:
          if (at < text.size()) text = text.substr(at) + text.substr(0, at);
      }
    }
    return text;
  }

 private:
  std::mt19937_64 random_;
};

void ExpectPlacesInside(const SourceText& text, const Findings& findings) {
  for (const Diagnostic& d : findings.all()) {
    EXPECT_FALSE(d.Render().empty());
    EXPECT_FALSE(d.message.empty());
    if (d.line == 0) continue;
    ASSERT_LE(d.line, std::max<int>(1, static_cast<int>(text.lines().size())));
    ASSERT_GE(d.column, 1);
    ASSERT_LE(static_cast<size_t>(d.column), d.excerpt.size() + 1);
  }
}

TEST(ConfigFuzz, Hostfile) {
  Mutator mutator(Seed());
  const std::vector<std::string> pieces = {
      " ",     "\n",   "slots=", "slots=2", "w[1-3]",
      "[::1]", "@",    ":",      ",",       "#",
      "-",     "]",    "[",      "=",       "99999999999999999999",
      "\t",    "\r\n", "w1"};
  const std::vector<std::string> seeds = {
      "w1 slots=4\nw2 slots=4\n", "# c\nuser@w1:22 slots=2 # x\n\n[::1]:7411 slots=1\n",
      "w[1-3,07-09]x:80 slots=2\n", "w1 slots=4abc\nw1 slots=0\n", ""};
  int accepted = 0;
  for (int i = 0; i < kInputs; ++i) {
    const std::string input = mutator.Mutate(seeds[mutator.Below(seeds.size())], pieces);
    const SourceText text("f", input);
    Findings findings;
    const Hostfile first = ParseHostfile(text, findings);
    ExpectPlacesInside(text, findings);
    if (findings.has_errors()) continue;
    ++accepted;
    ASSERT_FALSE(first.hosts.empty()) << Quoted(input);
    const SourceText printed("f", PrintHostfile(first));
    Findings none;
    const Hostfile second = ParseHostfile(printed, none);
    ASSERT_TRUE(none.all().empty()) << Quoted(input) << "\n" << none.Render();
    ASSERT_EQ(second.hosts.size(), first.hosts.size()) << Quoted(input);
    for (size_t h = 0; h < first.hosts.size(); ++h) {
      HostEntry want = first.hosts[h];
      want.line = second.hosts[h].line;  // ranges become several lines
      ASSERT_EQ(second.hosts[h], want) << Quoted(input);
    }
  }
  EXPECT_GT(accepted, kInputs / 20);  // the mutations are not all garbage
}

TEST(ConfigFuzz, IncludeExclude) {
  Mutator mutator(Seed());
  Hostfile pool;
  pool.path = "f";
  pool.hosts = {{"w0", "", 0, 4, 1}, {"w1", "", 70, 4, 2}, {"[::1]", "", 0, 2, 3}};
  const std::vector<std::string> pieces = {"@",  ":",     ",",  "-", "0",          "0-3", "w0",
                                           "w1", "[::1]", "70", " ", "4294967296", "w9"};
  const std::vector<std::string> seeds = {"w0@w1:0,2", "w1:70:0-3", "[::1]:1@w0", "w0:1", ""};
  int accepted = 0;
  for (int i = 0; i < kInputs; ++i) {
    const std::string input = mutator.Mutate(seeds[mutator.Below(seeds.size())], pieces);
    HostFilter filter;
    (i % 2 ? filter.include : filter.exclude) = input;
    Findings findings;
    const auto hosts = SelectHosts(pool, filter, findings);
    ASSERT_EQ(hosts.empty(), findings.has_errors()) << Quoted(input);
    findings.Render();
    if (hosts.empty()) continue;
    ++accepted;
    for (const SelectedHost& host : hosts) {
      ASSERT_FALSE(host.slots.empty());
      for (size_t s = 0; s < host.slots.size(); ++s) {
        ASSERT_LT(host.slots[s], host.host.slots);
        if (s > 0) {
          ASSERT_LT(host.slots[s - 1], host.slots[s]);
        }
      }
    }
  }
  EXPECT_GT(accepted, kInputs / 20);
}

TEST(ConfigFuzz, EnvFile) {
  Mutator mutator(Seed());
  const std::vector<std::string> pieces = {"=", "export ", "\"", "'", "#", "\n", " ", "A"};
  const std::vector<std::string> seeds = {"A=1\nexport B=\"2\"\n# c\nC\n", "X='a b'\n", ""};
  for (int i = 0; i < kInputs; ++i) {
    const std::string input = mutator.Mutate(seeds[mutator.Below(seeds.size())], pieces);
    const SourceText text("f", input);
    Findings findings;
    for (const EnvSetting& setting : ParseEnvFile(text, findings)) {
      ASSERT_TRUE(IsVariableName(setting.name)) << Quoted(setting.name);
    }
    ExpectPlacesInside(text, findings);
  }
}

}  // namespace
}  // namespace dsrun
