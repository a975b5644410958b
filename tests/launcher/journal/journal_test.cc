#include "launcher/journal.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/journal_codec.h"
#include "tests/simulation/cluster.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

// A folder of its own for every test.
class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::filesystem::path folder_;
};

// A job with trouble in it, from the simulation.
struct Story {
  CoordinatorConfig config;
  std::vector<std::pair<absl::Duration, Event>> events;
  uint64_t digest = 0;
};
Story StoryOf(uint64_t seed) {
  simulation::Cluster cluster(simulation::Scenario::FromSeed(seed), simulation::Sabotage::kNone,
                              false);
  EXPECT_EQ(cluster.Run().violation, "") << "seed " << seed;
  return {cluster.coordinator().config(), cluster.durable_events(), cluster.coordinator().Digest()};
}

// The longest of the first ones.
Story LongStory() {
  Story longest = StoryOf(1);
  for (uint64_t seed = 2; seed <= 40; ++seed) {
    Story story = StoryOf(seed);
    if (story.events.size() > longest.events.size()) longest = std::move(story);
  }
  return longest;
}

std::vector<uint64_t> WriteStory(const Story& story, Journal& journal, int events_per_commit) {
  Coordinator coordinator(story.config);
  std::vector<uint64_t> digests;
  int waiting = 0;
  for (const auto& [now, event] : story.events) {
    coordinator.Step(now, event);
    digests.push_back(coordinator.Digest());
    const absl::Time wall = absl::FromUnixSeconds(1'700'000'000) + now;
    EXPECT_EQ(journal.Append(now, wall, event, digests.back()), absl::OkStatus());
    if (++waiting < events_per_commit) continue;
    EXPECT_EQ(journal.Commit(), absl::OkStatus());
    waiting = 0;
  }
  return digests;
}

TEST_F(JournalTest, ReplayGivesTheSameDigest) {
  size_t records = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    const std::string path = Path("journal-" + std::to_string(seed) + ".db");
    const Story story = StoryOf(seed);
    {
      auto journal = Journal::Create(path, story.config);
      ASSERT_TRUE(journal.ok()) << journal.status();
      WriteStory(story, **journal, 3);
    }
    const auto read = ReadJournal(path);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->records.size(), story.events.size());
    const auto replayed = ReplayJournal(*read);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    EXPECT_EQ(replayed->Digest(), story.digest);
    records += read->records.size();
  }
  EXPECT_GT(records, 1000u);
}

