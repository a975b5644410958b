// Storage that fails at any call of a save, a prune or a resume, in any way: an error and nothing
// done, half of it, or everything and only the reply lost. A reader finds the newest or the
// previous checkpoint whole, no shard of a readable manifest is missing, and no error is taken for
// absence. Long, because the three share the faults, the storage and what is demanded of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <iostream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "common/base/patience.h"
#include "common/format/aside.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/save_folder.h"
#include "common/format/tags.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/find_checkpoint.h"
#include "worker/checkpoint/prune.h"

namespace dsrun::worker {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Fault = FaultyFileSystem::Fault;
using Done = FaultyFileSystem::Fault::Done;

constexpr char kFolder[] = "/save";
constexpr int64_t kForEver = std::numeric_limits<int64_t>::max();
constexpr char kManifest10[] = "manifest.step-00000010.gen-0001.epoch-0001.json";
constexpr char kManifest20[] = "manifest.step-00000020.gen-0001.epoch-0002.json";

struct NamedFault {
  std::string name;
  Fault fault;
};

// What storage says when it fails, and how much it has done by then.
std::vector<NamedFault> Faults() {
  std::vector<NamedFault> faults;
  for (const auto& [name, error] :
       std::vector<std::pair<std::string, int>>{{"EIO", EIO},
                                                {"ESTALE", ESTALE},
                                                {"EINTR", EINTR},
                                                {"ENOSPC", ENOSPC},
                                                {"EDQUOT", EDQUOT},
                                                {"EROFS", EROFS},
                                                {"EMFILE", EMFILE},
                                                {"EACCES", EACCES},
                                                {"ENOENT", ENOENT},
                                                {"EEXIST", EEXIST},
                                                {"ETIMEDOUT", ETIMEDOUT}}) {
    const absl::Status status = ErrnoStatus(error, "do it", "there on purpose");
    faults.push_back({name + ", nothing done", {status, Done::kNothing}});
    faults.push_back({name + ", half done", {status, Done::kHalf}});
    faults.push_back({name + ", all done", {status, Done::kAll}});
  }
  return faults;
}

// Code above FileSystem tells them apart by their status codes alone.
std::vector<NamedFault> OneFaultForEachCode() {
  std::vector<NamedFault> faults = Faults();
  std::erase_if(faults, [](const NamedFault& fault) {
    const std::string error = fault.name.substr(0, fault.name.find(','));
    return error != "EIO" && error != "ENOSPC" && error != "EROFS" && error != "ENOENT" &&
           error != "EEXIST";
  });
  return faults;
}

std::vector<NamedFault> ReadFaults() {
  std::vector<NamedFault> faults = Faults();
  faults.push_back({"an old size or a short read", {absl::OkStatus(), Done::kHalf}});
  return faults;
}

SaveOptions At(int64_t step, int64_t generation = 1) {
  SaveOptions options;
  options.step = Step(step);
  options.generation = Generation(generation);
  options.first_incarnation = 0x1000 * static_cast<uint64_t>(generation) + 0x10000 * step;
  options.width = 2;
  return options;
}

PruneOptions Keep(int64_t keep, int64_t generation = 1) {
  PruneOptions options;
  options.job_id = "job-a";
  options.generation = Generation(generation);
  options.keep = keep;
  return options;
}

std::vector<std::string> NamesOf(FileSystem& fs) { return fs.List(kFolder).value(); }
std::vector<std::string> ManifestsOf(FileSystem& fs) { return ListManifests(fs, kFolder).value(); }

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// The key of the newest, by a reader whose storage is well again; every manifest that can be read
// has all its shards.
ManifestKey ExpectAllWhole(FaultyFileSystem& fs, const std::string& context,
                           Verify verify = Verify::kFull) {
  const auto names = ListManifests(fs, kFolder);
  EXPECT_TRUE(names.ok()) << context << names.status();
  for (const std::string& name : *names) {
    if (!ReadManifest(fs, kFolder, name).ok()) continue;
    const absl::Status opened = OpenCheckpoint(fs, kFolder, name, verify).status();
    EXPECT_TRUE(opened.ok()) << context << ": " << opened;
  }
  const auto newest = FindNewestCheckpoint(
      fs, kFolder, {.job_id = "", .step = std::nullopt, .verify = verify}, nullptr);
  EXPECT_TRUE(newest.ok()) << context << ": " << newest.status();
  return newest.ok() ? newest->manifest().facts.key : ManifestKey();
}

class StorageFaults : public ::testing::Test {
 protected:
  void SaveOk(FaultyFileSystem& fs, const SaveOptions& options) {
    const auto manifest = Save(fs, kFolder, state_, options);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
  }

