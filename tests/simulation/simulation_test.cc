// Thousands of clusters, each from one seed. A failing seed is printed with the command that plays
// it again, event by event:
//
//   bazel run //tests/simulation:simulation_test -- --seed=N
//
// What its coordinator heard is written as a story, to be kept in
// tests/launcher/coordinator/stories when the mistake was the coordinator's: into the test's
// undeclared outputs (with bazel test,
// bazel-testlogs/tests/simulation/simulation_test/test.outputs), else into the temporary folder.
//
// DSRUN_SIMULATION_SEEDS and DSRUN_SIMULATION_FIRST_SEED widen or move the search.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/launcher/coordinator/story_player.h"
#include "tests/launcher/coordinator/story_writer.h"
#include "tests/simulation/cluster.h"

namespace dsrun::simulation {
namespace {

constexpr uint64_t kSeeds = 5000;
int64_t one_seed = -1;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

// The story of a seed as a file; its path.
std::string WriteStory(uint64_t seed, Sabotage sabotage = Sabotage::kNone) {
  const char* outputs = std::getenv("TEST_UNDECLARED_OUTPUTS_DIR");
  const std::filesystem::path folder = outputs != nullptr ? outputs : testing::TempDir();
  const std::filesystem::path path = folder / absl::StrCat("seed_", seed, ".txt");
  std::ofstream file(path);
  file << StoryOfSeed(seed, sabotage);
  if (!file.flush()) return absl::StrCat("not written: ", path.string(), " cannot be written");
  return path.string();
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(SimulationTest, EverySeedHolds) {
  if (one_seed >= 0) {
    const auto seed = static_cast<uint64_t>(one_seed);
    const Outcome outcome = RunSeed(seed, /*verbose=*/true);
    EXPECT_EQ(outcome.violation, "");
    std::printf("its story: %s\n", WriteStory(seed).c_str());
    return;
  }
  const uint64_t first = FromEnvironment("DSRUN_SIMULATION_FIRST_SEED", 1);
  const uint64_t count = FromEnvironment("DSRUN_SIMULATION_SEEDS", kSeeds);
  std::map<int, int> exits;
  int recovered = 0;
  int at_less_width = 0;
  int after_spinning = 0;
  int heard_in_the_wrong_order = 0;
  int saved_after_recovery = 0;
  int regrants = 0;
  int late_commits = 0;
  uint64_t steps = 0;
  int failures = 0;
  for (uint64_t seed = first; seed < first + count && failures < 10; ++seed) {
    const Outcome outcome = RunSeed(seed);
    if (!outcome.violation.empty()) {
      ++failures;
      ADD_FAILURE() << "seed " << seed << ": " << outcome.violation
                    << "\nplay it again: bazel run //tests/simulation:simulation_test -- --seed="
                    << seed << "\nits story: " << WriteStory(seed);
    }
    ++exits[outcome.exit_code];
    recovered += outcome.exit_code == 0 && outcome.restarts > 0 ? 1 : 0;
    at_less_width += outcome.exit_code == 0 && outcome.lost_nodes > 0 ? 1 : 0;
    after_spinning += outcome.exit_code == 0 && outcome.spins > 0 ? 1 : 0;
    heard_in_the_wrong_order += outcome.heard_in_the_wrong_order;
    saved_after_recovery += outcome.saved_after_recovery ? 1 : 0;
    regrants += outcome.regrants;
    late_commits += outcome.late_commits;
    steps += outcome.steps;
  }
  std::printf(
      "seeds %llu to %llu, %llu events; %d recovered, %d of them with fewer nodes; %d after a "
      "worker had spun; %d causes heard late; %d saved "
      "after a Ctrl-C in a recovery; %d commits granted again, %d after their generation; ends:",
      static_cast<unsigned long long>(first), static_cast<unsigned long long>(first + count - 1),
      static_cast<unsigned long long>(steps), recovered, at_less_width, after_spinning,
      heard_in_the_wrong_order, saved_after_recovery, regrants, late_commits);
  for (const auto& [code, times] : exits) std::printf(" %d x %d", code, times);
  std::printf("\n");
  if (count < kSeeds || failures > 0) return;
  // The search is worth something only if it gets where it should.
  EXPECT_GT(recovered, static_cast<int>(count / 4));
  EXPECT_GT(at_less_width, static_cast<int>(count / 20));
  EXPECT_GT(after_spinning, static_cast<int>(count / 20));
  EXPECT_GT(heard_in_the_wrong_order, 10);
  EXPECT_GT(saved_after_recovery, 5);
  EXPECT_GT(regrants, 20);
  EXPECT_GT(late_commits, 20);
  for (const int code : {0, 91, 93, 94, 95, 96, 137}) {
    EXPECT_GT(exits[code], 0) << "no seed ended with " << code;
  }
}

TEST(SimulationTest, TheSameSeedIsTheSameRun) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome first = RunSeed(seed);
    const Outcome second = RunSeed(seed);
    EXPECT_EQ(first.steps, second.steps) << "seed " << seed;
    EXPECT_EQ(first.exit_code, second.exit_code) << "seed " << seed;
    EXPECT_EQ(first.generations, second.generations) << "seed " << seed;
  }
}

// ---- A failing seed becomes a story

// The last line of a story, which is what the player's coordinator came to.
std::string LastLine(const std::string& story) {
  const size_t end = story.find_last_not_of('\n') + 1;
  const size_t begin = story.rfind('\n', end - 1) + 1;
  return story.substr(begin, end - begin);
}

TEST(SimulationTest, FailingSeed_ItsStoryPlaysToTheSameState) {
  int played = 0;
  for (uint64_t seed = 1; seed <= 500 && played < 3; ++seed) {
    if (RunSeed(seed, false, Sabotage::kLoadsStale).violation.empty()) continue;
    ++played;
    Cluster cluster(Scenario::FromSeed(seed), Sabotage::kLoadsStale, /*verbose=*/false);
    const Outcome outcome = cluster.Run();
    const std::string story = ReadFile(WriteStory(seed, Sabotage::kLoadsStale));
    EXPECT_NE(story.find(outcome.violation), std::string::npos) << story;
    EXPECT_EQ(story.find("\n! "), std::string::npos) << story;
    EXPECT_EQ(launcher::PlayStory(story), story);
    EXPECT_EQ(LastLine(story), "  " + launcher::DigestLine(cluster.coordinator()));
  }
  EXPECT_EQ(played, 3);
}

TEST(SimulationTest, AnySeed_ItsStoryPlaysToTheSameState) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Cluster cluster(Scenario::FromSeed(seed), Sabotage::kNone, /*verbose=*/false);
    cluster.Run();
    EXPECT_EQ(LastLine(StoryOfSeed(seed)), "  " + launcher::DigestLine(cluster.coordinator()))
        << "seed " << seed;
  }
}

