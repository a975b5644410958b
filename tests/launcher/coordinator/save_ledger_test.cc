// The ledger of saves by itself: who may commit what, when, and what becomes of the rest.

#include "launcher/coordinator/save_ledger.h"

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace dsrun::launcher {
namespace {

using Id = SaveLedger::Id;
using Effects = SaveLedger::Effects;

WorkerId At(int node, int slot = 0) { return {NodeId(node), Slot(slot)}; }

proto::ShardWritten Part(Id id, int rank, int width) {
  proto::ShardWritten written;
  written.mutable_save()->set_generation(id.generation);
  written.mutable_save()->set_step(id.step);
  written.set_rank(rank);
  written.set_width(width);
  written.set_samples(10 * id.step);
  written.set_record(absl::StrCat("record ", rank));
  written.set_seconds(1 + rank);
  return written;
}

proto::ShardWritten Failed(Id id, int rank, int width) {
  proto::ShardWritten written = Part(id, rank, width);
  written.clear_record();
  written.set_error("disk full");
  return written;
}

proto::CommitDone Done(Id id, int64_t attempt, const std::string& manifest,
                       const std::string& error = "") {
  proto::CommitDone done;
  done.mutable_save()->set_generation(id.generation);
  done.mutable_save()->set_step(id.step);
  done.set_attempt(attempt);
  done.set_manifest(manifest);
  done.set_error(error);
  done.set_seconds(0.5);
  return done;
}

// What is to be done, in words.
std::string Say(const Effects& effects) {
  std::string text;
  for (const SaveLedger::Effect& effect : effects) {
    if (!text.empty()) text += "; ";
    if (const auto* granted = std::get_if<SaveLedger::Granted>(&effect)) {
      absl::StrAppend(&text, "grant ", granted->commit.save().step(), "/",
                      granted->commit.save().generation(), " attempt ", granted->commit.attempt(),
                      " to ", granted->to.node.value());
      for (const proto::SaveId& id : granted->commit.running()) {
        absl::StrAppend(&text, " running ", id.step(), "/", id.generation());
      }
      if (granted->commit.has_loaded()) {
        absl::StrAppend(&text, " loaded ", granted->commit.loaded().step(), "/",
                        granted->commit.loaded().generation());
      }
    } else if (const auto* dropped = std::get_if<SaveLedger::Dropped>(&effect)) {
      absl::StrAppend(&text, dropped->failed ? "failed " : "drop ", dropped->id.step, "/",
                      dropped->id.generation, dropped->remove ? " remove" : " keep",
                      dropped->reason.empty() ? "" : ": ", dropped->reason);
    } else {
      const auto& committed = std::get<SaveLedger::Committed>(effect);
      absl::StrAppend(&text, "committed ", committed.id.step, "/", committed.id.generation, " as ",
                      committed.manifest, committed.newest ? "" : ", not the newest");
    }
  }
  return text;
}

// Two nodes of one slot, generation 1, both ranks joined.
class SaveLedgerTest : public ::testing::Test {
 protected:
  SaveLedgerTest() {
    Begin(1, {});
    ledger_.Joined(At(0));
    ledger_.Joined(At(1));
  }

  std::string Begin(int64_t generation, const std::set<WorkerId>& survivors) {
    return Checked(ledger_.Began(Generation(generation), {At(0), At(1)}, survivors));
  }
  std::string Wrote(int rank, Id id) {
    return Checked(ledger_.Written(At(rank), Part(id, rank, 2)));
  }
  std::string Checked(const Effects& effects) {
    EXPECT_EQ(ledger_.CheckInvariants(), "");
    const auto again = SaveLedger::Restore(2, ledger_.Snapshot());
    EXPECT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again.value_or(SaveLedger()).ToString(), ledger_.ToString());
    return Say(effects);
  }

  SaveLedger ledger_;
};

TEST_F(SaveLedgerTest, AllRecords_AreGrantedOnceWithAllOfThem) {
  EXPECT_EQ(Wrote(0, {1, 10}), "");
  const Effects effects = ledger_.Written(At(1), Part({1, 10}, 1, 2));
  ASSERT_EQ(Say(effects), "grant 10/1 attempt 1 to 0");
  const proto::CommitSave& commit = std::get<SaveLedger::Granted>(effects[0]).commit;
  EXPECT_EQ(commit.samples(), 100);
  ASSERT_EQ(commit.records_size(), 2);
  EXPECT_EQ(commit.records(0), "record 0");
  EXPECT_EQ(commit.records(1), "record 1");
  EXPECT_EQ(Wrote(1, {1, 10}), "") << "a repeat";
  const Effects done = ledger_.Done(At(0), Done({1, 10}, 1, "m-10"));
  ASSERT_EQ(Say(done), "committed 10/1 as m-10");
  EXPECT_EQ(std::get<SaveLedger::Committed>(done[0]).seconds, 2.5);
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "m-10"))), "") << "a repeat";
  EXPECT_EQ(Wrote(0, {1, 10}), "") << "a late repeat of a committed part must not drop it";
}

