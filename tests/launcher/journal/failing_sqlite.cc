#include "tests/launcher/journal/failing_sqlite.h"

#include <utility>

namespace dsrun::launcher {

FailingSqlite& FailingSqlite::Installed() {
  static FailingSqlite* const installed = new FailingSqlite;
  return *installed;
}

FailingSqlite::FailingSqlite() : real_(sqlite3_vfs_find(nullptr)), ours_(*real_) {
  ours_.zName = "failing";
  ours_.pNext = nullptr;
  ours_.xOpen = &Open;
  sqlite3_vfs_register(&ours_, /*makeDflt=*/1);
}

int FailingSqlite::Open(sqlite3_vfs* vfs, sqlite3_filename name, sqlite3_file* file, int flags,
                        int* out_flags) {
  FailingSqlite& installed = Installed();
  const int result = installed.real_->xOpen(vfs, name, file, flags, out_flags);
  if (result != SQLITE_OK || file->pMethods == nullptr) return result;
  MutexLock lock(installed.mu_);
  for (Methods& known : installed.methods_) {
    if (known.real != file->pMethods) continue;
    file->pMethods = &known.ours;
    return result;
  }
  Methods& made = installed.methods_.emplace_back(Methods{*file->pMethods, file->pMethods});
  made.ours.xWrite = &Write;
  file->pMethods = &made.ours;
  return result;
}

int FailingSqlite::Write(sqlite3_file* file, const void* bytes, int count, sqlite3_int64 offset) {
  if (Installed().Answer() != Writes::kPass) return SQLITE_FULL;
  const sqlite3_io_methods* const real = reinterpret_cast<const Methods*>(file->pMethods)->real;
  return real->xWrite(file, bytes, count, offset);
}

FailingSqlite::Writes FailingSqlite::Answer() {
  MutexLock lock(mu_);
  while (writes_ == Writes::kHang) changed_.Wait(mu_);
  return writes_ == Writes::kFullOnce ? std::exchange(writes_, Writes::kPass) : writes_;
}

void FailingSqlite::Set(Writes writes) {
  MutexLock lock(mu_);
  writes_ = writes;
  changed_.NotifyAll();
}

}  // namespace dsrun::launcher