TEST(SimulationTest, AStoryThatLacksAnEvent_EndsInAnotherState) {
  std::string story = StoryOfSeed(1);
  const std::string end = LastLine(story);
  const size_t last = story.rfind("> hear ");
  ASSERT_NE(last, std::string::npos);
  story.replace(last, 1, "-");
  EXPECT_NE(LastLine(launcher::PlayStory(story)), end);
}

// ---- The coordinator is taken down to its snapshot and goes on from it

std::string WithoutRestores(Outcome outcome) {
  return absl::StrCat(outcome.violation, " exit ", outcome.exit_code, " faults ", outcome.faults,
                      " generations ", outcome.generations, " restarts ", outcome.restarts,
                      " lost ", outcome.lost_nodes, " saved ", outcome.saved_after_recovery,
                      " steps ", outcome.steps, " transcript ", outcome.transcript);
}

// Seldom, often, before every single event.
double RestoreChance(uint64_t seed) { return seed % 3 == 0 ? 0.01 : seed % 3 == 1 ? 0.3 : 1; }

TEST(SimulationTest, ARestoredCoordinatorGoesOnAsIfNothingHadBeen) {
  int restores = 0;
  int faults = 0;
  for (uint64_t seed = 1; seed <= 600; ++seed) {
    const Outcome without = RunSeed(seed, false, Sabotage::kNone, 0);
    const Outcome with = RunSeed(seed, false, Sabotage::kNone, RestoreChance(seed));
    EXPECT_EQ(WithoutRestores(with), WithoutRestores(without)) << "seed " << seed;
    restores += with.restores;
    faults += with.faults;
  }
  std::printf("%d restores among %d faults\n", restores, faults);
  EXPECT_GT(restores, 10'000);
  EXPECT_GT(faults, 500);
}

TEST(SimulationTest, ARestoredCoordinatorThatForgetsSomethingIsNoticed) {
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 500 && noticed <= 5; ++seed) {
    const Outcome with = RunSeed(seed, false, Sabotage::kForgetsSuspects, 1);
    const Outcome without = RunSeed(seed, false, Sabotage::kNone, 0);
    noticed += WithoutRestores(with) == WithoutRestores(without) ? 0 : 1;
  }
  EXPECT_GT(noticed, 5);
}

// The simulation notices what it is there for.
int SeedsThatNotice(Sabotage sabotage) {
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    noticed += RunSeed(seed, false, sabotage).violation.empty() ? 0 : 1;
  }
  return noticed;
}

TEST(SimulationTest, AWorkerThatComputesTheWrongBlocksIsNoticed) {
  EXPECT_GT(SeedsThatNotice(Sabotage::kWrongBlocks), 3);
}

TEST(SimulationTest, AWorkerThatLoadsAStaleCheckpointIsNoticed) {
  EXPECT_GT(SeedsThatNotice(Sabotage::kLoadsStale), 10);
}

}  // namespace
}  // namespace dsrun::simulation

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const std::string flag = "--seed=";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind(flag, 0) == 0) {
      dsrun::simulation::one_seed = std::strtoll(argument.c_str() + flag.size(), nullptr, 10);
    }
  }
  return RUN_ALL_TESTS();
}