TEST_F(SaveLedgerTest, PartThatFailed_DropsTheSaveOnceAndTellsWhy) {
  EXPECT_EQ(Wrote(1, {1, 10}), "");
  EXPECT_EQ(Checked(ledger_.Written(At(0), Failed({1, 10}, 0, 2))),
            "failed 10/1 remove: rank 0: disk full");
  EXPECT_EQ(Wrote(0, {1, 20}), "");
  EXPECT_EQ(Wrote(1, {1, 20}), "grant 20/1 attempt 1 to 0") << "the next save is none the worse";
}

TEST_F(SaveLedgerTest, PartThatComesAfterItsSaveWasDropped_IsRemovedWithoutFurtherWords) {
  EXPECT_EQ(Checked(ledger_.Written(At(0), Failed({1, 10}, 0, 2))),
            "failed 10/1 remove: rank 0: disk full");
  EXPECT_EQ(Wrote(1, {1, 10}), "drop 10/1 remove");
}

TEST_F(SaveLedgerTest, WriterThatDied_TakesItsSaveWithItAtOnce) {
  EXPECT_EQ(Wrote(0, {1, 10}), "");
  EXPECT_EQ(Checked(ledger_.ProcessEnded(At(1), Generation(1))),
            "drop 10/1 remove: the part of rank 1 is lost with it");
  EXPECT_EQ(Begin(2, {At(0)}), "");
}

TEST_F(SaveLedgerTest, WriterThatDiedBeforeAnybodyReported_LetsNobodyWait) {
  ledger_.ProcessEnded(At(1), Generation(1));
  EXPECT_EQ(Wrote(0, {1, 10}), "drop 10/1 remove: the part of rank 1 is lost with it");
}

TEST_F(SaveLedgerTest, WriterThatDiedAfterItsRecord_TakesNothingWithIt) {
  EXPECT_EQ(Wrote(1, {1, 10}), "");
  EXPECT_EQ(Checked(ledger_.ProcessEnded(At(1), Generation(1))), "");
  EXPECT_EQ(Begin(2, {At(0)}), "");
  EXPECT_EQ(Wrote(0, {1, 10}), "grant 10/1 attempt 1 to 0") << "of an older generation";
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "m-10"))), "committed 10/1 as m-10");
}

TEST_F(SaveLedgerTest, CommitterThatDied_IsFollowedByAnotherWithTheNextAttempt) {
  Wrote(0, {1, 10});
  EXPECT_EQ(Wrote(1, {1, 10}), "grant 10/1 attempt 1 to 0");
  EXPECT_EQ(Checked(ledger_.ProcessEnded(At(0), Generation(1))), "grant 10/1 attempt 2 to 1");
  // The first had done it after all, and its answer was on the way: whoever commits, it counts.
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "m-1"))), "committed 10/1 as m-1");
  EXPECT_EQ(Checked(ledger_.Done(At(1), Done({1, 10}, 2, "m-1"))), "");
}

TEST_F(SaveLedgerTest, CommitOfAGrantThatWasTakenBack_CannotFailTheSave) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  ledger_.ProcessEnded(At(0), Generation(1));
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "", "disk full"))), "");
  EXPECT_EQ(Checked(ledger_.Done(At(1), Done({1, 10}, 2, "", "disk full"))),
            "failed 10/1 keep: its commit: disk full")
      << "the first committer may have left a manifest that names the shards";
}

TEST_F(SaveLedgerTest, CommitThatFailed_RemovesTheShardsUnlessAManifestMayBeThere) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "", "disk full"))),
            "failed 10/1 remove: its commit: disk full");
  Wrote(0, {1, 20});
  Wrote(1, {1, 20});
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 20}, 2, "m-20", "folder not synced"))),
            "failed 20/1 keep: its commit: folder not synced");
}

