// A save that dies, fails or is overtaken at any point leaves a checkpoint that loads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/granted_commit.h"
#include "worker/checkpoint/prune.h"

namespace dsrun::worker {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using Crash = FaultyFileSystem::Crash;

constexpr char kFolder[] = "/save";
constexpr int64_t kHeaderBytes = 4096;  // no header of these shards is longer

std::string HashOfNewest(FaultyFileSystem& fs) {
  auto checkpoint = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? ContentHash(*checkpoint).value() : "";
}

std::vector<std::string> Names(FileSystem& fs) { return fs.List(kFolder).value(); }

SaveOptions Older() {
  SaveOptions options;
  options.step = Step(10);
  options.width = 2;
  return options;
}

SaveOptions Newer() {
  SaveOptions options = Older();
  options.step = Step(20);
  options.first_incarnation = 0x2000;
  return options;
}

// Saves the newer one and tidies, as a run does.
absl::Status SaveAndPrune(FaultyFileSystem& fs, const TrainingState& state) {
  const auto manifest = Save(fs, kFolder, state, Newer());
  if (!manifest.ok()) return manifest.status();
  return PruneCheckpoints(fs, kFolder, {"job-a", Generation(1), /*keep=*/1}).status();
}

class CrashTest : public ::testing::Test {
 protected:
  CrashTest() {
    FaultyFileSystem fs;
    EXPECT_TRUE(Save(fs, kFolder, state_, Older()).ok());
    old_hash_ = HashOfNewest(fs);
    const int64_t before = fs.operations();
    EXPECT_TRUE(SaveAndPrune(fs, state_).ok());
    operations_ = fs.operations() - before;
    new_hash_ = HashOfNewest(fs);
    EXPECT_NE(old_hash_, new_hash_);
  }

