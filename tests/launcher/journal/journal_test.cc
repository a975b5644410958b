#include "launcher/shell/journal.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/plan/memory_plan.h"
#include "common/plan/optimizer_settings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/shell/journal_codec.h"
#include "proto/snapshot.pb.h"
#include "tests/simulation/cluster.h"
#include "tests/simulation/sim_base.h"

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

// Small numbers, so that short stories have snapshots.
constexpr int kRecordsPerSnapshot = 8;
constexpr Journal::Options kOptions = {.records_per_snapshot = kRecordsPerSnapshot,
                                       .snapshots_kept = 3};

std::vector<uint64_t> WriteStory(const Story& story, Journal& journal, size_t events_per_write) {
  Coordinator coordinator(story.config);
  std::vector<uint64_t> digests;
  JournalRows rows(kOptions);
  std::vector<JournalRow> waiting;
  for (const auto& [now, event] : story.events) {
    coordinator.Step(now, event);
    digests.push_back(coordinator.Digest());
    const absl::Time wall = absl::FromUnixSeconds(1'700'000'000) + now;
    waiting.push_back(rows.Next(now, wall, event, coordinator));
    if (waiting.size() < events_per_write) continue;
    EXPECT_EQ(journal.Write(waiting), absl::OkStatus());
    waiting.clear();
  }
  if (!waiting.empty()) {
    EXPECT_EQ(journal.Write(waiting), absl::OkStatus());
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
      auto journal = Journal::Create(path, story.config, kOptions);
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
    // The same from a snapshot, whatever is left to replay.
    const auto end = ReadJournal(path, ReadFrom::kNewestSnapshot);
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(end->skipped.size(), 0u);
    EXPECT_EQ(end->records.size(), story.events.size() % kRecordsPerSnapshot);
    const auto again = ReplayJournal(*end);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->DebugString(), replayed->DebugString());
  }
  EXPECT_GT(records, 1000u);
}

TEST_F(JournalTest, ReadsWhileItIsWritten) {
  const Story story = LongStory();
  auto journal = Journal::Create(Path("journal.db"), story.config, kOptions);
  ASSERT_TRUE(journal.ok()) << journal.status();
  WriteStory(story, **journal, 1);
  const auto read = ReadJournal(Path("journal.db"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->records.size(), story.events.size());
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
  auto journal = Journal::Create(Path("journal.db"), story.config, kOptions);
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
    // A snapshot goes with its record: from there on, the same.
    const auto from_snapshot = ReadJournal(copy, ReadFrom::kNewestSnapshot);
    ASSERT_TRUE(from_snapshot.ok()) << from_snapshot.status();
    EXPECT_EQ(from_snapshot->snapshot.has_value(), read->records.size() >= kRecordsPerSnapshot);
    EXPECT_LT(from_snapshot->records.size(), size_t{kRecordsPerSnapshot});
    const auto again = ReplayJournal(*from_snapshot);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->Digest(), replayed->Digest());
  }
  EXPECT_LT(fewest, digests.size()) << "nothing was torn off";
}

TEST_F(JournalTest, ADigestThatDiffersIsNamed) {
  auto journal = Journal::Create(Path("journal.db"), CoordinatorConfig(), kOptions);
  ASSERT_TRUE(journal.ok()) << journal.status();
  // A core that has not made the step.
  const Coordinator other{CoordinatorConfig()};
  const JournalRow row =
      JournalRows(kOptions).Next(absl::Seconds(1), absl::UnixEpoch(), OperatorStop{}, other);
  ASSERT_EQ((*journal)->Write({&row, 1}), absl::OkStatus());
  const auto read = ReadJournal(Path("journal.db"));
  ASSERT_TRUE(read.ok()) << read.status();
  const absl::Status replayed = ReplayJournal(*read).status();
  EXPECT_EQ(replayed.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(replayed.message()), HasSubstr("record 1"));
}

// ---- Snapshots