  // FindCheckpoint with a patience whose waits take no time and may do something.
  absl::StatusOr<FoundCheckpoint> Find(FileSystem& fs, const WantedCheckpoint& wanted) {
    warnings_.clear();
    waits_ = 0;
    Patience patience(clock_,
                      [&](absl::Duration duration) {
                        ++waits_;
                        clock_.Advance(duration);
                        if (on_wait_) on_wait_();
                        return true;
                      },
                      {});
    return FindCheckpoint(fs, wanted, patience,
                          [&](const std::string& text) { warnings_.push_back(text); });
  }

  static WantedCheckpoint Wanted(int64_t floor_step = 0, const std::string& floor_manifest = "") {
    WantedCheckpoint wanted;
    wanted.job_id = "job-a";
    wanted.save_dir = kFolder;
    wanted.floor_step = floor_step;
    wanted.floor_manifest = floor_manifest;
    return wanted;
  }

  void ExpectSaveSurvives(bool exclusive_rename, const std::vector<NamedFault>& faults);

  const TrainingState state_;
  FakeClock clock_;
  std::function<void()> on_wait_;
  int waits_ = 0;
  std::vector<std::string> warnings_;
};

// Under the address sanitizer, ten times as slow, every third call, another third for every fault.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kEveryCall = 3;
#else
constexpr int64_t kEveryCall = 1;
#endif

// ---- Saving

void StorageFaults::ExpectSaveSurvives(bool exclusive_rename,
                                       const std::vector<NamedFault>& faults) {
  int64_t calls = 0;
  FaultyFileSystem older;
  older.SetExclusiveRename(exclusive_rename);
  SaveOk(older, At(10));
  {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(older);
    SaveOk(fs, At(20));
    calls = fs.calls();
  }
  ASSERT_GT(calls, 20);
  int committed = 0, refused = 0, open = 0;
  int64_t first = 0;
  for (const NamedFault& fault : faults) {
    for (int64_t n = first++ % kEveryCall; n < calls; n += kEveryCall) {
      const std::string context = fault.name + " at call " + std::to_string(n);
      FaultyFileSystem fs;
      fs.BecomeCopyOf(older);
      fs.FailCalls(n, 1, fault.fault);
      const auto manifest = Save(fs, kFolder, state_, At(20));
      const ManifestKey newest = ExpectAllWhole(fs, context);
      if (manifest.ok()) {
        ++committed;
        EXPECT_EQ(newest.step, Step(20)) << context;
        EXPECT_EQ(ManifestName(newest), *manifest) << context;
      } else if (MayBeCommitted(manifest.status())) {
        ++open;
      } else {
        ++refused;
        EXPECT_EQ(newest.step, Step(10)) << context << ": " << manifest.status();
      }
      if (!fault.name.starts_with("EIO")) continue;
      // The next generation goes on over what is left.
      SaveOk(fs, At(30, 2));
      EXPECT_EQ(ExpectAllWhole(fs, context).step, Step(30)) << context;
    }
  }
  std::cout << calls << " calls: committed " << committed << ", refused " << refused << ", open "
            << open << "\n";
  EXPECT_GT(committed, 0);
  EXPECT_GT(refused, 0);
  EXPECT_GT(open, 0);
}

TEST_F(StorageFaults, AnyCallOfASave_LeavesTheOldOrTheNewCheckpointWhole) {
#if defined(__SANITIZE_ADDRESS__)  // ten times as slow; the errors of one code take the same ways
  ExpectSaveSurvives(/*exclusive_rename=*/true, OneFaultForEachCode());
#else
  ExpectSaveSurvives(/*exclusive_rename=*/true, Faults());
#endif
}

TEST_F(StorageFaults, AnyCallOfASaveWithoutHardLinks_LeavesTheOldOrTheNewCheckpointWhole) {
  ExpectSaveSurvives(/*exclusive_rename=*/false, OneFaultForEachCode());
}

// The call of the rename, counted from the first of the commit.
int64_t CallOfRename(const TrainingState& state) {
  FaultyFileSystem shards;
  const std::vector<ShardRecord> records = {SaveRank(shards, kFolder, state, At(20), 0).value(),
                                            SaveRank(shards, kFolder, state, At(20), 1).value()};
  for (int64_t n = 0;; ++n) {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(shards);
    fs.FailCalls(n, kForEver, {ErrnoStatus(EIO, "reach", "the server"), Done::kNothing});
    CommitManifest(fs, kFolder, state.Facts("job-a", Step(20), Generation(1)), records)
        .IgnoreError();
    if (fs.Exists("/save/manifest.step-00000020.gen-0001.epoch-0001.json")) return n - 1;
  }
}

TEST_F(StorageFaults, LostReplyOfTheRename_IsACommit) {
  const int64_t rename = CallOfRename(state_);
  for (const int error : {EEXIST, ENOENT, EIO, ETIMEDOUT}) {
    FaultyFileSystem fs;
    const std::vector<ShardRecord> records = {SaveRank(fs, kFolder, state_, At(20), 0).value(),
                                              SaveRank(fs, kFolder, state_, At(20), 1).value()};
    fs.FailCalls(rename, 1, {ErrnoStatus(error, "rename", "it"), Done::kAll});
    const auto manifest =
        CommitManifest(fs, kFolder, state_.Facts("job-a", Step(20), Generation(1)), records);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(*manifest, "manifest.step-00000020.gen-0001.epoch-0001.json");
    EXPECT_EQ(ExpectAllWhole(fs, "").step, Step(20));
    EXPECT_THAT(NamesOf(fs), SizeIs(5));  // two shards, manifest, latest, the marker
  }
}

TEST_F(StorageFaults, CommitThatCannotBeLookedAt_IsOpenAndKeepsEveryShard) {
  const int64_t rename = CallOfRename(state_);
  FaultyFileSystem fs;
  const std::vector<ShardRecord> records = {SaveRank(fs, kFolder, state_, At(20), 0).value(),
                                            SaveRank(fs, kFolder, state_, At(20), 1).value()};
  // From the rename on nothing answers, but everything is done.
  fs.FailCalls(rename, kForEver, {ErrnoStatus(EIO, "reach", "the server"), Done::kAll});
  const auto facts = state_.Facts("job-a", Step(20), Generation(1));
  const absl::Status status = CommitManifest(fs, kFolder, facts, records).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown) << status;
  EXPECT_TRUE(MayBeCommitted(status));
  EXPECT_THAT(Message(status), HasSubstr("may be committed or not"));
}

