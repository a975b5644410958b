#include "launcher/shell/journal.h"

#include <sqlite3.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/file_system.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "launcher/shell/journal_codec.h"

namespace dsrun::launcher {
namespace {

constexpr int kReaderWaitsMs = 5000;

// SQLite's result as a Status: what was done, on which file, what the library says.
absl::Status FromSqlite(sqlite3* db, int result, const std::string& path, const char* what) {
  const std::string text =
      absl::StrCat(what, " journal ", path, ": ", db != nullptr ? sqlite3_errmsg(db) : "no memory",
                   " (SQLite ", result, ")");
  switch (result & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(text, "; make room on that disk"));
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat(text, "; restore the file from a copy"));
    case SQLITE_IOERR:  // SQLite says no more of a file that may not grow
      return absl::UnavailableError(
          absl::StrCat(text, "; check the folder and its disk", BecauseOfLimit(EFBIG)));
    default:
      return absl::UnavailableError(absl::StrCat(text, "; check the folder and its disk"));
  }
}

class Statement {
 public:
  static absl::StatusOr<Statement> Prepare(sqlite3* db, const std::string& path, const char* sql) {
    sqlite3_stmt* statement = nullptr;
    const int result = sqlite3_prepare_v2(db, sql, -1, &statement, nullptr);
    if (result == SQLITE_ERROR) {  // the statements are right, so the tables are not
      return absl::DataLossError(absl::StrCat("no journal of this version at ", path, ": ",
                                              sqlite3_errmsg(db),
                                              "; restore the file from a copy"));
    }
    if (result != SQLITE_OK) return FromSqlite(db, result, path, "cannot read");
    return Statement(statement);
  }
  Statement(Statement&& other) : statement_(std::exchange(other.statement_, nullptr)) {}
  Statement& operator=(Statement&&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  int Step() { return sqlite3_step(statement_); }
  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string Blob(int column) const {
    const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    const int size = sqlite3_column_bytes(statement_, column);
    return data == nullptr ? std::string() : std::string(data, static_cast<size_t>(size));
  }
  absl::Time Time(int column) const { return absl::FromUnixNanos(Int(column)); }
  uint64_t Digest(int column) const { return static_cast<uint64_t>(Int(column)); }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  sqlite3_stmt* get() const { return statement_; }

 private:
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  sqlite3_stmt* statement_;
};

absl::Status Execute(sqlite3* db, const std::string& path, const char* sql) {
  const int result = sqlite3_exec(db, sql, nullptr, nullptr, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : FromSqlite(db, result, path, "cannot write");
}

struct CloseDb {
  void operator()(sqlite3* db) const { sqlite3_close(db); }
};
using OwnedDb = std::unique_ptr<sqlite3, CloseDb>;

// Of a row: its numbers, then its bytes.
int64_t Checksum(std::initializer_list<int64_t> numbers, std::string_view bytes) {
  const std::span<const int64_t> all(numbers.begin(), numbers.size());
  const uint32_t crc = ExtendCrc32c(0, std::as_bytes(all));
  return ExtendCrc32c(crc, std::as_bytes(std::span(bytes.data(), bytes.size())));
}

absl::Status Damaged(const std::string& what, const std::string& path) {
  return absl::DataLossError(absl::StrCat(what, " of journal ", path,
                                          " is damaged: its checksum does not fit; restore the "
                                          "file from a copy"));
}

absl::StatusOr<CoordinatorConfig> ReadHeader(sqlite3* db, const std::string& path) {
  // Alone, because another version's header may have other columns.
  ASSIGN_OR_RETURN(Statement version,
                   Statement::Prepare(db, path, "SELECT schema_version FROM header"));
  const int result = version.Step();
  if (result == SQLITE_DONE) {
    return absl::DataLossError(
        absl::StrCat("journal ", path, " has no header; restore the file from a copy"));
  }
  if (result != SQLITE_ROW) return FromSqlite(db, result, path, "cannot read");
  if (version.Int(0) != kJournalSchemaVersion) {
    return absl::DataLossError(absl::StrCat("journal ", path, " has schema version ",
                                            version.Int(0), ", expected ", kJournalSchemaVersion,
                                            "; read it with the version that wrote it"));
  }
  ASSIGN_OR_RETURN(Statement header,
                   Statement::Prepare(db, path, "SELECT checksum, config FROM header"));
  if (const int read = header.Step(); read != SQLITE_ROW) {
    return FromSqlite(db, read, path, "cannot read");
  }
  proto::JournalHeader config;
  if (header.Int(0) != Checksum({kJournalSchemaVersion}, header.Blob(1)) ||
      !config.ParseFromString(header.Blob(1))) {
    return Damaged("the header", path);
  }
  return FromJournal(config);
}

// SELECT seq, steady_ns, wall_ns, digest, checksum, event
absl::StatusOr<JournalRecord> ReadRecord(const Statement& row, const std::string& path) {
  JournalRecord record;
  record.seq = row.Int(0);
  record.now = absl::Nanoseconds(row.Int(1));
  record.wall = row.Time(2);
  if (!row.IsNull(3)) record.digest = row.Digest(3);
  const std::string bytes = row.Blob(5);
  proto::JournalEvent event;
  if (row.Int(4) != Checksum({row.Int(0), row.Int(1), row.Int(2), row.Int(3)}, bytes) ||
      !event.ParseFromString(bytes)) {
    return Damaged(absl::StrCat("record ", record.seq), path);
  }
  absl::StatusOr<Event> decoded = FromJournal(event);
  RETURN_IF_ERROR(decoded.status()) << "record " << record.seq << " of journal " << path;
  record.event = *std::move(decoded);
  return record;
}

// SELECT snapshots.seq, digest, checksum, state, then the record's own digest, steady_ns, wall_ns.
absl::StatusOr<JournalSnapshot> ReadSnapshot(const Statement& row, const std::string& path,
                                             const CoordinatorConfig& config) {
  const int64_t seq = row.Int(0);
  const std::string what = absl::StrCat("the snapshot after record ", seq);
  const std::string bytes = row.Blob(3);
  if (row.Int(2) != Checksum({seq, row.Int(1)}, bytes)) return Damaged(what, path);
  absl::StatusOr<Coordinator> core = Coordinator::Restore(config, bytes);
  RETURN_IF_ERROR(core.status()) << what << " of journal " << path;
  if (core->Digest() != row.Digest(1) || core->Digest() != row.Digest(4)) {
    return absl::DataLossError(absl::StrCat(
        what, " of journal ", path, " has digest ", absl::Hex(core->Digest()), ", expected ",
        absl::Hex(row.Digest(4)), " as its record; begin at the start of the journal"));
  }
  return JournalSnapshot{seq, absl::Nanoseconds(row.Int(5)), row.Time(6), *std::move(core)};
}

// The newest that is good into `content`.
absl::Status FindSnapshot(sqlite3* db, const std::string& path, JournalContent& content) {
  ASSIGN_OR_RETURN(
      Statement rows,
      Statement::Prepare(db, path,
                         "SELECT snapshots.seq, snapshots.digest, snapshots.checksum, state,"
                         " events.digest, steady_ns, wall_ns"
                         " FROM snapshots JOIN events USING (seq) ORDER BY snapshots.seq DESC"));
  int result = rows.Step();
  for (; result == SQLITE_ROW; result = rows.Step()) {
    absl::StatusOr<JournalSnapshot> snapshot = ReadSnapshot(rows, path, content.config);
    if (snapshot.ok()) {
      content.snapshot.emplace(*std::move(snapshot));
      return absl::OkStatus();
    }
    if (!absl::IsDataLoss(snapshot.status())) return snapshot.status();
    content.skipped.emplace_back(snapshot.status().message());
  }
  return result == SQLITE_DONE ? absl::OkStatus() : FromSqlite(db, result, path, "cannot read");
}

absl::Status Jumps(sqlite3* db, const std::string& path, int64_t last, int64_t next) {
  ASSIGN_OR_RETURN(
      Statement gap,
      Statement::Prepare(db, path, "SELECT checksum FROM gaps WHERE first = ? AND last = ?"));
  sqlite3_bind_int64(gap.get(), 1, last + 1);
  sqlite3_bind_int64(gap.get(), 2, next - 1);
  if (gap.Step() == SQLITE_ROW && gap.Int(0) == Checksum({last + 1, next - 1}, "")) {
    return absl::FailedPreconditionError(
        absl::StrCat("records ", last + 1, " to ", next - 1, " of journal ", path,
                     " were never written, because its disk had no room for too long; a snapshot "
                     "stands behind them: begin there (coordinator_replay --from-snapshot)"));
  }
  return absl::DataLossError(absl::StrCat("journal ", path, " jumps from record ", last, " to ",
                                          next, "; restore the file from a copy"));
}

// Those after `last`, which must go on from it without a gap.
absl::Status ReadRecords(sqlite3* db, const std::string& path, int64_t last,
                         std::vector<JournalRecord>& records) {
  ASSIGN_OR_RETURN(Statement rows,
                   Statement::Prepare(db, path,
                                      "SELECT seq, steady_ns, wall_ns, digest, checksum, event"
                                      " FROM events WHERE seq > ? ORDER BY seq"));
  sqlite3_bind_int64(rows.get(), 1, last);
  int result = rows.Step();
  for (; result == SQLITE_ROW; result = rows.Step()) {
    ASSIGN_OR_RETURN(JournalRecord record, ReadRecord(rows, path));
    if (record.seq != last + 1) return Jumps(db, path, last, record.seq);
    last = record.seq;
    records.push_back(std::move(record));
  }
  return result == SQLITE_DONE ? absl::OkStatus() : FromSqlite(db, result, path, "cannot read");
}

absl::Status AlreadyThere(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat("journal ", path,
                   " exists; expected a new file, because a journal belongs to one start "
                   "of a job; move it away or use another run folder"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Create(const std::string& path,
                                                         const CoordinatorConfig& config,
                                                         const Options& options) {
  // Exclusively: of two jobs that want it at once, one gets it.
  if (absl::Status made = FileSystem::Real().CreateExclusive(path).status(); !made.ok()) {
    return absl::IsAlreadyExists(made) ? AlreadyThere(path) : Annotate(made, "journal");
  }
  sqlite3* raw = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Journal> journal(new Journal(raw, path, options));
  if (result != SQLITE_OK) return FromSqlite(raw, result, path, "cannot create");
  if (absl::Status failed = journal->SetUp(config); !failed.ok()) {
    // It was made above, so it is ours: the folder can be used again when the disk has room.
    journal.reset();
    FileSystem::Real().RemoveFile(path).IgnoreError();
    return failed;
  }
  return journal;
}

absl::Status Journal::SetUp(const CoordinatorConfig& config) {
  // Without waiting for the disk until the tables stand: an empty file is worth no flush, and a
  // flush here would delay every start of a job.
  RETURN_IF_ERROR(Execute(db_, path_, "PRAGMA synchronous=OFF"));
  RETURN_IF_ERROR(Execute(db_, path_, "PRAGMA journal_mode=WAL"));
  RETURN_IF_ERROR(Execute(db_, path_, "PRAGMA synchronous=NORMAL"));
  RETURN_IF_ERROR(Execute(db_, path_, "BEGIN"));
  RETURN_IF_ERROR(Execute(db_, path_,
                          "CREATE TABLE header (schema_version INTEGER, checksum INTEGER,"
                          " config BLOB);"
                          "CREATE TABLE events (seq INTEGER PRIMARY KEY, steady_ns INTEGER,"
                          " wall_ns INTEGER, digest INTEGER, checksum INTEGER, event BLOB);"
                          "CREATE TABLE snapshots (seq INTEGER PRIMARY KEY, digest INTEGER,"
                          " checksum INTEGER, state BLOB);"
                          "CREATE TABLE gaps (first INTEGER PRIMARY KEY, last INTEGER,"
                          " checksum INTEGER)"));
  {
    ASSIGN_OR_RETURN(Statement header,
                     Statement::Prepare(db_, path_, "INSERT INTO header VALUES (?, ?, ?)"));
    const std::string bytes = ToJournal(config).SerializeAsString();
    sqlite3_bind_int(header.get(), 1, kJournalSchemaVersion);
    sqlite3_bind_int64(header.get(), 2, Checksum({kJournalSchemaVersion}, bytes));
    sqlite3_bind_blob64(header.get(), 3, bytes.data(), bytes.size(), SQLITE_STATIC);
    const int result = header.Step();
    if (result != SQLITE_DONE) return FromSqlite(db_, result, path_, "cannot write");
  }
  RETURN_IF_ERROR(Execute(db_, path_, "COMMIT"));
  const int result = sqlite3_prepare_v3(db_, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", -1,
                                        SQLITE_PREPARE_PERSISTENT, &insert_, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : FromSqlite(db_, result, path_, "cannot write");
}

Journal::~Journal() {
  sqlite3_finalize(insert_);
  sqlite3_close(db_);
}

// ---- Rows

JournalRow JournalRows::Next(absl::Duration now, absl::Time wall, const Event& event,
                             const Coordinator& core, bool with_snapshot) {
  // Of a large state as much is written as of its records, on the average.
  constexpr size_t kThingsARecord = 32;
  JournalRow row{.seq = ++last_seq_,
                 .now = now,
                 .wall = wall,
                 .digest = std::nullopt,
                 .event = ToJournal(event).SerializeAsString(),
                 .snapshot = ""};
  const auto every = static_cast<size_t>(std::max(options_.records_per_snapshot, 0));
  ++since_snapshot_;
  const bool due = every > 0 && since_snapshot_ >= std::max(every, core.Size() / kThingsARecord);
  if (due || with_snapshot) {
    row.snapshot = core.Snapshot();
    since_snapshot_ = 0;
  }
  if (digests_.Due(core) || !row.snapshot.empty()) row.digest = core.Digest();
  return row;
}

absl::Status Journal::Write(std::span<const JournalRow> rows) {
  absl::Status written = Execute(db_, path_, "BEGIN");
  if (written.ok()) written = Insert(rows);
  if (written.ok()) written = Execute(db_, path_, "COMMIT");
  if (written.ok()) {
    last_seq_ = rows.back().seq;
    return written;
  }
  // Some errors have ended the transaction already, others have not.
  if (sqlite3_get_autocommit(db_) == 0) Execute(db_, path_, "ROLLBACK").IgnoreError();
  return written;
}

absl::Status Journal::Insert(std::span<const JournalRow> rows) {
  int64_t last = last_seq_;
  for (const JournalRow& row : rows) {
    if (row.seq != last + 1) {
      RETURN_IF_ERROR(InsertGap(last + 1, row.seq - 1));
    }
    RETURN_IF_ERROR(InsertRecord(row));
    if (!row.snapshot.empty()) {
      RETURN_IF_ERROR(InsertSnapshot(row));
    }
    last = row.seq;
  }
  return absl::OkStatus();
}

absl::Status Journal::InsertGap(int64_t first, int64_t last) {
  ASSIGN_OR_RETURN(Statement insert,
                   Statement::Prepare(db_, path_, "INSERT INTO gaps VALUES (?, ?, ?)"));
  sqlite3_bind_int64(insert.get(), 1, first);
  sqlite3_bind_int64(insert.get(), 2, last);
  sqlite3_bind_int64(insert.get(), 3, Checksum({first, last}, ""));
  const int result = insert.Step();
  return result == SQLITE_DONE ? absl::OkStatus()
                               : FromSqlite(db_, result, path_, "cannot append to");
}

absl::Status Journal::InsertRecord(const JournalRow& row) {
  // A digest that was not taken counts as 0 in the checksum.
  const int64_t numbers[] = {row.seq, absl::ToInt64Nanoseconds(row.now),
                             absl::ToUnixNanos(row.wall),
                             static_cast<int64_t>(row.digest.value_or(0))};
  int column = 0;
  for (const int64_t number : numbers) sqlite3_bind_int64(insert_, ++column, number);
  if (!row.digest) sqlite3_bind_null(insert_, column);
  sqlite3_bind_int64(insert_, ++column,
                     Checksum({numbers[0], numbers[1], numbers[2], numbers[3]}, row.event));
  sqlite3_bind_blob64(insert_, ++column, row.event.data(), row.event.size(), SQLITE_STATIC);
  const int result = sqlite3_step(insert_);
  const absl::Status status =
      result == SQLITE_DONE ? absl::OkStatus() : FromSqlite(db_, result, path_, "cannot append to");
  sqlite3_reset(insert_);
  sqlite3_clear_bindings(insert_);
  return status;
}

absl::Status Journal::InsertSnapshot(const JournalRow& row) {
  ASSIGN_OR_RETURN(Statement insert,
                   Statement::Prepare(db_, path_, "INSERT INTO snapshots VALUES (?, ?, ?, ?)"));
  const auto digest = static_cast<int64_t>(*row.digest);
  sqlite3_bind_int64(insert.get(), 1, row.seq);
  sqlite3_bind_int64(insert.get(), 2, digest);
  sqlite3_bind_int64(insert.get(), 3, Checksum({row.seq, digest}, row.snapshot));
  sqlite3_bind_blob64(insert.get(), 4, row.snapshot.data(), row.snapshot.size(), SQLITE_STATIC);
  int result = insert.Step();
  if (result != SQLITE_DONE) return FromSqlite(db_, result, path_, "cannot append to");
  ASSIGN_OR_RETURN(Statement erase,
                   Statement::Prepare(db_, path_,
                                      "DELETE FROM snapshots WHERE seq NOT IN"
                                      " (SELECT seq FROM snapshots ORDER BY seq DESC LIMIT ?)"));
  sqlite3_bind_int(erase.get(), 1, options_.snapshots_kept);
  result = erase.Step();
  return result == SQLITE_DONE ? absl::OkStatus()
                               : FromSqlite(db_, result, path_, "cannot append to");
}

absl::StatusOr<JournalContent> ReadJournal(const std::string& path, ReadFrom from,
                                           IfBehind if_behind) {
  if (if_behind == IfBehind::kRefuse && FileSystem::Real().Stat(BehindMarkOf(path)).ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "journal ", path, " is behind its job, as ", BehindMarkOf(path),
        " says: its disk was full or did not answer, and what happened last is not in it; do not "
        "go on from it. To see what is there: coordinator_replay --even-behind"));
  }
  sqlite3* raw = nullptr;
  // Not read-only: a journal whose writer was killed has to be recovered from its log first.
  const int opened =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  const OwnedDb db(raw);
  if (opened == SQLITE_CANTOPEN && sqlite3_system_errno(raw) == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat("no journal at ", path, "; expected a journal.db of a run folder"));
  }
  if (opened != SQLITE_OK) return FromSqlite(raw, opened, path, "cannot open");
  // Whoever opens or closes it holds it alone for a moment.
  sqlite3_busy_timeout(raw, kReaderWaitsMs);
  // One transaction, so that snapshot and records are of one moment while somebody writes.
  RETURN_IF_ERROR(Execute(raw, path, "BEGIN"));
  JournalContent content;
  ASSIGN_OR_RETURN(content.config, ReadHeader(raw, path));
  if (from == ReadFrom::kNewestSnapshot) {
    RETURN_IF_ERROR(FindSnapshot(raw, path, content));
  }
  const int64_t last = content.snapshot ? content.snapshot->seq : 0;
  RETURN_IF_ERROR(ReadRecords(raw, path, last, content.records));
  return content;
}

Coordinator CoreAtTheBeginning(const JournalContent& journal) {
  return journal.snapshot ? journal.snapshot->core : Coordinator(journal.config);
}

absl::StatusOr<Coordinator> ReplayJournal(const JournalContent& journal) {
  Coordinator coordinator = CoreAtTheBeginning(journal);
  for (const JournalRecord& record : journal.records) {
    coordinator.Step(record.now, record.event);
    if (!record.digest || coordinator.Digest() == *record.digest) continue;
    return absl::InternalError(
        absl::StrCat("record ", record.seq, " of job ", journal.config.job_id,
                     " leads to another state than when it was written: digest ",
                     absl::Hex(coordinator.Digest()), ", expected ", absl::Hex(*record.digest),
                     "; this version decides differently"));
  }
  return coordinator;
}

}  // namespace dsrun::launcher
