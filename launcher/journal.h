// The coordinator's journal: every durable event of a job, written down before it acts. A replay
// through the same core gives the same state: that is how a coordinator comes back, and how one
// sees afterwards what it knew when it decided (tools/coordinator_replay).
//
//   ASSIGN_OR_RETURN(auto journal, Journal::Create(path, config));
//   RETURN_IF_ERROR(journal->Append(now, wall, event, coordinator.Digest()));   // cheap
//   RETURN_IF_ERROR(journal->Commit());                                         // now it is safe
//
// SQLite with a write-ahead log. Records between two Commits are one transaction (group commit):
// after a crash there is all of it or none, and a torn end of the log costs whole transactions from
// the end, never the middle. synchronous=NORMAL: a commit survives the death of this process, which
// is what a restarted coordinator needs; a power cut of this machine may take the last ones with
// it, together with the coordinator they were for. Every record carries the digest of the core's
// state after it, so a replay that goes another way is noticed at the record where it does.
//
// Not thread-safe: one writer thread. Readers may come at any time, also of another process.

#ifndef DSRUN_LAUNCHER_JOURNAL_H_
#define DSRUN_LAUNCHER_JOURNAL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/events.h"

struct sqlite3;
struct sqlite3_stmt;

namespace dsrun::launcher {

// Grows when a record of this version could be misread by an older reader.
inline constexpr int kJournalSchemaVersion = 1;

class Journal {
 public:
  // A new journal; the folder exists. ALREADY_EXISTS when there is a file: a journal belongs to one
  // start of a job and is never continued by another.
  static absl::StatusOr<std::unique_ptr<Journal>> Create(const std::string& path,
                                                         const CoordinatorConfig& config);
  // Commits what is left, as well as it can.
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // `now`: the steady time given to Step; `wall`: for people; `digest`: the core's, after Step.
  // REQUIRES: IsDurable(event). RESOURCE_EXHAUSTED when the disk is full, UNAVAILABLE for other
  // trouble with it.
  absl::Status Append(absl::Duration now, absl::Time wall, const Event& event, uint64_t digest);
  // Makes all that was appended durable. Nothing to do: OK.
  absl::Status Commit();

 private:
  Journal(sqlite3* db, std::string path) : db_(db), path_(std::move(path)) {}
  absl::Status SetUp(const CoordinatorConfig& config);

  sqlite3* db_;
  const std::string path_;
  sqlite3_stmt* insert_ = nullptr;
  bool open_transaction_ = false;
};

struct JournalRecord {
  int64_t seq = 0;  // from 1, without gaps
  absl::Duration now;
  absl::Time wall;
  uint64_t digest = 0;
  Event event;
};

struct JournalContent {
  CoordinatorConfig config;
  std::vector<JournalRecord> records;
};

// Everything that was committed. NOT_FOUND, or DATA_LOSS when it is no journal, of a newer schema,
// or damaged.
absl::StatusOr<JournalContent> ReadJournal(const std::string& path);

// The core after the last record. INTERNAL, with the record's number, when a digest differs: the
// core of this version decides another way than the one that wrote the journal.
absl::StatusOr<Coordinator> ReplayJournal(const JournalContent& journal);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_JOURNAL_H_