TEST_F(StorageFaults, TakenNames_GetTheNextNumber) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  // Two that a listing does not show, and that are no commits of ours.
  for (const std::string epoch : {"0002", "0003"}) {
    const std::string path = "/save/manifest.step-00000020.gen-0001.epoch-" + epoch + ".json";
    fs.Write(path, "somebody else's");
    fs.Hide(path);
  }
  // The look at who has the name sees it.
  std::vector<ShardRecord> records = {SaveRank(fs, kFolder, state_, At(20), 0).value(),
                                      SaveRank(fs, kFolder, state_, At(20), 1).value()};
  auto facts = state_.Facts("job-a", Step(20), Generation(1));
  fs.ShowAll();
  facts.key.epoch = 2;
  const auto manifest = CommitManifest(fs, kFolder, facts, records);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(*manifest, "manifest.step-00000020.gen-0001.epoch-0004.json");
  EXPECT_EQ(ReadFile(fs, "/save/manifest.step-00000020.gen-0001.epoch-0002.json").value(),
            "somebody else's");
}

TEST_F(StorageFaults, DyingInACommitWithoutHardLinks_LeavesATornManifestThatNobodyBelieves) {
  int64_t operations = 0;
  {
    FaultyFileSystem fs;
    fs.SetExclusiveRename(false);
    SaveOk(fs, At(10));
    const int64_t before = fs.operations();
    SaveOk(fs, At(20));
    operations = fs.operations() - before;
  }
  int torn = 0;
  using Crash = FaultyFileSystem::Crash;
  // Every call, also under a sanitizer: few of them leave something torn.
  for (const Crash crash : {Crash::kProcess, Crash::kMachine, Crash::kMachineKeepNames}) {
    for (int64_t n = 0; n < operations; ++n) {
      FaultyFileSystem fs;
      fs.SetExclusiveRename(false);
      SaveOk(fs, At(10));
      fs.CrashAtOperation(n);
      Save(fs, kFolder, state_, At(20)).IgnoreError();
      fs.Recover(crash);
      const ManifestKey newest = ExpectAllWhole(fs, std::to_string(n));
      EXPECT_TRUE(newest.step == Step(10) || newest.step == Step(20)) << n;
      bool has_torn = false;
      for (const std::string& name : ManifestsOf(fs)) {
        has_torn |= absl::IsDataLoss(ReadManifest(fs, kFolder, name).status());
      }
      torn += has_torn ? 1 : 0;
      SaveOk(fs, At(30, 2));
      const auto pruned = PruneCheckpoints(fs, kFolder, Keep(1, 2));
      EXPECT_EQ(pruned.ok(), !has_torn) << pruned.status();
      EXPECT_EQ(ExpectAllWhole(fs, std::to_string(n)).step, Step(30)) << n;
    }
  }
  EXPECT_GT(torn, 0);
}