TEST_F(SaveLedgerTest, NobodyThere_TheGrantWaitsForWhoJoins) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  ledger_.ProcessEnded(At(0), Generation(1));
  EXPECT_EQ(Checked(ledger_.ProcessEnded(At(1), Generation(1))), "");
  EXPECT_EQ(Begin(2, {}), "");
  EXPECT_EQ(Checked(ledger_.Joined(At(1))), "grant 10/1 attempt 3 to 1");
}

TEST_F(SaveLedgerTest, CommitterThatIsNoMemberAnyMore_LosesItsGrant) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  EXPECT_EQ(Checked(ledger_.Began(Generation(2), {At(1)}, {At(1)})), "grant 10/1 attempt 2 to 1");
}

TEST_F(SaveLedgerTest, NodeLost_IsTheLossOfItsProcesses) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  EXPECT_EQ(Checked(ledger_.NodeLost(NodeId(0))), "grant 10/1 attempt 2 to 1");
  EXPECT_EQ(Wrote(1, {1, 20}), "drop 20/1 remove: the part of rank 0 is lost with it");
}

TEST_F(SaveLedgerTest, SaveOfAnOlderGeneration_CountsUntilSomethingNewerIsThere) {
  EXPECT_EQ(Wrote(0, {1, 10}), "");
  EXPECT_EQ(Begin(2, {At(0), At(1)}), "") << "both live, one still writes";
  EXPECT_EQ(Wrote(1, {1, 10}), "grant 10/1 attempt 1 to 0");
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "m-10"))), "committed 10/1 as m-10");

  EXPECT_EQ(Wrote(0, {2, 20}), "");
  EXPECT_EQ(Begin(3, {At(0), At(1)}), "");
  EXPECT_EQ(Wrote(0, {3, 20}), "");
  EXPECT_EQ(Wrote(1, {3, 20}),
            "drop 20/2 remove: the part of rank 1 is lost with it; grant 20/3 attempt 2 to 0 "
            "loaded 10/1")
      << "rank 1 never took the older snapshot: its next report says so";
}

TEST_F(SaveLedgerTest, StaleSave_IsDroppedWithoutWordsOnceANewerIsCommitted) {
  EXPECT_EQ(Wrote(0, {1, 10}), "");
  EXPECT_EQ(Checked(ledger_.Began(Generation(2), {At(0)}, {At(0)})),
            "drop 10/1 remove: the part of rank 1 is lost with it");
  EXPECT_EQ(Checked(ledger_.Written(At(0), Part({2, 10}, 0, 1))), "grant 10/2 attempt 1 to 0");
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({2, 10}, 1, "m"))), "committed 10/2 as m");
}

TEST_F(SaveLedgerTest, CompleteSaveOfAnOlderGeneration_GivesWayToANewerCommit) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});  // granted to 0, attempt 1
  Begin(2, {At(0), At(1)});
  Wrote(0, {2, 20});
  EXPECT_EQ(Wrote(1, {2, 20}), "grant 20/2 attempt 2 to 0 running 10/1");
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({2, 20}, 2, "m-20"))), "committed 20/2 as m-20");
  // The first grant is still in force: its manifest may appear any moment, so nothing is removed.
  EXPECT_EQ(Checked(ledger_.ProcessEnded(At(0), Generation(2))), "drop 10/1 keep");
}

TEST_F(SaveLedgerTest, RewoundGeneration_SavesBelowTheNewestAllTheSame) {
  Wrote(0, {1, 60});
  Wrote(1, {1, 60});
  ledger_.Done(At(0), Done({1, 60}, 1, "m-60"));
  Begin(2, {At(0), At(1)});  // what step 60 wrote proved to be damaged
  Wrote(0, {2, 50});
  EXPECT_EQ(Wrote(1, {2, 50}), "grant 50/2 attempt 2 to 0 loaded 60/1");
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({2, 50}, 2, "m-50"))), "committed 50/2 as m-50");
  EXPECT_EQ(ledger_.newest(), (Id{2, 50}));
}

// Step 20 of generation 1 comes late: what generation 2 saves below it is not newer.
TEST_F(SaveLedgerTest, LateCommit_IsNotOvertakenFromBelow) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  ledger_.Done(At(0), Done({1, 10}, 1, "m-10"));
  Wrote(0, {1, 20});
  Begin(2, {At(0), At(1)});
  Wrote(1, {1, 20});
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 20}, 2, "m-20"))), "committed 20/1 as m-20");
  Wrote(0, {2, 15});
  Wrote(1, {2, 15});
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({2, 15}, 3, "m-15"))),
            "committed 15/2 as m-15, not the newest");
  EXPECT_EQ(ledger_.newest(), (Id{1, 20}));
}

