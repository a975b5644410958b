// Tags that are given while old checkpoints are removed: at every moment of the one, the whole of
// the other; and processes that die in between. Either the checkpoint stays and is whole, or
// whoever gives the tag hears that it is gone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "common/format/aside.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/tags.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/fakes/stopping_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/prune.h"

namespace dsrun::worker {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Crash = FaultyFileSystem::Crash;

constexpr char kFolder[] = "/save";
constexpr char kManifest10[] = "manifest.step-00000010.gen-0001.epoch-0001.json";
constexpr char kManifest20[] = "manifest.step-00000020.gen-0001.epoch-0002.json";
constexpr char kManifest30[] = "manifest.step-00000030.gen-0001.epoch-0003.json";

PruneOptions KeepOne(int64_t generation = 1) {
  PruneOptions options;
  options.job_id = "job-a";
  options.generation = Generation(generation);
  options.keep = 1;
  return options;
}

std::vector<std::string> NamesOf(FileSystem& fs) { return fs.List(kFolder).value(); }
std::vector<std::string> ManifestsOf(FileSystem& fs) { return ListManifests(fs, kFolder).value(); }
std::string TagText(FaultyFileSystem& fs) { return ReadFile(fs, "/save/tag.best").value_or(""); }

class TagRace : public ::testing::Test {
 protected:
  TagRace() {
    for (const int64_t step : {10, 20, 30}) SaveOk(saved_, step, 1);
  }
  void SaveOk(FaultyFileSystem& fs, int64_t step, int64_t generation) {
    SaveOptions options;
    options.step = Step(step);
    options.generation = Generation(generation);
    options.first_incarnation = 0x10000 * static_cast<uint64_t>(step);
    options.width = 2;
    const auto manifest = Save(fs, kFolder, state_, options);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
  }
  // Operations of `work` that change something.
  int64_t OperationsOf(const std::function<absl::Status(FileSystem&)>& work) {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(saved_);
    EXPECT_TRUE(work(fs).ok());
    return fs.operations();
  }
  // `work`, with `between` done by somebody else before its n-th operation.
  static absl::Status Interrupted(FaultyFileSystem& fs, int64_t n,
                                  const std::function<absl::Status(FileSystem&)>& work,
                                  const std::function<void()>& between) {
    StoppingFileSystem stopping(fs, n, between);
    return work(stopping);
  }
  // What whoever gave the tag was told is so, and nothing is torn.
  void ExpectKept(FaultyFileSystem& fs, const absl::Status& tagged, const std::string& context) {
    for (const std::string& name : ManifestsOf(fs)) {
      const absl::Status whole = OpenCheckpoint(fs, kFolder, name, Verify::kFull).status();
      EXPECT_TRUE(whole.ok()) << context << ": " << whole;
    }
    if (tagged.ok()) {
      ++kept_;
      EXPECT_EQ(TagText(fs), std::string(kManifest10) + "\n") << context;
      EXPECT_TRUE(fs.Exists(JoinPath(kFolder, kManifest10))) << context << ": the tag is lost";
    } else {
      ++refused_;
      EXPECT_EQ(tagged.code(), absl::StatusCode::kNotFound) << context << ": " << tagged;
      EXPECT_EQ(TagText(fs), "") << context;
      EXPECT_FALSE(fs.Exists(JoinPath(kFolder, kManifest10))) << context;
    }
    EXPECT_THAT(ListAsides(fs, kFolder).value(), IsEmpty()) << context;
  }

  static absl::Status Prune(FileSystem& fs) {
    return PruneCheckpoints(fs, kFolder, KeepOne()).status();
  }
  static absl::Status GiveTag(FileSystem& fs) { return WriteTag(fs, kFolder, "best", kManifest10); }