// ---- Pruning

TEST_F(StorageFaults, AnyCallOfAPrune_LeavesEveryReadableCheckpointWhole) {
  FaultyFileSystem full;
  for (const int64_t step : {10, 20, 30}) SaveOk(full, At(step));
  ASSERT_TRUE(SaveRank(full, kFolder, state_, At(35), 0).ok());  // never committed
  SaveOk(full, At(40, 2));
  ASSERT_TRUE(WriteTag(full, kFolder, "best", kManifest10).ok());
  const std::vector<std::string> before = full.List(kFolder).value();
  int64_t calls = 0;
  {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(full);
    EXPECT_THAT(PruneCheckpoints(fs, kFolder, Keep(1, 2)).value(), SizeIs(2 * 3 + 1));
    calls = fs.calls();
  }
  int untouched = 0, undone = 0;
  std::vector<NamedFault> faults = OneFaultForEachCode();
  faults.push_back(ReadFaults().back());
  int64_t first = 0;
  for (const NamedFault& fault : faults) {
    for (int64_t n = first++ % kEveryCall; n < calls; n += kEveryCall) {
      const std::string context = fault.name + " at call " + std::to_string(n);
      FaultyFileSystem fs;
      fs.BecomeCopyOf(full);
      const int64_t operations = fs.operations();
      fs.FailCalls(n, 1, fault.fault);
      const auto removed = PruneCheckpoints(fs, kFolder, Keep(1, 2));
      // It alters no byte of what it leaves.
      EXPECT_EQ(ExpectAllWhole(fs, context, Verify::kSizes).step, Step(40)) << context;
      EXPECT_TRUE(fs.Exists(JoinPath(kFolder, kManifest10))) << context << ": it has a tag";
      // What could not be brought back then, is by the next one; nothing stays half removed.
      undone += ListAsides(fs, kFolder)->empty() ? 0 : 1;
      if (!removed.ok() && fs.operations() == operations) {
        ++untouched;
        EXPECT_EQ(NamesOf(fs), before) << context;
      }
      const auto again = PruneCheckpoints(fs, kFolder, Keep(1, 2));
      EXPECT_TRUE(again.ok()) << context << ": " << again.status();
      EXPECT_THAT(ManifestsOf(fs), SizeIs(2)) << context;
      EXPECT_THAT(ListAsides(fs, kFolder).value(), IsEmpty()) << context;
      EXPECT_TRUE(fs.Exists(JoinPath(kFolder, kManifest10))) << context << ": it has a tag";
      EXPECT_EQ(ExpectAllWhole(fs, context, Verify::kSizes).step, Step(40)) << context;
    }
  }
  std::cout << untouched << " untouched, " << undone << " left something aside\n";
  EXPECT_GT(untouched, 50 / kEveryCall);
}

TEST_F(StorageFaults, PruneWithAManifestThatCannotBeRead_RemovesNothingAndNamesIt) {
  for (const auto& [name, status] : std::vector<std::pair<std::string, absl::Status>>{
           {kManifest10, ErrnoStatus(EIO, "read", "it")},
           {kManifest20, ErrnoStatus(ESTALE, "read", "it")},
           {kManifest20, ErrnoStatus(EACCES, "read", "it")}}) {
    FaultyFileSystem fs;
    for (const int64_t step : {10, 20, 30, 40}) SaveOk(fs, At(step));
    const std::vector<std::string> before = NamesOf(fs);
    fs.FailReads(JoinPath(kFolder, name), status);
    const absl::Status pruned = PruneCheckpoints(fs, kFolder, Keep(1)).status();
    EXPECT_EQ(pruned.code(), status.code()) << pruned;
    EXPECT_THAT(Message(pruned), AllOf(HasSubstr(Message(status)), HasSubstr(name),
                                       HasSubstr("nothing in /save is removed")));
    EXPECT_EQ(NamesOf(fs), before);
  }
}