// Generation 2 loads step 10 when step 20 is committed: step 10 must not be pruned yet.
TEST_F(SaveLedgerTest, CommitWhileOthersLoad_SparesWhatTheyLoad) {
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  ledger_.Done(At(0), Done({1, 10}, 1, "m-10"));
  Wrote(0, {1, 20});
  Begin(2, {At(0), At(1)});
  ledger_.Joined(At(0));
  EXPECT_EQ(Wrote(1, {1, 20}), "grant 20/1 attempt 2 to 0 loaded 10/1");
  ledger_.Done(At(0), Done({1, 20}, 2, "m-20"));
  ledger_.Joined(At(1));
  Wrote(0, {2, 30});
  EXPECT_EQ(Wrote(1, {2, 30}), "grant 30/2 attempt 3 to 0");
}

TEST_F(SaveLedgerTest, CommitThatEndsEveryCommitter_IsGivenUp) {
  Wrote(0, {1, 10});
  EXPECT_EQ(Wrote(1, {1, 10}), "grant 10/1 attempt 1 to 0");
  for (int64_t generation = 1; generation < SaveLedger::kMostAttempts; ++generation) {
    ledger_.ProcessEnded(At(0), Generation(generation));
    ledger_.ProcessEnded(At(1), Generation(generation));
    Begin(generation + 1, {});
    ledger_.Joined(At(0));
    if (ledger_.Snapshot().saves().empty()) break;
  }
  ledger_.ProcessEnded(At(0), Generation(SaveLedger::kMostAttempts));
  Begin(SaveLedger::kMostAttempts + 1, {});
  ledger_.Joined(At(1));
  EXPECT_EQ(ledger_.Snapshot().saves_size(), 0);
  EXPECT_EQ(ledger_.Snapshot().last_attempt(), SaveLedger::kMostAttempts);
}

// One that no message carries would end the stream of every agent that it is sent to.
TEST_F(SaveLedgerTest, GrantThatIsTooLarge_IsGivenUpAndSaysWhatToDo) {
  proto::ShardWritten large = Part({1, 10}, 0, 2);
  large.set_record(std::string(size_t{256} << 20, 'r'));
  ledger_.Written(At(0), large);
  const std::string said = Say(ledger_.Written(At(1), Part({1, 10}, 1, 2)));
  EXPECT_NE(said.find("failed 10/1 remove: the list of its pieces has 256 MiB"), std::string::npos)
      << said;
  EXPECT_NE(said.find("--bucket-bytes"), std::string::npos) << said;
}

TEST_F(SaveLedgerTest, OldSaveWhoseCommitFails_IsNoFailureOnceANewerIsThere) {
  Wrote(0, {1, 10});
  EXPECT_EQ(Wrote(1, {1, 10}), "grant 10/1 attempt 1 to 0");
  Wrote(0, {1, 20});
  EXPECT_EQ(Wrote(1, {1, 20}), "grant 20/1 attempt 2 to 0 running 10/1");
  ledger_.Done(At(0), Done({1, 20}, 2, "m-20"));
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "", "disk full"))),
            "drop 10/1 remove: its commit: disk full");
}

TEST_F(SaveLedgerTest, ClaimsOfOthers_AreNotHeard) {
  EXPECT_EQ(Checked(ledger_.Written(At(0), Part({1, 10}, 1, 2))), "") << "another's rank";
  EXPECT_EQ(Checked(ledger_.Written(At(0), Part({1, 10}, 0, 3))), "") << "another width";
  EXPECT_EQ(Checked(ledger_.Written(At(0), Part({2, 10}, 0, 2))), "") << "a generation to come";
  EXPECT_EQ(Checked(ledger_.Written(At(0), Part({1, 10}, -1, 2))), "");
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({1, 10}, 1, "m"))), "") << "without a grant";
  EXPECT_EQ(Checked(ledger_.Done(At(0), Done({9, 10}, 0, "m"))), "");
  Wrote(0, {1, 10});
  Wrote(1, {1, 10});
  EXPECT_EQ(Checked(ledger_.Done(At(1), Done({1, 10}, 1, "", "no"))), "") << "not its grant";
}

