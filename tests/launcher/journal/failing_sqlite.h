// FailingSqlite: a disk under SQLite that is full, or does not answer, when a test says so. It
// stands in for the default file system of SQLite in this process, for good, because a writer that
// hung may still use it after its test; what it lets pass goes to the real one.

#ifndef DSRUN_TESTS_LAUNCHER_JOURNAL_FAILING_SQLITE_H_
#define DSRUN_TESTS_LAUNCHER_JOURNAL_FAILING_SQLITE_H_

#include <sqlite3.h>

#include <list>

#include "absl/base/thread_annotations.h"
#include "common/base/mutex.h"

namespace dsrun::launcher {

class FailingSqlite {
 public:
  enum class Writes { kPass, kDiskIsFull, kFullOnce, kHang };  // once: then kPass

  // From the first call on. Before any other thread uses SQLite.
  static FailingSqlite& Installed();
  // Those that hang go on with what is set next.
  void Set(Writes writes);

 private:
  FailingSqlite();
  static int Open(sqlite3_vfs* vfs, sqlite3_filename name, sqlite3_file* file, int flags,
                  int* out_flags);
  static int Write(sqlite3_file* file, const void* bytes, int count, sqlite3_int64 offset);
  Writes Answer();

  sqlite3_vfs* const real_;
  sqlite3_vfs ours_;
  Mutex mu_;
  // One for each kind of file that was opened so far.
  struct Methods {
    sqlite3_io_methods ours;  // first, so that a file's methods lead here
    const sqlite3_io_methods* real;
  };
  std::list<Methods> methods_ ABSL_GUARDED_BY(mu_);
  CondVar changed_;
  Writes writes_ ABSL_GUARDED_BY(mu_) = Writes::kPass;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_JOURNAL_FAILING_SQLITE_H_