  const TrainingState state_;
  std::string old_hash_;
  std::string new_hash_;
  int64_t operations_ = 0;
};

TEST_F(CrashTest, DyingAtAnyOperation_LeavesTheOldOrTheNewCheckpoint) {
  ASSERT_GT(operations_, 20);
  for (const Crash crash : {Crash::kProcess, Crash::kMachine, Crash::kMachineKeepNames}) {
    int64_t old_found = 0;
    int64_t new_found = 0;
    for (int64_t n = 0; n < operations_; ++n) {
      FaultyFileSystem fs;
      ASSERT_TRUE(Save(fs, kFolder, state_, Older()).ok());
      fs.CrashAtOperation(n);
      SaveAndPrune(fs, state_).IgnoreError();
      ASSERT_TRUE(fs.crashed()) << "operation " << n;
      fs.Recover(crash);
      const std::string hash = HashOfNewest(fs);
      ASSERT_TRUE(hash == old_hash_ || hash == new_hash_) << "operation " << n;
      ++(hash == old_hash_ ? old_found : new_found);

      // The next generation saves and tidies over the debris.
      SaveOptions next = Newer();
      next.generation = Generation(2);
      ASSERT_TRUE(Save(fs, kFolder, state_, next).ok()) << "operation " << n;
      ASSERT_TRUE(PruneCheckpoints(fs, kFolder, {"job-a", Generation(2), /*keep=*/1}).ok());
      ASSERT_EQ(HashOfNewest(fs), new_hash_) << "operation " << n;
      for (const std::string& name : Names(fs)) {
        if (name == "latest" || name.find("gen-0002") != std::string::npos) continue;
        // A shard cut inside its header does not say whose it is and so belongs to nobody: the one
        // thing that may stay.
        EXPECT_LT(fs.Stat(JoinPath(kFolder, name))->bytes, kHeaderBytes)
            << name << " is left of a crash at operation " << n;
      }
    }
    EXPECT_GT(old_found, 5);
    EXPECT_GT(new_found, 1);
  }
}

TEST_F(CrashTest, FailureOfAnyOperation_LeavesTheOldOrTheNewCheckpointAndNoDebris) {
  for (int64_t n = 0; n < operations_; ++n) {
    FaultyFileSystem fs;
    ASSERT_TRUE(Save(fs, kFolder, state_, Older()).ok());
    fs.FailOperation(n, absl::UnavailableError("the medium fails on purpose"));
    const auto manifest = Save(fs, kFolder, state_, Newer());
    const std::string hash = HashOfNewest(fs);
    // It is there, and may not last: the folder could not be synced.
    EXPECT_EQ(hash, MayBeCommitted(manifest.status()) ? new_hash_ : old_hash_) << "operation " << n;
    if (MayBeCommitted(manifest.status())) continue;
    EXPECT_THAT(std::string(manifest.status().message()), HasSubstr("on purpose"));
    for (const std::string& name : Names(fs)) {
      EXPECT_THAT(name, Not(HasSubstr("step-00000020"))) << "operation " << n;
    }
  }
}

TEST_F(CrashTest, FullDisk_LeavesTheOldCheckpointAndRemovesThePart) {
  FaultyFileSystem measured;
  ASSERT_TRUE(Save(measured, kFolder, state_, Older()).ok());
  const int64_t used = measured.used_bytes();
  // Room for everything from nothing up to all but the last bytes of the manifest.
  for (int64_t room = 0; room < used - 200; room += used / 50) {
    FaultyFileSystem fs;
    ASSERT_TRUE(Save(fs, kFolder, state_, Older()).ok());
    const std::vector<std::string> before = fs.List(kFolder).value();
    fs.SetCapacity(used + room);
    const absl::Status status = Save(fs, kFolder, state_, Newer()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("No space left on device"));
    EXPECT_EQ(fs.List(kFolder).value(), before);
    EXPECT_EQ(fs.used_bytes(), used);
    EXPECT_EQ(HashOfNewest(fs), old_hash_);
    // With room again, the same step can be saved.
    fs.SetCapacity(4 * used);
    ASSERT_TRUE(Save(fs, kFolder, state_, Newer()).ok());
    EXPECT_EQ(HashOfNewest(fs), new_hash_);
  }
}

// Stopped before its commit, overtaken by the next generation, woken again.
TEST(StaleWriterTest, OldGenerationThatFinishesLast_SpoilsNothing) {
  FaultyFileSystem fs;
  const TrainingState state;
  SaveOptions old_options = Older();
  std::vector<ShardRecord> old_records;
  old_records.push_back(SaveRank(fs, kFolder, state, old_options, 0).value());
  old_records.push_back(SaveRank(fs, kFolder, state, old_options, 1).value());

  SaveOptions next = Older();
  next.generation = Generation(2);
  next.width = 1;  // the same process as rank 0 before: the same incarnation
  const std::string winner = Save(fs, kFolder, state, next).value();
  const std::string bytes = ReadFile(fs, JoinPath(kFolder, winner)).value();
  const std::vector<std::string> before = fs.List(kFolder).value();

  const ManifestFacts facts = state.Facts("job-a", old_options.step, old_options.generation);
  const auto loser = CommitManifest(fs, kFolder, facts, old_records);
  ASSERT_TRUE(loser.ok()) << loser.status();
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest_name(), winner);
  EXPECT_EQ(ReadFile(fs, JoinPath(kFolder, winner)).value(), bytes);
  for (const std::string& name : before) EXPECT_TRUE(fs.Exists(JoinPath(kFolder, name))) << name;

  // Nor can it tidy away what is newer than itself.
  ASSERT_TRUE(PruneCheckpoints(fs, kFolder, {"job-a", Generation(1), /*keep=*/1}).ok());
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest_name(), winner);
  // What the successor saves next stands above everything the old one can do.
  next.step = Step(30);
  ASSERT_TRUE(Save(fs, kFolder, state, next).ok());
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest().facts.key.step, Step(30));
}

TEST(StaleWriterTest, WhoseShardsWereTidiedAway_CannotCommit) {
  FaultyFileSystem fs;
  const TrainingState state;
  SaveOptions old_options = Newer();
  std::vector<ShardRecord> old_records;
  old_records.push_back(SaveRank(fs, kFolder, state, old_options, 0).value());
  old_records.push_back(SaveRank(fs, kFolder, state, old_options, 1).value());
  SaveOptions next = Newer();
  next.generation = Generation(2);
  const std::string winner = Save(fs, kFolder, state, next).value();
  ASSERT_TRUE(PruneCheckpoints(fs, kFolder, {"job-a", Generation(2), /*keep=*/3}).ok());

  const ManifestFacts facts = state.Facts("job-a", old_options.step, old_options.generation);
  const absl::Status status = CommitManifest(fs, kFolder, facts, old_records).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest_name(), winner);
}

TEST(StaleWriterTest, ShardThatIsThere_IsNeverReplaced) {
  FaultyFileSystem fs;
  const TrainingState state;
  const ShardRecord record = SaveRank(fs, kFolder, state, Older(), 0).value();
  const std::string path = JoinPath(kFolder, record.file.name);
  const std::string bytes = ReadFile(fs, path).value();
  EXPECT_EQ(SaveRank(fs, kFolder, state, Older(), 0).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadFile(fs, path).value(), bytes);
}