TEST_F(StorageFaults, PruneWithATornManifestOrTag_RemovesNothingAndSaysWhatToDo) {
  FaultyFileSystem fs;
  for (const int64_t step : {10, 20, 30}) SaveOk(fs, At(step));
  const std::vector<std::string> before = NamesOf(fs);
  const std::string text = ReadFile(fs, JoinPath(kFolder, kManifest20)).value();
  fs.Truncate(JoinPath(kFolder, kManifest20), 100);
  absl::Status pruned = PruneCheckpoints(fs, kFolder, Keep(1)).status();
  EXPECT_EQ(pruned.code(), absl::StatusCode::kDataLoss) << pruned;
  EXPECT_THAT(Message(pruned), HasSubstr(std::string("remove /save/") + kManifest20));
  EXPECT_EQ(NamesOf(fs), before);
  fs.Write(JoinPath(kFolder, kManifest20), text);
  fs.Write("/save/tag.best", "manifest.st");
  pruned = PruneCheckpoints(fs, kFolder, Keep(1)).status();
  EXPECT_EQ(pruned.code(), absl::StatusCode::kDataLoss) << pruned;
  EXPECT_THAT(Message(pruned), HasSubstr("/save/tag.best"));
  ASSERT_TRUE(fs.RemoveFile("/save/tag.best").ok());
  EXPECT_EQ(NamesOf(fs), before);
  EXPECT_THAT(PruneCheckpoints(fs, kFolder, Keep(1)).value(), SizeIs(6));
}

TEST_F(StorageFaults, Prune_KeepsTaggedEveryNthAndRunningSaves) {
  FaultyFileSystem fs;
  for (int64_t step = 10; step <= 60; step += 10) SaveOk(fs, At(step));
  ASSERT_TRUE(SaveRank(fs, kFolder, state_, At(70), 0).ok());
  ASSERT_TRUE(SaveRank(fs, kFolder, state_, At(80), 0).ok());
  SaveOk(fs, At(90, 2));
  ASSERT_TRUE(WriteTag(fs, kFolder, "best", kManifest10).ok());
  PruneOptions options = Keep(1, 2);
  options.keep_every = 40;
  options.running = {{Step(20), Generation(1)}, {Step(70), Generation(1)}};
  const auto removed = PruneCheckpoints(fs, kFolder, options);
  ASSERT_TRUE(removed.ok()) << removed.status();
  std::vector<int64_t> steps;
  for (const std::string& name : ManifestsOf(fs)) {
    steps.push_back(ParseManifestName(name)->step.value());
    EXPECT_TRUE(OpenCheckpoint(fs, kFolder, name, Verify::kFull).ok()) << name;
  }
  EXPECT_THAT(steps, ElementsAre(90, 40, 20, 10));
  EXPECT_THAT(*removed, Contains(StartsWith("step-00000080")));
  EXPECT_THAT(NamesOf(fs), Contains(StartsWith("step-00000070")));
  // Neither a save that is over nor a tag that is removed keeps anything.
  ASSERT_TRUE(RemoveTag(fs, kFolder, "best").ok());
  ASSERT_TRUE(PruneCheckpoints(fs, kFolder, Keep(1, 2)).ok());
  EXPECT_THAT(ManifestsOf(fs), SizeIs(1));
  EXPECT_THAT(NamesOf(fs), Not(Contains(StartsWith("step-00000070"))));
}

TEST_F(StorageFaults, PruneOfALaterGeneration_LeavesShardsWhoseManifestMayYetCome) {
  FaultyFileSystem fs;
  // A manifest of generation 1 that the network file system does not show yet.
  SaveOk(fs, At(60));
  const std::string hidden = JoinPath(kFolder, "manifest.step-00000060.gen-0001.epoch-0001.json");
  fs.Hide(hidden);
  SaveOk(fs, At(50, 2));
  EXPECT_THAT(PruneCheckpoints(fs, kFolder, Keep(1, 2)).value(), IsEmpty());
  fs.ShowAll();
  EXPECT_EQ(ExpectAllWhole(fs, "shown again").step, Step(60));
}