class SnapshotsInAJournal : public JournalTest {
 protected:
  void SetUp() override {
    JournalTest::SetUp();
    story_ = LongStory();
    auto journal = Journal::Create(Path("journal.db"), story_.config, kOptions);
    ASSERT_TRUE(journal.ok()) << journal.status();
    digests_ = WriteStory(story_, **journal, 3);
    ASSERT_GT(digests_.size(), 3u * kRecordsPerSnapshot);
    newest_ = digests_.size() - digests_.size() % kRecordsPerSnapshot;
  }
  void Change(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(Path("journal.db").c_str(), &db), SQLITE_OK);
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK) << error;
    sqlite3_close(db);
  }
  std::string And(size_t seq) const { return " WHERE seq = " + std::to_string(seq); }
  absl::StatusOr<JournalContent> Read() const {
    return ReadJournal(Path("journal.db"), ReadFrom::kNewestSnapshot);
  }
  void ExpectTheSameEnd(const JournalContent& journal) const {
    const auto replayed = ReplayJournal(journal);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    EXPECT_EQ(replayed->Digest(), story_.digest);
  }

  Story story_;
  std::vector<uint64_t> digests_;
  size_t newest_ = 0;
};

TEST_F(SnapshotsInAJournal, TheNewest_IsOfItsRecordsMoment) {
  const auto read = Read();
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->snapshot.has_value());
  EXPECT_EQ(read->snapshot->seq, static_cast<int64_t>(newest_));
  EXPECT_EQ(read->snapshot->now, story_.events[newest_ - 1].first);
  EXPECT_EQ(read->snapshot->core.Digest(), digests_[newest_ - 1]);
  EXPECT_EQ(read->records.size(), digests_.size() - newest_);
  ExpectTheSameEnd(*read);
}

TEST_F(SnapshotsInAJournal, ADamagedOne_IsSkippedForTheOneBefore) {
  Change(
      "UPDATE snapshots SET state = CAST(substr(state, 1, 9) || X'7f' || substr(state, 11)"
      " AS BLOB)" +
      And(newest_));
  const auto read = Read();
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->skipped.size(), 1u);
  EXPECT_THAT(read->skipped[0], HasSubstr("snapshot after record " + std::to_string(newest_)));
  EXPECT_THAT(read->skipped[0], HasSubstr("checksum does not fit"));
  ASSERT_TRUE(read->snapshot.has_value());
  EXPECT_EQ(read->snapshot->seq, static_cast<int64_t>(newest_ - kRecordsPerSnapshot));
  ExpectTheSameEnd(*read);
}

TEST_F(SnapshotsInAJournal, AllDamaged_BeginsAtTheFirstRecord_AndOnlyAFewWereKept) {
  Change("UPDATE snapshots SET checksum = checksum + 1");
  const auto read = Read();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->skipped.size(), 3u);
  EXPECT_FALSE(read->snapshot.has_value());
  EXPECT_EQ(read->records.size(), digests_.size());
  ExpectTheSameEnd(*read);
}

// The checksum of a row: its numbers, then its bytes.
int64_t Checksum(std::vector<int64_t> numbers, const std::string& bytes) {
  const uint32_t crc = ExtendCrc32c(0, std::as_bytes(std::span(numbers)));
  return ExtendCrc32c(crc, std::as_bytes(std::span(bytes)));
}

std::string AsBlob(const std::string& bytes) {
  std::string hex;
  for (const unsigned char byte : bytes) {
    hex += absl::StrCat(absl::Hex(byte, absl::kZeroPad2));
  }
  return "X'" + hex + "'";
}

TEST_F(SnapshotsInAJournal, ANewerSchema_IsRefusedByName_AndTheRecordsDoWithoutIt) {
  proto::CoordinatorSnapshot snapshot;
  ASSERT_TRUE(snapshot.ParseFromString(Read()->snapshot->core.Snapshot()));
  snapshot.set_schema_version(kSnapshotSchemaVersion + 1);
  const std::string bytes = snapshot.SerializeAsString();
  const int64_t checksum =
      Checksum({static_cast<int64_t>(newest_), static_cast<int64_t>(digests_[newest_ - 1])}, bytes);
  Change("UPDATE snapshots SET state = " + AsBlob(bytes) +
         ", checksum = " + std::to_string(checksum) + And(newest_));
  const absl::Status status = Read().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("snapshot after record " + std::to_string(newest_)));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("schema version " + std::to_string(kSnapshotSchemaVersion + 1) +
                        ", expected " + std::to_string(kSnapshotSchemaVersion)));
  const auto from_start = ReadJournal(Path("journal.db"));
  ASSERT_TRUE(from_start.ok()) << from_start.status();
  ExpectTheSameEnd(*from_start);
}