TEST(PruneTest, KeepsTheNewestOfThisJobAndEverythingElse) {
  FaultyFileSystem fs;
  const TrainingState state;
  for (int64_t step = 1; step <= 5; ++step) {
    SaveOptions options = Older();
    options.step = Step(step);
    ASSERT_TRUE(Save(fs, kFolder, state, options).ok());
    options.job_id = "job-b";
    options.first_incarnation = 0x7000;
    ASSERT_TRUE(Save(fs, kFolder, state, options).ok());
  }
  fs.Write("/save/notes.txt", "mine");
  fs.Write("/save/step-00000001.gen-0001.00000000deadbeef.rank-0000.safetensors", "no shard");
  SaveOptions of_now = Older();  // a save of this generation that is not committed yet
  of_now.step = Step(6);
  ASSERT_TRUE(SaveRank(fs, kFolder, state, of_now, 0).ok());

  const auto removed = PruneCheckpoints(fs, kFolder, {"job-a", Generation(1), /*keep=*/3});
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(removed->size(), 2u * 3u);  // two manifests, two shards each
  EXPECT_THAT(*removed, Each(AnyOf(HasSubstr("step-00000001"), HasSubstr("step-00000002"))));
  int64_t ours = 0, theirs = 0;
  const std::vector<std::string> manifests = ListManifests(fs, kFolder).value();
  for (const std::string& name : manifests) {
    const auto checkpoint = OpenCheckpoint(fs, kFolder, name, Verify::kFull);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    ++(checkpoint->manifest().facts.job_id == "job-a" ? ours : theirs);
  }
  EXPECT_EQ(ours, 3);
  EXPECT_EQ(theirs, 5);
  EXPECT_TRUE(fs.Exists("/save/notes.txt"));
  EXPECT_TRUE(fs.Exists("/save/step-00000001.gen-0001.00000000deadbeef.rank-0000.safetensors"));
  EXPECT_TRUE(fs.Exists("/save/step-00000006.gen-0001.0000000000001000.rank-0000.safetensors"));
  EXPECT_TRUE(PruneCheckpoints(fs, kFolder, {"job-a", Generation(1), /*keep=*/3})->empty());
}

TEST(PruneTest, DamagedCheckpoints_DoNotCountAsKept) {
  FaultyFileSystem fs;
  const TrainingState state;
  for (int64_t step = 1; step <= 4; ++step) {
    SaveOptions options = Older();
    options.step = Step(step);
    ASSERT_TRUE(Save(fs, kFolder, state, options).ok());
  }
  for (const std::string step : {"3", "4"}) {
    fs.Truncate("/save/step-0000000" + step + ".gen-0001.0000000000001001.rank-0001.safetensors",
                100);
  }
  ASSERT_TRUE(PruneCheckpoints(fs, kFolder, {"job-a", Generation(1), /*keep=*/1}).ok());
  const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->manifest().facts.key.step, Step(2));
}

// A save of an older generation that may be committed yet.
TEST(PruneTest, RunningSaves_KeepTheirShardsAndTheirUnfinishedManifest) {
  FaultyFileSystem fs;
  const TrainingState state;
  ASSERT_TRUE(SaveRank(fs, kFolder, state, Older(), 0).ok());
  ASSERT_TRUE(SaveRank(fs, kFolder, state, Newer(), 1).ok());
  SaveOptions later = Newer();  // what supersedes them
  later.generation = Generation(2);
  ASSERT_TRUE(Save(fs, kFolder, state, later).ok());
  const std::string unfinished =
      TemporaryPrefix("job-a") + "1000." + ManifestName({Step(20), Generation(1), 7});
  fs.Write(JoinPath(kFolder, unfinished), "half of");
  PruneOptions options{"job-a", Generation(2), 3};
  options.running = {{Step(20), Generation(1)}};
  EXPECT_THAT(
      PruneCheckpoints(fs, kFolder, options).value(),
      ::testing::ElementsAre("step-00000010.gen-0001.0000000000001000.rank-0000.safetensors"));
  options.running = {};
  EXPECT_EQ(PruneCheckpoints(fs, kFolder, options).value().size(), 2u);
}

class GrantedCommitTest : public ::testing::Test {
 protected:
  // Both shards of `options`, as the coordinator hands them on.
  std::vector<std::string> Records(const SaveOptions& options) {
    std::vector<std::string> records;
    for (const int64_t rank : {0, 1}) {
      records.push_back(SaveRank(fs_, kFolder, state_, options, rank)->Serialize());
    }
    return records;
  }
  ManifestFacts Facts(const SaveOptions& options, int64_t attempt) {
    ManifestFacts facts = state_.Facts("job-a", options.step, options.generation);
    facts.key.epoch = attempt;
    return facts;
  }

