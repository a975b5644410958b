// The coordinator's journal: every durable event of a job, written down before it acts. A replay
// through the same core gives the same state: that is how a coordinator comes back, and how one
// sees afterwards what it knew when it decided (tools/coordinator_replay).
//
//   ASSIGN_OR_RETURN(auto journal, Journal::Create(path, config, {}));
//   waiting.push_back(rows.Next(now, wall, event, coordinator));   // cheap
//   RETURN_IF_ERROR(journal->Write(waiting));                      // now it is safe
//
// SQLite with a write-ahead log. What one Write gets is one transaction (group commit): after a
// crash there is all of it or none, and a torn end of the log costs whole transactions from
// the end, never the middle. synchronous=NORMAL: a commit survives the death of this process, which
// is what a restarted coordinator needs; a power cut of this machine may take the last ones with
// it, together with the coordinator they were for. Records carry the digest of the core's state
// after them, so a replay that goes another way is noticed at the record where it does; in a large
// job, at the next that has one (core_sampling.h). Every row carries a checksum of all that is in
// it, so damage is told from what was written.
//
// Every so many records the core's whole state is written beside them (a snapshot), in the
// transaction of the record that it follows: a reader may begin there instead of at the first
// record. A damaged snapshot costs only the time to replay from the one before it. A few are kept,
// because each holds the whole story of the job. The records are all kept: they are what happened.
// Records that could not be written, because the disk was full for longer than memory lasted, are a
// gap: it is written down as such, and a snapshot stands at its end.
//
// While a job runs and its journal has fallen behind (journal_keeper.h), a file beside it says so.
// Such a journal is a correct prefix of what happened, which is the worst there is to go on from: a
// reader is refused it, unless it says that it knows.
//
// Not thread-safe: one writer thread. Readers may come at any time, also of another process.

#ifndef DSRUN_LAUNCHER_SHELL_JOURNAL_H_
#define DSRUN_LAUNCHER_SHELL_JOURNAL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/core_sampling.h"
#include "launcher/coordinator/events.h"

struct sqlite3;
struct sqlite3_stmt;

namespace dsrun::launcher {

// Grows when a journal of this version could be misread by an older reader, or the other way round.
// 2: checksums and snapshots. Fields that went from string to bytes left it as it was: the records
// are the same, and a reader from before that refuses text that is not UTF-8, and misreads nothing.
// 3: records without a digest, and gaps.
inline constexpr int kJournalSchemaVersion = 3;

// Beside the journal at `path`: there while it is behind.
inline std::string BehindMarkOf(const std::string& path) { return path + ".behind"; }

// A record on its way to the disk.
struct JournalRow {
  int64_t seq = 0;
  absl::Duration now;
  absl::Time wall;
  std::optional<uint64_t> digest;
  std::string event;
  std::string snapshot;  // of the core after it; empty: none
  size_t bytes() const { return sizeof(JournalRow) + event.size() + snapshot.size(); }
};

struct JournalOptions {
  // A replay of so many records takes a few milliseconds. 0: no snapshots. In a large job, whose
  // state is large, more records come between two.
  int records_per_snapshot = 256;
  // One to begin with, and others for when that one is damaged. At least 1.
  int snapshots_kept = 3;
};

// Makes rows of events, numbers them, and decides which have a digest and a snapshot. Copyable; not
// thread-safe.
class JournalRows {
 public:
  explicit JournalRows(const JournalOptions& options) : options_(options) {}
  // `now`: the steady time given to Step; `wall`: for people; `core`: after Step. `with_snapshot`:
  // in any case. REQUIRES: IsDurable(event).
  JournalRow Next(absl::Duration now, absl::Time wall, const Event& event, const Coordinator& core,
                  bool with_snapshot = false);

 private:
  JournalOptions options_;
  CoreSampling digests_;
  int64_t last_seq_ = 0;
  size_t since_snapshot_ = 0;
};

class Journal {
 public:
  using Options = JournalOptions;

  // A new journal; the folder exists. ALREADY_EXISTS when there is a file: a journal belongs to one
  // start of a job and is never continued by another.
  static absl::StatusOr<std::unique_ptr<Journal>> Create(const std::string& path,
                                                         const CoordinatorConfig& config,
                                                         const Options& options);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // All rows durable, or none: then the caller may try again. RESOURCE_EXHAUSTED when the disk is
  // full, UNAVAILABLE for other trouble with it. REQUIRES: at least one row; ascending; where
  // numbers are left out, the row behind them has a snapshot and a digest.
  absl::Status Write(std::span<const JournalRow> rows);

 private:
  Journal(sqlite3* db, std::string path, const Options& options)
      : db_(db), path_(std::move(path)), options_(options) {}
  absl::Status SetUp(const CoordinatorConfig& config);
  absl::Status Insert(std::span<const JournalRow> rows);
  absl::Status InsertGap(int64_t first, int64_t last);
  absl::Status InsertRecord(const JournalRow& row);
  absl::Status InsertSnapshot(const JournalRow& row);

  sqlite3* db_;
  const std::string path_;
  const Options options_;
  sqlite3_stmt* insert_ = nullptr;
  int64_t last_seq_ = 0;  // that is durable
};

struct JournalRecord {
  int64_t seq = 0;  // from 1, without gaps
  absl::Duration now;
  absl::Time wall;
  std::optional<uint64_t> digest;  // of the core after it
  Event event;
};

// The core as it was after a record.
struct JournalSnapshot {
  int64_t seq = 0;  // of that record
  absl::Duration now;
  absl::Time wall;
  Coordinator core;
};

struct JournalContent {
  CoordinatorConfig config;
  std::optional<JournalSnapshot> snapshot;  // where the records go on from; absent: from nothing
  std::vector<JournalRecord> records;
  std::vector<std::string> skipped;  // snapshots that are damaged, newest first: which, and how
};

enum class ReadFrom {
  kStart,           // all records; snapshots are not looked at
  kNewestSnapshot,  // the newest that is good, and the records after it; none: all records
};

// Of a journal that has fallen behind its job.
enum class IfBehind { kRefuse, kRead };

// What was committed. Errors: NOT_FOUND. DATA_LOSS: it is no journal, of another schema version, or
// damaged in a record that is wanted. FAILED_PRECONDITION: it is behind; or kNewestSnapshot, and
// the newest whole snapshot has another schema version: kStart does without; or kStart, and there
// is a gap: kNewestSnapshot does without.
absl::StatusOr<JournalContent> ReadJournal(const std::string& path,
                                           ReadFrom from = ReadFrom::kStart,
                                           IfBehind if_behind = IfBehind::kRefuse);

// The core that the records begin with.
Coordinator CoreAtTheBeginning(const JournalContent& journal);

// The core after the last record. INTERNAL, with the record's number, when a digest differs: the
// core of this version decides another way than the one that wrote the journal.
absl::StatusOr<Coordinator> ReplayJournal(const JournalContent& journal);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_JOURNAL_H_