TEST_F(StorageFaults, PruneBelowStepsThatCameBack_KeepsWhatThisGenerationSaved) {
  FaultyFileSystem fs;
  for (const int64_t step : {60, 70, 80}) SaveOk(fs, At(step));
  SaveOk(fs, At(20, 2));
  EXPECT_THAT(PruneCheckpoints(fs, kFolder, Keep(1, 2)).value(), SizeIs(6));
  EXPECT_TRUE(fs.Exists("/save/manifest.step-00000020.gen-0002.epoch-0001.json"));
  EXPECT_EQ(ExpectAllWhole(fs, "").step, Step(80));
}

// ---- Going on

TEST_F(StorageFaults, AnyCallOfAResume_FindsTheNewestOrBeginsNothing) {
  FaultyFileSystem full;
  SaveOk(full, At(10));
  SaveOk(full, At(20));
  int64_t calls = 0;
  {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(full);
    ASSERT_EQ(Find(fs, Wanted(20, kManifest20))->manifest, kManifest20);
    calls = fs.calls();
    EXPECT_EQ(waits_, 0);
  }
  int recovered = 0, ended = 0;
  for (const NamedFault& fault : ReadFaults()) {
    for (const int64_t count : {int64_t{1}, int64_t{3}, kForEver}) {
      for (int64_t n = 0; n < calls; ++n) {
        const std::string context =
            fault.name + " at " + std::to_string(count) + " calls from " + std::to_string(n);
        FaultyFileSystem fs;
        fs.BecomeCopyOf(full);
        fs.FailCalls(n, count, fault.fault);
        const auto found = Find(fs, Wanted(20, kManifest20));
        if (found.ok()) {
          ++recovered;
          EXPECT_EQ(found->manifest, kManifest20) << context;
          continue;
        }
        ++ended;
        EXPECT_EQ(count, kForEver) << context << ": " << found.status();
        EXPECT_EQ(found.status().code(), absl::StatusCode::kUnavailable) << context;
        EXPECT_THAT(Message(found.status()),
                    AllOf(HasSubstr("committed step 20"), HasSubstr(kManifest20),
                          HasSubstr("/save"), HasSubstr("--allow-rewind")))
            << context;
      }
    }
  }
  std::cout << calls << " calls: found " << recovered << ", ended " << ended << "\n";
  EXPECT_GT(recovered, 500);
  EXPECT_GT(ended, 100);
}

// Without a floor, nothing but a folder that is not there says that there is nothing.
TEST_F(StorageFaults, AnyCallOfAResumeWithoutAFloor_NeverBeginsWithLess) {
  FaultyFileSystem full;
  SaveOk(full, At(10));
  SaveOk(full, At(20));
  int64_t calls = 0;
  {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(full);
    ASSERT_TRUE(Find(fs, Wanted()).ok());
    calls = fs.calls();
  }
  for (const NamedFault& fault : ReadFaults()) {
    if (fault.name.starts_with("ENOENT")) continue;
    for (const int64_t count : {int64_t{1}, kForEver}) {
      for (int64_t n = 0; n < calls; ++n) {
        FaultyFileSystem fs;
        fs.BecomeCopyOf(full);
        fs.FailCalls(n, count, fault.fault);
        const auto found = Find(fs, Wanted());
        EXPECT_TRUE(found.ok() ? found->manifest == kManifest20
                               : absl::IsUnavailable(found.status()) && count == kForEver)
            << fault.name << " at " << n << ": "
            << (found.ok() ? found->manifest : found.status().ToString());
      }
    }
  }
}