TEST_F(SaveLedgerTest, NewProcessAtAPlace_SpeaksOnlyForItself) {
  ledger_.ProcessEnded(At(1), Generation(1));
  Begin(2, {At(0)});
  EXPECT_EQ(Wrote(1, {1, 10}), "") << "its predecessor's snapshot";
  // News of the old process that come late do not touch the new one.
  EXPECT_EQ(Checked(ledger_.ProcessEnded(At(1), Generation(1))), "");
  Wrote(0, {2, 10});
  EXPECT_EQ(Wrote(1, {2, 10}), "grant 10/2 attempt 1 to 0");
}

// Any order of events of processes that keep their promises: the invariants hold after each, no
// attempt number is given out twice, and when the survivors save once more in peace, it is
// committed.
TEST(SaveLedger, AnyOrderOfEvents_KeepsItsInvariantsAndCommitsInTheEnd) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 luck(seed);
    const auto below = [&](int n) { return static_cast<int>(luck() % static_cast<uint64_t>(n)); };
    SaveLedger ledger;
    const int width = 1 + below(3);
    std::vector<WorkerId> places;
    for (int i = 0; i < width; ++i) places.push_back(At(i));
    std::set<int64_t> attempts;
    std::map<int, std::optional<Id>> writing;  // by place: its snapshot
    std::map<int, std::vector<proto::CommitSave>> grants;
    std::set<WorkerId> alive(places.begin(), places.end());
    int64_t generation = 1;
    int64_t step = 0;
    int committed = 0;
    const auto take = [&](const Effects& effects) {
      for (const SaveLedger::Effect& effect : effects) {
        if (const auto* granted = std::get_if<SaveLedger::Granted>(&effect)) {
          EXPECT_TRUE(attempts.insert(granted->commit.attempt()).second) << "given out twice";
          grants[granted->to.node.value()].push_back(granted->commit);
        }
        committed += std::holds_alternative<SaveLedger::Committed>(effect) ? 1 : 0;
      }
      ASSERT_EQ(ledger.CheckInvariants(), "") << ledger.ToString();
      auto again = SaveLedger::Restore(3, ledger.Snapshot());
      ASSERT_TRUE(again.ok());
      ledger = *again;
    };
    const auto begin = [&] {
      take(ledger.Began(Generation(generation), places, alive));
      for (const WorkerId& place : places) take(ledger.Joined(place));
      alive.insert(places.begin(), places.end());
    };
    const auto write = [&](int place) {
      if (!writing[place]) return;
      const Id id = *std::exchange(writing[place], std::nullopt);
      take(ledger.Written(At(place),
                          below(8) == 0 ? Failed(id, place, width) : Part(id, place, width)));
    };
    const auto commit = [&](int place) {
      for (const proto::CommitSave& grant : std::exchange(grants[place], {})) {
        const Id id{grant.save().generation(), grant.save().step()};
        const bool fails = below(8) == 0;
        take(ledger.Done(At(place), Done(id, grant.attempt(), fails ? "" : "m", fails ? "x" : "")));
      }
    };
    begin();
    for (int event = 0; event < 60; ++event) {
      const int place = below(width);
      switch (below(6)) {
        case 0:  // a save step, but somebody may be cut off before it
          ++step;
          for (int i = 0; i < width; ++i) {
            if (!writing[i] && below(10) != 0) writing[i] = Id{generation, step};
          }
          break;
        case 1:
        case 2:
          write(place);
          break;
        case 3:
          commit(place);
          break;
        case 4:
          if (below(3) != 0) break;
          alive.erase(At(place));
          writing[place].reset();
          grants[place].clear();
          take(ledger.ProcessEnded(At(place), Generation(generation)));
          ++generation;
          step -= below(2);
          begin();
          break;
        case 5:
          if (below(4) != 0) break;
          ++generation;  // a lost connection: everybody lives
          begin();
          break;
      }
      if (testing::Test::HasFatalFailure()) return;
    }
    for (int i = 0; i < width; ++i) write(i);
    ++generation;
    begin();
    ++step;
    const int before = committed;
    for (int i = 0; i < width; ++i) {
      take(ledger.Written(At(i), Part({generation, step}, i, width)));
    }
    for (int i = 0; i < width; ++i) {
      for (const proto::CommitSave& grant : std::exchange(grants[i], {})) {
        take(ledger.Done(
            At(i), Done({grant.save().generation(), grant.save().step()}, grant.attempt(), "m")));
      }
    }
    EXPECT_GT(committed, before);
    // A late commit of an older generation may be of a higher step.
    EXPECT_GE(ledger.newest().step, step);
    if (ledger.newest().step == step) {
      EXPECT_EQ(ledger.newest().generation, generation);
    }
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace dsrun::launcher