TEST_F(JournalTest, ReadsWhileItIsWritten) {
  const Story story = LongStory();
  auto journal = Journal::Create(Path("journal.db"), story.config);
  ASSERT_TRUE(journal.ok()) << journal.status();
  WriteStory(story, **journal, 1);
  const auto read = ReadJournal(Path("journal.db"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->records.size(), story.events.size());
}

TEST_F(JournalTest, WhatWasNotCommittedIsNotThere) {
  auto journal = Journal::Create(Path("journal.db"), CoordinatorConfig());
  ASSERT_TRUE(journal.ok()) << journal.status();
  ASSERT_EQ((*journal)->Append(absl::Seconds(1), absl::UnixEpoch(), Start{}, 1), absl::OkStatus());
  ASSERT_EQ((*journal)->Commit(), absl::OkStatus());
  ASSERT_EQ((*journal)->Append(absl::Seconds(2), absl::UnixEpoch(), OperatorStop{}, 2),
            absl::OkStatus());
  const auto read = ReadJournal(Path("journal.db"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->records.size(), 1u);
}

void CopyTorn(const std::string& from, const std::string& to, size_t torn_bytes) {
  std::ifstream in(from, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  bytes.resize(bytes.size() > torn_bytes ? bytes.size() - torn_bytes : 0);
  std::ofstream(to, std::ios::binary) << bytes;
}

// The writer is killed in the middle of a write: its log ends anywhere.
TEST_F(JournalTest, ATornTailCostsOnlyRecordsFromTheEnd) {
  const Story story = LongStory();
  auto journal = Journal::Create(Path("journal.db"), story.config);
  ASSERT_TRUE(journal.ok()) << journal.status();
  const std::vector<uint64_t> digests = WriteStory(story, **journal, 1);
  ASSERT_GT(digests.size(), 20u);
  size_t fewest = digests.size();
  for (size_t torn = 0; torn < 60'000; torn += 997) {
    SCOPED_TRACE(torn);
    const std::string copy = Path("torn-" + std::to_string(torn) + ".db");
    CopyTorn(Path("journal.db"), copy, 0);
    CopyTorn(Path("journal.db-wal"), copy + "-wal", torn);
    const auto read = ReadJournal(copy);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_LE(read->records.size(), digests.size());
    fewest = std::min(fewest, read->records.size());
    if (torn == 0) {
      EXPECT_EQ(read->records.size(), digests.size());
    }
    const auto replayed = ReplayJournal(*read);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    if (!read->records.empty()) {
      EXPECT_EQ(replayed->Digest(), digests[read->records.size() - 1]);
    }
  }
  EXPECT_LT(fewest, digests.size()) << "nothing was torn off";
}

TEST_F(JournalTest, ADigestThatDiffersIsNamed) {
  auto journal = Journal::Create(Path("journal.db"), CoordinatorConfig());
  ASSERT_TRUE(journal.ok()) << journal.status();
  ASSERT_EQ((*journal)->Append(absl::Seconds(1), absl::UnixEpoch(), OperatorStop{}, 4711),
            absl::OkStatus());
  ASSERT_EQ((*journal)->Commit(), absl::OkStatus());
  const auto read = ReadJournal(Path("journal.db"));
  ASSERT_TRUE(read.ok()) << read.status();
  const absl::Status replayed = ReplayJournal(*read).status();
  EXPECT_EQ(replayed.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(replayed.message()), HasSubstr("record 1"));
}

TEST_F(JournalTest, AnExistingJournalIsNotContinued) {
  { ASSERT_TRUE(Journal::Create(Path("journal.db"), CoordinatorConfig()).ok()); }
  EXPECT_EQ(Journal::Create(Path("journal.db"), CoordinatorConfig()).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(JournalTest, MissingAndForeignFilesAreNamed) {
  EXPECT_EQ(ReadJournal(Path("none.db")).status().code(), absl::StatusCode::kNotFound);
  std::ofstream(Path("text.db")) << std::string(4096, 'x');
  EXPECT_EQ(ReadJournal(Path("text.db")).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, ANewerSchemaIsRefused) {
  { ASSERT_TRUE(Journal::Create(Path("journal.db"), CoordinatorConfig()).ok()); }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(Path("journal.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "UPDATE header SET schema_version = 2", nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  const absl::Status status = ReadJournal(Path("journal.db")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("schema version 2, expected 1"));
}

TEST(JournalCodecTest, EveryDurableKindSurvives) {
  AgentSpoke spoke{NodeId(3), {}};
  spoke.message.set_generation(4);
  spoke.message.mutable_worker_exited()->set_reason(std::string("a\0b", 3));
  const std::vector<Event> events = {
      Start{},
      spoke,
      AgentGone{NodeId(1), absl::UnavailableError("reset")},
      OperatorStop{},
      NodeSilent{NodeId(2)},
      DeadlinePassed{DeadlinePassed::Kind::kPhase, Generation(3), 9},
      DeadlinePassed{DeadlinePassed::Kind::kCause, Generation(4), 10},
      ProgressMade{Generation(5), 77},
  };
  for (const Event& event : events) {
    const proto::JournalEvent encoded = ToJournal(event);
    const auto decoded = FromJournal(encoded);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->index(), event.index());
    EXPECT_EQ(ToJournal(*decoded).SerializeAsString(), encoded.SerializeAsString());
  }
  EXPECT_EQ(FromJournal(proto::JournalEvent()).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace dsrun::launcher