TEST_F(StorageFaults, MissingMount_IsWaitedForAndBeginsNothing) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  SaveOk(fs, At(20));
  const WantedCheckpoint wanted = Wanted(20, kManifest20);
  fs.Hide(kFolder);
  absl::Status missing = Find(fs, wanted).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(missing),
              StartsWith("this job has committed step 20 (" + std::string(kManifest20) +
                         "); not even the folder is in /save now, and what is missing is not "
                         "proven to be damaged; nothing less is begun: make /save readable"));
  EXPECT_GT(waits_, 3);
  // An empty folder, where the file system should be.
  fs.ShowAll();
  for (const std::string& name : NamesOf(fs)) fs.Hide(JoinPath(kFolder, name));
  missing = Find(fs, wanted).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(missing), HasSubstr("no whole checkpoint of it is in /save now"));
  // The newest alone is not shown yet.
  fs.ShowAll();
  fs.Hide(JoinPath(kFolder, kManifest20));
  missing = Find(fs, wanted).status();
  EXPECT_THAT(Message(missing), HasSubstr(std::string("only step 10 (") + kManifest10 + ") is"));
  // It comes while it is waited for.
  on_wait_ = [&] {
    if (waits_ == 3) fs.ShowAll();
  };
  EXPECT_EQ(Find(fs, wanted)->manifest, kManifest20);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(StorageFaults, AllowRewind_GoesOnFromWhatIsThereAndSaysWhatIsThrownAway) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  SaveOk(fs, At(20));
  WantedCheckpoint wanted = Wanted(20, kManifest20);
  wanted.allow_rewind = true;
  fs.Hide(JoinPath(kFolder, kManifest20));
  EXPECT_EQ(Find(fs, wanted)->manifest, kManifest10);
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("--allow-rewind"), HasSubstr(kManifest20),
                                           HasSubstr("10 steps THROWN AWAY"))));
  fs.ShowAll();
  fs.FailReads(JoinPath(kFolder, kManifest20), ErrnoStatus(EIO, "read", "a bad block"));
  EXPECT_EQ(Find(fs, wanted)->manifest, kManifest10);
  EXPECT_THAT(warnings_, Contains(HasSubstr("10 steps THROWN AWAY")));
  EXPECT_THAT(warnings_, Contains(AllOf(HasSubstr("a bad block"), HasSubstr("--allow-rewind"))));
  wanted.allow_rewind = false;
  EXPECT_EQ(Find(fs, wanted).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(StorageFaults, ProvenDamage_FallsBackAndSaysTheStepsLost) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  SaveOk(fs, At(20));
  const std::string shard = ReadManifest(fs, kFolder, kManifest20)->files[1].name;
  fs.FlipBit(JoinPath(kFolder, shard), 5000, 3);
  EXPECT_EQ(Find(fs, Wanted(20, kManifest20))->manifest, kManifest10);
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("passed over"), HasSubstr(shard)),
                                     "10 steps LOST: training goes on from step 10 instead of "
                                     "step 20"));
  EXPECT_EQ(waits_, 1) << "the second look";
  // The one before, too.
  fs.Truncate(JoinPath(kFolder, kManifest10), 50);
  EXPECT_EQ(Find(fs, Wanted(20, kManifest20))->manifest, "");
  EXPECT_THAT(warnings_, Contains(HasSubstr("20 steps LOST: training goes on from the start")));
}

TEST_F(StorageFaults, DamageThatTheSecondLookDoesNotFind_IsNone) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  SaveOk(fs, At(20));
  const std::string shard =
      JoinPath(kFolder, ReadManifest(fs, kFolder, kManifest20)->files[1].name);
  fs.FlipBit(shard, 5000, 3);
  on_wait_ = [&] { fs.FlipBit(shard, 5000, 3); };
  EXPECT_EQ(Find(fs, Wanted(20, kManifest20))->manifest, kManifest20);
  EXPECT_EQ(waits_, 1);
  EXPECT_THAT(warnings_, IsEmpty());
  // Two looks that differ prove nothing, however often.
  fs.FlipBit(shard, 6000, 1);
  int64_t at = 5000;
  on_wait_ = [&] { fs.FlipBit(shard, ++at, 3); };
  const absl::Status status = Find(fs, Wanted(20, kManifest20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(Message(status), HasSubstr("two looks find two things"));
}

TEST_F(StorageFaults, LoadStep_IsThatStepOrNothing) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  SaveOk(fs, At(20));
  WantedCheckpoint wanted = Wanted();
  wanted.job_id = "job-b";
  wanted.load_dir = kFolder;
  EXPECT_EQ(Find(fs, wanted)->manifest, kManifest20);
  wanted.load_step = 10;
  EXPECT_EQ(Find(fs, wanted)->manifest, kManifest10);
  wanted.load_step = 15;
  const absl::Status status = Find(fs, wanted).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(status), "--load: no whole checkpoint of step 15 in /save");
  // The manifest that cannot be read is not passed over for an older one.
  wanted.load_step.reset();
  fs.FailReads(JoinPath(kFolder, kManifest20), ErrnoStatus(EIO, "read", "it"));
  EXPECT_EQ(Find(fs, wanted).status().code(), absl::StatusCode::kUnavailable);
}