// Whole by its checksum, but not the state that its record led to.
TEST_F(SnapshotsInAJournal, OneOfAnotherState_IsSkipped) {
  const std::string bytes = Coordinator(story_.config).Snapshot();
  const auto digest = static_cast<int64_t>(digests_[newest_ - 1]);
  const int64_t checksum = Checksum({static_cast<int64_t>(newest_), digest}, bytes);
  Change("UPDATE snapshots SET state = " + AsBlob(bytes) +
         ", checksum = " + std::to_string(checksum) + And(newest_));
  const auto read = Read();
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->skipped.size(), 1u);
  EXPECT_THAT(read->skipped[0], HasSubstr("has digest"));
  ExpectTheSameEnd(*read);
}

// ---- Damage

// What a reader that returns OK has read is what was written, from the beginning or a snapshot on.
void ExpectAPrefix(const JournalContent& read, const Story& story,
                   const std::vector<uint64_t>& digests) {
  EXPECT_EQ(ToJournal(read.config).SerializeAsString(),
            ToJournal(story.config).SerializeAsString());
  const size_t begin = read.snapshot ? static_cast<size_t>(read.snapshot->seq) : 0;
  ASSERT_LE(begin + read.records.size(), story.events.size());
  for (size_t i = 0; i < read.records.size(); ++i) {
    const JournalRecord& record = read.records[i];
    EXPECT_EQ(record.seq, static_cast<int64_t>(begin + i + 1));
    EXPECT_EQ(record.now, story.events[begin + i].first);
    EXPECT_EQ(ToJournal(record.event).SerializeAsString(),
              ToJournal(story.events[begin + i].second).SerializeAsString());
  }
  const auto replayed = ReplayJournal(read);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  const size_t end = begin + read.records.size();
  if (end > 0) {
    EXPECT_EQ(replayed->Digest(), digests[end - 1]);
  }
}

std::string Damage(std::string bytes, simulation::Random& luck) {
  const auto size = static_cast<int64_t>(bytes.size());
  const auto at = static_cast<size_t>(luck.Below(size));
  switch (luck.Below(5)) {
    case 0:  // a bit
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << luck.Below(8)));
      break;
    case 1:  // a run of any bytes
      for (size_t i = at; i < bytes.size() && i < at + 64; ++i) {
        bytes[i] = static_cast<char>(luck.Below(256));
      }
      break;
    case 2:  // a sector that was never written
      for (size_t i = at / 512 * 512; i < bytes.size() && i < at / 512 * 512 + 512; ++i) {
        bytes[i] = 0;
      }
      break;
    case 3: {  // a page in another's place
      const size_t from = static_cast<size_t>(luck.Below(size)) / 4096 * 4096;
      const size_t to = at / 4096 * 4096;
      bytes.replace(to, 4096, bytes.substr(from, std::min<size_t>(4096, bytes.size() - to)));
      break;
    }
    default:  // the end is gone
      bytes.resize(at);
  }
  return bytes;
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TEST_F(JournalTest, RandomDamage_IsAnErrorOrAPrefix) {
  constexpr uint64_t kSeeds = 600;
  const Story story = LongStory();
  auto journal = Journal::Create(Path("journal.db"), story.config, kOptions);
  ASSERT_TRUE(journal.ok()) << journal.status();
  const std::vector<uint64_t> digests = WriteStory(story, **journal, 4);
  // While it is written all is in the log; after the end all is in the file.
  const std::string young_file = ReadAll(Path("journal.db"));
  const std::string log = ReadAll(Path("journal.db-wal"));
  journal->reset();
  const std::string old_file = ReadAll(Path("journal.db"));
  ASSERT_GT(log.size(), old_file.size());
  int errors = 0;
  int whole = 0;
  for (uint64_t seed = 1; seed <= kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    simulation::Random luck(seed);
    const bool in_log = luck.Chance(0.4);
    const std::string damaged = Damage(in_log ? log : old_file, luck);
    for (const ReadFrom from : {ReadFrom::kStart, ReadFrom::kNewestSnapshot}) {
      const std::string path = Path("damaged.db");
      std::filesystem::remove(path + "-shm");
      std::filesystem::remove(path + "-wal");
      std::ofstream(path, std::ios::binary) << (in_log ? young_file : damaged);
      if (in_log) std::ofstream(path + "-wal", std::ios::binary) << damaged;
      const auto read = ReadJournal(path, from);
      errors += read.ok() ? 0 : 1;
      if (!read.ok()) continue;
      ExpectAPrefix(*read, story, digests);
      const size_t begin = read->snapshot ? static_cast<size_t>(read->snapshot->seq) : 0;
      whole += begin + read->records.size() == digests.size() ? 1 : 0;
    }
  }
  std::printf("seeds 1 to %llu, each read twice: %d errors, %d read to the end\n",
              static_cast<unsigned long long>(kSeeds), errors, whole);
  EXPECT_GT(errors, static_cast<int>(kSeeds / 10));
  EXPECT_GT(whole, static_cast<int>(kSeeds / 10));
  EXPECT_LT(errors + whole, static_cast<int>(2 * kSeeds)) << "no prefix was ever read";
}

