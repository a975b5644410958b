#include "launcher/journal.h"

#include <sqlite3.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "launcher/journal_codec.h"

namespace dsrun::launcher {
namespace {

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
    default:
      return absl::UnavailableError(absl::StrCat(text, "; check the folder and its disk"));
  }
}

class Statement {
 public:
  static absl::StatusOr<Statement> Prepare(sqlite3* db, const std::string& path, const char* sql) {
    sqlite3_stmt* statement = nullptr;
    const int result = sqlite3_prepare_v2(db, sql, -1, &statement, nullptr);
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

absl::StatusOr<CoordinatorConfig> ReadHeader(sqlite3* db, const std::string& path) {
  ASSIGN_OR_RETURN(Statement header,
                   Statement::Prepare(db, path, "SELECT schema_version, config FROM header"));
  if (header.Step() != SQLITE_ROW) {
    return absl::DataLossError(absl::StrCat("journal ", path, " has no header"));
  }
  if (header.Int(0) != kJournalSchemaVersion) {
    return absl::DataLossError(absl::StrCat("journal ", path, " has schema version ", header.Int(0),
                                            ", expected ", kJournalSchemaVersion,
                                            "; read it with the version that wrote it"));
  }
  proto::JournalHeader config;
  if (!config.ParseFromString(header.Blob(1))) {
    return absl::DataLossError(absl::StrCat("the header of journal ", path, " is damaged"));
  }
  return FromJournal(config);
}

absl::StatusOr<JournalRecord> ReadRecord(const Statement& row, const std::string& path) {
  JournalRecord record;
  record.seq = row.Int(0);
  record.now = absl::Nanoseconds(row.Int(1));
  record.wall = absl::FromUnixNanos(row.Int(2));
  record.digest = static_cast<uint64_t>(row.Int(3));
  proto::JournalEvent event;
  if (!event.ParseFromString(row.Blob(4))) {
    return absl::DataLossError(
        absl::StrCat("record ", record.seq, " of journal ", path, " is damaged"));
  }
  absl::StatusOr<Event> decoded = FromJournal(event);
  RETURN_IF_ERROR(decoded.status()) << "record " << record.seq << " of journal " << path;
  record.event = *std::move(decoded);
  return record;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Create(const std::string& path,
                                                         const CoordinatorConfig& config) {
  sqlite3* raw = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &raw,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Journal> journal(new Journal(raw, path));
  if (result != SQLITE_OK) return FromSqlite(raw, result, path, "cannot create");
  RETURN_IF_ERROR(journal->SetUp(config));
  return journal;
}

absl::Status Journal::SetUp(const CoordinatorConfig& config) {
  {
    ASSIGN_OR_RETURN(Statement tables,
                     Statement::Prepare(db_, path_, "SELECT count(*) FROM sqlite_master"));
    const int result = tables.Step();
    if (result != SQLITE_ROW) return FromSqlite(db_, result, path_, "cannot create");
    if (tables.Int(0) != 0) {
      return absl::AlreadyExistsError(
          absl::StrCat("journal ", path_,
                       " exists; expected a new file, because a journal belongs to one start "
                       "of a job; move it away or use another run folder"));
    }
  }
  // Without waiting for the disk until the tables stand: an empty file is worth no flush, and a
  // flush here would delay every start of a job.
  RETURN_IF_ERROR(Execute(db_, path_, "PRAGMA synchronous=OFF"));
  RETURN_IF_ERROR(Execute(db_, path_, "PRAGMA journal_mode=WAL"));
  RETURN_IF_ERROR(Execute(db_, path_, "PRAGMA synchronous=NORMAL"));
  RETURN_IF_ERROR(Execute(db_, path_,
                          "BEGIN;"
                          "CREATE TABLE header (schema_version INTEGER, config BLOB);"
                          "CREATE TABLE events (seq INTEGER PRIMARY KEY, steady_ns INTEGER,"
                          " wall_ns INTEGER, digest INTEGER, event BLOB)"));
  open_transaction_ = true;
  {
    ASSIGN_OR_RETURN(Statement header,
                     Statement::Prepare(db_, path_, "INSERT INTO header VALUES (?, ?)"));
    const std::string bytes = ToJournal(config).SerializeAsString();
    sqlite3_bind_int(header.get(), 1, kJournalSchemaVersion);
    sqlite3_bind_blob64(header.get(), 2, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    const int result = header.Step();
    if (result != SQLITE_DONE) return FromSqlite(db_, result, path_, "cannot write");
  }
  RETURN_IF_ERROR(Commit());
  const int result = sqlite3_prepare_v3(
      db_, "INSERT INTO events (steady_ns, wall_ns, digest, event) VALUES (?, ?, ?, ?)", -1,
      SQLITE_PREPARE_PERSISTENT, &insert_, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : FromSqlite(db_, result, path_, "cannot write");
}

Journal::~Journal() {
  Commit().IgnoreError();
  sqlite3_finalize(insert_);
  sqlite3_close(db_);
}

absl::Status Journal::Append(absl::Duration now, absl::Time wall, const Event& event,
                             uint64_t digest) {
  if (!open_transaction_) {
    RETURN_IF_ERROR(Execute(db_, path_, "BEGIN"));
    open_transaction_ = true;
  }
  const std::string bytes = ToJournal(event).SerializeAsString();
  sqlite3_bind_int64(insert_, 1, absl::ToInt64Nanoseconds(now));
  sqlite3_bind_int64(insert_, 2, absl::ToUnixNanos(wall));
  sqlite3_bind_int64(insert_, 3, static_cast<int64_t>(digest));
  sqlite3_bind_blob64(insert_, 4, bytes.data(), bytes.size(), SQLITE_STATIC);
  const int result = sqlite3_step(insert_);
  sqlite3_reset(insert_);
  sqlite3_clear_bindings(insert_);
  return result == SQLITE_DONE ? absl::OkStatus()
                               : FromSqlite(db_, result, path_, "cannot append to");
}

absl::Status Journal::Commit() {
  if (!open_transaction_) return absl::OkStatus();
  RETURN_IF_ERROR(Execute(db_, path_, "COMMIT"));
  open_transaction_ = false;
  return absl::OkStatus();
}

absl::StatusOr<JournalContent> ReadJournal(const std::string& path) {
  sqlite3* raw = nullptr;
  // Not read-only: a journal whose writer was killed has to be recovered from its log first.
  const int opened =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  const OwnedDb db(raw);
  if (opened == SQLITE_CANTOPEN) {
    return absl::NotFoundError(
        absl::StrCat("no journal at ", path, "; expected a journal.db of a run folder"));
  }
  if (opened != SQLITE_OK) return FromSqlite(raw, opened, path, "cannot open");
  JournalContent content;
  ASSIGN_OR_RETURN(content.config, ReadHeader(raw, path));
  ASSIGN_OR_RETURN(
      Statement rows,
      Statement::Prepare(raw, path,
                         "SELECT seq, steady_ns, wall_ns, digest, event FROM events ORDER BY seq"));
  int result = rows.Step();
  for (; result == SQLITE_ROW; result = rows.Step()) {
    ASSIGN_OR_RETURN(JournalRecord record, ReadRecord(rows, path));
    const auto expected = static_cast<int64_t>(content.records.size()) + 1;
    if (record.seq != expected) {
      return absl::DataLossError(
          absl::StrCat("journal ", path, " jumps from record ", expected - 1, " to ", record.seq));
    }
    content.records.push_back(std::move(record));
  }
  if (result != SQLITE_DONE) return FromSqlite(raw, result, path, "cannot read");
  return content;
}

absl::StatusOr<Coordinator> ReplayJournal(const JournalContent& journal) {
  Coordinator coordinator(journal.config);
  for (const JournalRecord& record : journal.records) {
    coordinator.Step(record.now, record.event);
    if (coordinator.Digest() == record.digest) continue;
    return absl::InternalError(
        absl::StrCat("record ", record.seq, " of job ", journal.config.job_id,
                     " leads to another state than when it was written: digest ",
                     absl::Hex(coordinator.Digest()), ", expected ", absl::Hex(record.digest),
                     "; this version decides differently"));
  }
  return coordinator;
}

}  // namespace dsrun::launcher