  const TrainingState state_;
  FaultyFileSystem saved_;
  int kept_ = 0;
  int refused_ = 0;
};

TEST_F(TagRace, TagAtAnyMomentOfAPrune_KeepsTheCheckpointOrIsRefused) {
  for (const bool exclusive_rename : {true, false}) {
    saved_.SetExclusiveRename(exclusive_rename);
    const int64_t operations = OperationsOf(Prune);
    ASSERT_GT(operations, 8);
    for (int64_t n = 0; n < operations; ++n) {
      FaultyFileSystem fs;
      fs.BecomeCopyOf(saved_);
      absl::Status tagged = absl::InternalError("never asked");
      const absl::Status pruned = Interrupted(fs, n, Prune, [&] { tagged = GiveTag(fs); });
      EXPECT_TRUE(pruned.ok()) << n << ": " << pruned;
      ExpectKept(fs, tagged, "before operation " + std::to_string(n) + " of a prune");
      EXPECT_FALSE(fs.Exists(JoinPath(kFolder, kManifest20))) << n;
    }
  }
  std::cout << kept_ << " kept, " << refused_ << " refused\n";
  EXPECT_GT(kept_, 6);
  EXPECT_GT(refused_, 6);
}

TEST_F(TagRace, PruneAtAnyMomentOfATag_KeepsTheCheckpointOrTheTagIsRefused) {
  const int64_t operations = OperationsOf(GiveTag);
  ASSERT_GT(operations, 4);
  for (int64_t n = 0; n < operations; ++n) {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(saved_);
    absl::Status pruned = absl::InternalError("never asked");
    const absl::Status tagged = Interrupted(fs, n, GiveTag, [&] { pruned = Prune(fs); });
    EXPECT_TRUE(pruned.ok()) << n << ": " << pruned;
    ExpectKept(fs, tagged, "before operation " + std::to_string(n) + " of a tag");
    if (!tagged.ok()) {
      EXPECT_THAT(std::string(tagged.message()),
                  AllOf(HasSubstr("removed from /save as an old checkpoint at the same moment"),
                        HasSubstr("there is no such tag")));
    }
  }
  EXPECT_GT(kept_, 0);
  EXPECT_GT(refused_, 0);
}

// The prune dies, and so does whoever writes the tag at the same moment, before a second look. What
// is there then, under its name or aside, stays.
TEST_F(TagRace, PruneAndTagThatDieAtAnyMoment_LoseNoCheckpointThatATagNames) {
  const int64_t operations = OperationsOf(Prune);
  int aside = 0;
  for (const Crash crash : {Crash::kProcess, Crash::kMachine, Crash::kMachineKeepNames}) {
    for (int64_t n = 0; n < operations; ++n) {
      const std::string context = "died at operation " + std::to_string(n);
      FaultyFileSystem fs;
      fs.BecomeCopyOf(saved_);
      fs.CrashAtOperation(n);
      EXPECT_FALSE(Prune(fs).ok()) << context;
      fs.Recover(crash);
      // Whatever is left has its shards.
      for (const std::string& name : ManifestsOf(fs)) {
        const absl::Status whole = OpenCheckpoint(fs, kFolder, name, Verify::kFull).status();
        EXPECT_TRUE(whole.ok()) << context << ": " << whole;
      }
      const std::vector<Aside> asides = ListAsides(fs, kFolder).value();
      bool there = fs.Exists(JoinPath(kFolder, kManifest10));
      for (const Aside& one : asides) there |= one.manifest == kManifest10;
      aside += asides.empty() ? 0 : 1;
      if (there) fs.Write("/save/tag.best", std::string(kManifest10) + "\n");
      SaveOk(fs, 40, 2);
      const auto pruned = PruneCheckpoints(fs, kFolder, KeepOne(2));
      EXPECT_TRUE(pruned.ok()) << context << ": " << pruned.status();
      ExpectKept(fs, there ? absl::OkStatus() : absl::NotFoundError(""), context);
      EXPECT_FALSE(fs.Exists(JoinPath(kFolder, kManifest20))) << context << ": it is finished";
    }
  }
  EXPECT_GT(aside, 3);
}

TEST_F(TagRace, WhatAPruneLeftAside_IsBroughtBackByATag) {
  const Aside aside = SetAside(saved_, kFolder, kManifest10).value();
  EXPECT_THAT(ManifestsOf(saved_), Not(Contains(kManifest10)));
  EXPECT_THAT(aside.name, StartsWith(".aside."));
  EXPECT_EQ(ParseAsideName(aside.name)->manifest, kManifest10);
  EXPECT_TRUE(GiveTag(saved_).ok());
  ExpectKept(saved_, absl::OkStatus(), "");
  for (const std::string name : {kManifest10, ".aside.x.manifest", ".aside.", "tag.best"}) {
    EXPECT_FALSE(ParseAsideName(name).has_value()) << name;
  }
}

// One that another job's prune has left is that job's; its shards are needed.
TEST_F(TagRace, WhatAnotherJobLeftAside_StaysWithItsShards) {
  SaveOptions options;
  options.job_id = "job-b";
  options.step = Step(15);
  options.first_incarnation = 0x7770000;
  options.width = 1;
  const std::string theirs = Save(saved_, kFolder, state_, options).value();
  ASSERT_TRUE(SetAside(saved_, kFolder, theirs).ok());
  ASSERT_TRUE(Prune(saved_).ok());
  ASSERT_EQ(ListAsides(saved_, kFolder)->size(), 1u);
  ASSERT_TRUE(BringBack(saved_, kFolder, theirs).ok());
  EXPECT_TRUE(OpenCheckpoint(saved_, kFolder, theirs, Verify::kFull).ok());
}

// A prune that died between the link and the unlink of a rename, where there is no better one.
TEST_F(TagRace, ManifestUnderBothNames_KeepsTheRightOne) {
  const std::string text = ReadFile(saved_, JoinPath(kFolder, kManifest30)).value();
  saved_.Write(std::string("/save/.aside.0123456789abcdef.") + kManifest30, text);
  ASSERT_TRUE(Prune(saved_).ok());
  EXPECT_THAT(ListAsides(saved_, kFolder).value(), IsEmpty());
  EXPECT_TRUE(OpenCheckpoint(saved_, kFolder, kManifest30, Verify::kFull).ok());
}

// Two prunes of one job at once: the one of a writer that was overtaken, and its successor's.
TEST_F(TagRace, TwoPrunesAndATagAtOnce_KeepTheCheckpointOrRefuseTheTag) {
  SaveOk(saved_, 40, 2);
  const auto of_successor = [](FileSystem& fs) {
    return PruneCheckpoints(fs, kFolder, KeepOne(2)).status();
  };
  const int64_t operations = OperationsOf(of_successor);
  for (int64_t outer = 0; outer < OperationsOf(Prune); ++outer) {
    for (int64_t inner = 0; inner < operations; ++inner) {
      FaultyFileSystem fs;
      fs.BecomeCopyOf(saved_);
      absl::Status tagged = absl::InternalError("never asked");
      Interrupted(fs, outer, Prune, [&] {
        Interrupted(fs, inner, of_successor, [&] { tagged = GiveTag(fs); }).IgnoreError();
      }).IgnoreError();
      if (absl::IsInternal(tagged)) continue;  // nothing was left to do for the successor
      ExpectKept(fs, tagged, std::to_string(outer) + ", " + std::to_string(inner));
    }
  }
  EXPECT_GT(kept_, 6);
  EXPECT_GT(refused_, 6);
}

// ---- Unfinished tags

// The one before any operation of the other; from then on, before every operation that is left, the
// tag is that of one of them, and never a mixture.
TEST_F(TagRace, TwoWritersOfOneTag_LeaveTheTagOfOneOfThem) {
  const int64_t operations = OperationsOf(GiveTag);
  for (int64_t n = 0; n < operations; ++n) {
    for (int64_t look = n; look <= operations + 1; ++look) {  // an append is halved
      const std::string context = std::to_string(n) + ", " + std::to_string(look);
      FaultyFileSystem fs;
      fs.BecomeCopyOf(saved_);
      bool is_given = false;
      const auto expect_one_of_them = [&] {
        if (!is_given) return;
        EXPECT_THAT(TagText(fs),
                    AnyOf(std::string(kManifest10) + "\n", std::string(kManifest20) + "\n"))
            << context;
      };
      absl::Status other;
      StoppingFileSystem looking(fs, look, expect_one_of_them);
      StoppingFileSystem writing(looking, n, [&] {
        other = WriteTag(fs, kFolder, "best", kManifest20);
        is_given = true;
      });
      const absl::Status mine = GiveTag(writing);
      EXPECT_TRUE(mine.ok() && other.ok()) << context << ": " << mine << "; " << other;
      expect_one_of_them();
      EXPECT_THAT(NamesOf(fs), Not(Contains(StartsWith(".tmp.")))) << context;
    }
  }
}

TEST_F(TagRace, UnfinishedTagThatIsTidiedAway_IsWrittenAgain) {
  const int64_t operations = OperationsOf(GiveTag);
  int tidied = 0;
  for (int64_t n = 0; n < operations; ++n) {
    FaultyFileSystem fs;
    fs.BecomeCopyOf(saved_);
    const absl::Status tagged = Interrupted(fs, n, GiveTag, [&] {
      for (const std::string& name : NamesOf(fs)) {
        if (!name.starts_with(".tmp.tag.")) continue;
        ++tidied;
        EXPECT_TRUE(fs.RemoveFile(JoinPath(kFolder, name)).ok());
      }
    });
    EXPECT_TRUE(tagged.ok()) << n << ": " << tagged;
    ExpectKept(fs, tagged, std::to_string(n));
  }
  EXPECT_GT(tidied, 0);
}

TEST_F(TagRace, UnfinishedTags_AreRemovedWhenTheirCheckpointIsGone) {
  const std::string prefix = "/save/.tmp.tag.0123456789abcdef.";
  const std::string of_10 = prefix + kManifest10 + ".a.json.b";
  const std::string of_30 = prefix + kManifest30 + ".best";
  EXPECT_EQ(ManifestOfTagTemporary(of_10.substr(6)), kManifest10);
  EXPECT_EQ(ManifestOfTagTemporary(of_30.substr(6)), kManifest30);
  EXPECT_EQ(ManifestOfTagTemporary(".tmp.tag.best"), std::nullopt);
  saved_.Write(of_10, "");
  saved_.Write(of_30, "man");
  ASSERT_TRUE(Prune(saved_).ok());
  EXPECT_TRUE(saved_.Exists(of_10)) << "its checkpoint was there at the look";
  ASSERT_TRUE(Prune(saved_).ok());
  EXPECT_FALSE(saved_.Exists(of_10));
  EXPECT_TRUE(saved_.Exists(of_30)) << "somebody may be at it";
}

}  // namespace
}  // namespace dsrun::worker