  FaultyFileSystem fs_;
  const TrainingState state_;
};

TEST_F(GrantedCommitTest, NamesItsAttempt_AndASecondOneFindsTheFirst) {
  const std::vector<std::string> records = Records(Older());
  const GrantedCommit first = CommitGranted(fs_, kFolder, Facts(Older(), 5), records);
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.manifest, "manifest.step-00000010.gen-0001.epoch-0005.json");
  // Its committer died before it could say so.
  const GrantedCommit second = CommitGranted(fs_, kFolder, Facts(Older(), 6), records);
  ASSERT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(second.manifest, first.manifest);
  EXPECT_EQ(ListManifests(fs_, kFolder)->size(), 1u);
  // Woken up late, the first one replaces nothing either.
  EXPECT_EQ(CommitGranted(fs_, kFolder, Facts(Older(), 4), records).manifest, first.manifest);
}

TEST_F(GrantedCommitTest, NameThatAnotherJobHas_IsLeftAlone) {
  SaveOptions other = Older();
  other.job_id = "job-b";
  other.first_incarnation = 0x7000;
  const std::string theirs = Save(fs_, kFolder, state_, other).value();
  EXPECT_EQ(theirs, "manifest.step-00000010.gen-0001.epoch-0001.json");
  const GrantedCommit ours = CommitGranted(fs_, kFolder, Facts(Older(), 1), Records(Older()));
  ASSERT_TRUE(ours.status.ok()) << ours.status;
  EXPECT_EQ(ours.manifest, "manifest.step-00000010.gen-0001.epoch-0002.json");
}

TEST_F(GrantedCommitTest, FailureAtAnyOperation_SaysWhetherAManifestMayBeThere) {
  int failed = 0;
  for (int64_t n = 0; n < 20; ++n) {
    SCOPED_TRACE(::testing::Message() << "operation " << n);
    FaultyFileSystem fs;
    std::vector<std::string> records;
    for (const int64_t rank : {0, 1}) {
      records.push_back(SaveRank(fs, kFolder, state_, Older(), rank)->Serialize());
    }
    fs.FailOperation(n, absl::UnavailableError("the medium fails on purpose"));
    const GrantedCommit outcome = CommitGranted(fs, kFolder, Facts(Older(), 1), records);
    const bool there = !ListManifests(fs, kFolder)->empty();
    failed += outcome.status.ok() ? 0 : 1;
    EXPECT_TRUE(!there || !outcome.manifest.empty());
    EXPECT_TRUE(there || !outcome.status.ok());
  }
  EXPECT_GT(failed, 3);
}

TEST(PruneTest, OrphansOfEarlierGenerations_GoThoseOfOtherJobsStay) {
  FaultyFileSystem fs;
  const TrainingState state;
  ASSERT_TRUE(SaveRank(fs, kFolder, state, Older(), 0).ok());
  SaveOptions other = Older();
  other.job_id = "job-b";
  other.first_incarnation = 0x7000;
  ASSERT_TRUE(SaveRank(fs, kFolder, state, other, 1).ok());
  // Cut short, as kill -9 in the middle of a shard leaves it.
  SaveOptions cut = Newer();
  const ShardRecord record = SaveRank(fs, kFolder, state, cut, 1).value();
  fs.Truncate(JoinPath(kFolder, record.file.name), record.file.bytes / 2);

  // As long as no later generation has gone beyond them, their manifests may come.
  EXPECT_THAT(PruneCheckpoints(fs, kFolder, {"job-a", Generation(1), 3}).value(),
              ::testing::IsEmpty());
  EXPECT_THAT(PruneCheckpoints(fs, kFolder, {"job-a", Generation(2), 3}).value(),
              ::testing::IsEmpty());
  SaveOptions next = Newer();
  next.generation = Generation(2);
  next.first_incarnation = 0x3000;
  ASSERT_TRUE(Save(fs, kFolder, state, next).ok());
  EXPECT_THAT(
      PruneCheckpoints(fs, kFolder, {"job-a", Generation(2), 3}).value(),
      ::testing::ElementsAre("step-00000010.gen-0001.0000000000001000.rank-0000.safetensors",
                             "step-00000020.gen-0001.0000000000002001.rank-0001.safetensors"));
}

}  // namespace
}  // namespace dsrun::worker