TEST_F(JournalTest, AnExistingJournalIsNotContinued) {
  { ASSERT_TRUE(Journal::Create(Path("journal.db"), CoordinatorConfig(), kOptions).ok()); }
  EXPECT_EQ(Journal::Create(Path("journal.db"), CoordinatorConfig(), kOptions).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(JournalTest, MissingAndForeignFilesAreNamed) {
  EXPECT_EQ(ReadJournal(Path("none.db")).status().code(), absl::StatusCode::kNotFound);
  std::ofstream(Path("text.db")) << std::string(4096, 'x');
  EXPECT_EQ(ReadJournal(Path("text.db")).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, ANewerSchemaIsRefused) {
  { ASSERT_TRUE(Journal::Create(Path("journal.db"), CoordinatorConfig(), kOptions).ok()); }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(Path("journal.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "UPDATE header SET schema_version = 4", nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  const absl::Status status = ReadJournal(Path("journal.db")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("schema version 4, expected 3"));
}

// A coordinator that takes over, and dsrun where, plan the same memory.
TEST(JournalCodecTest, WhatMemoryIsPlannedFrom_Survives) {
  CoordinatorConfig config;
  MemoryInput& memory = config.memory.emplace();
  memory.model = {"", 2, 16, 2, 8, 30};
  memory.micro_batch_size = 1;
  memory.micro_batches = 2;
  memory.bucket_bytes = 4096;
  const auto read = [&] { return *FromJournal(ToJournal(config)).memory; };
  for (const Recompute recompute :
       {Recompute{}, Recompute{.every = 3}, Recompute{.budget_bytes = 12345}}) {
    memory.recompute = recompute;
    EXPECT_EQ(read().recompute.every, recompute.every);
    EXPECT_EQ(read().recompute.budget_bytes, recompute.budget_bytes);
  }
  for (const OptimizerForm& form : OptimizerForms()) {
    for (size_t slots = 0; slots <= form.slots.size(); ++slots) {
      memory.optimizer = {form.name, form.slots.first(slots)};
      EXPECT_EQ(read().optimizer.name, form.name);
      EXPECT_EQ(read().optimizer.slots.size(), slots) << form.name;
    }
  }
  for (const int stage : {0, 1, 3}) {
    memory.zero_stage = stage;
    EXPECT_EQ(read().zero_stage, stage);
  }
  memory.zero.prefetch = 0;
  memory.zero.sub_group_size = 77;
  EXPECT_EQ(read().zero, memory.zero);
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