// The folder of --load went away while the job ran: what was loaded from there is not absent.
TEST_F(StorageFaults, LoadFolderMissingAtARestart_IsWaitedForAndBeginsNothing) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  WantedCheckpoint wanted = Wanted();
  wanted.job_id = "job-b";
  wanted.save_dir = "/own";
  wanted.load_dir = kFolder;
  // At the start it is a mistake, said at once.
  fs.Hide(kFolder);
  absl::Status missing = Find(fs, wanted).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << missing;
  EXPECT_THAT(Message(missing), StartsWith("--load: cannot list folder /save"));
  EXPECT_EQ(waits_, 0);
  wanted.restart = true;
  missing = Find(fs, wanted).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kUnavailable) << missing;
  EXPECT_THAT(
      Message(missing),
      AllOf(HasSubstr("--load: this job began with a checkpoint in /save, which is missing"),
            HasSubstr("make it readable on all nodes")));
  EXPECT_GT(waits_, 3);
  // An empty folder, where the file system should be, says no more.
  fs.ShowAll();
  for (const std::string& name : NamesOf(fs)) fs.Hide(JoinPath(kFolder, name));
  EXPECT_EQ(Find(fs, wanted).status().code(), absl::StatusCode::kUnavailable);
  on_wait_ = [&] {
    if (waits_ == 3) fs.ShowAll();
  };
  EXPECT_EQ(Find(fs, wanted)->manifest, kManifest10);
  on_wait_ = nullptr;
  // Damage is proven, and waiting does not help.
  fs.Truncate(JoinPath(kFolder, kManifest10), 50);
  EXPECT_EQ(Find(fs, wanted).status().code(), absl::StatusCode::kNotFound);
}

// What is given up is not waited for by later saves either.
TEST_F(StorageFaults, AllowRewind_AdoptsTheFolderThatIsThere) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  WantedCheckpoint wanted = Wanted(10, kManifest10);
  wanted.allow_rewind = true;
  for (const std::string& name : NamesOf(fs)) {
    ASSERT_TRUE(fs.RemoveFile(JoinPath(kFolder, name)).ok());
  }
  EXPECT_FALSE(CheckSaveFolder(fs, kFolder, "job-a").ok());
  EXPECT_EQ(Find(fs, wanted)->manifest, "");
  EXPECT_TRUE(CheckSaveFolder(fs, kFolder, "job-a").ok());
  EXPECT_THAT(warnings_, Contains(HasSubstr("/save is another folder than this job began with, and "
                                            "is its save folder from now on")));
  fs.Hide(kFolder);
  EXPECT_TRUE(Find(fs, wanted).ok());
}

// ---- Tags

TEST_F(StorageFaults, Tags_AreReadMovedAndRemoved) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  SaveOk(fs, At(20));
  EXPECT_THAT(ReadTags(fs, kFolder).value(), IsEmpty());
  ASSERT_TRUE(WriteTag(fs, kFolder, "best", kManifest10).ok());
  ASSERT_TRUE(WriteTag(fs, kFolder, "v1.0_a-b", kManifest20).ok());
  ASSERT_TRUE(WriteTag(fs, kFolder, "best", kManifest20).ok());
  const auto tags = ReadTags(fs, kFolder);
  ASSERT_TRUE(tags.ok()) << tags.status();
  ASSERT_THAT(*tags, SizeIs(2));
  EXPECT_EQ(tags->at(0).name, "best");
  EXPECT_EQ(tags->at(0).manifest, kManifest20);
  EXPECT_EQ(ReadFile(fs, "/save/tag.best").value(), std::string(kManifest20) + "\n");
  ASSERT_TRUE(RemoveTag(fs, kFolder, "best").ok());
  EXPECT_EQ(RemoveTag(fs, kFolder, "best").code(), absl::StatusCode::kNotFound);
  for (const std::string bad : {"", ".hidden", "a/b", "a b", "-x", "ä"}) {
    EXPECT_EQ(WriteTag(fs, kFolder, bad, kManifest10).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(WriteTag(fs, kFolder, "a", "no manifest").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteTag(fs, kFolder, "a", "manifest.step-00000099.gen-0001.epoch-0001.json").code(),
            absl::StatusCode::kNotFound);
}

TEST_F(StorageFaults, TagThatCannotBeRead_IsAnErrorAndNotNoTag) {
  FaultyFileSystem fs;
  SaveOk(fs, At(10));
  ASSERT_TRUE(WriteTag(fs, kFolder, "best", kManifest10).ok());
  fs.FailReads("/save/tag.best", ErrnoStatus(EIO, "read", "it"));
  EXPECT_EQ(ReadTags(fs, kFolder).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReadTags(fs, "/nowhere").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace dsrun::worker
