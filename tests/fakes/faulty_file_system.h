// A file system in memory that can fail and crash on purpose. It keeps for every file what has been
// written and what has been synced, and for every folder its names and its synced names; Recover
// then shows what a real disk could show after a crash (the idea is LevelDB's fault injection
// test).
//
// Operations that change something are counted: create, append, sync, close, rename, remove, create
// folder, sync folder. Reads are not. Calls are counted apart, and reads are calls too. Threads:
// any.

#ifndef DSRUN_TESTS_FAKES_FAULTY_FILE_SYSTEM_H_
#define DSRUN_TESTS_FAKES_FAULTY_FILE_SYSTEM_H_

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/file_system.h"
#include "common/base/mutex.h"

namespace dsrun {

class FaultyFileSystem final : public FileSystem {
 public:
  // --- Test control.

  // The same files and folders; none of the planned faults.
  void BecomeCopyOf(const FaultyFileSystem& other);

  // Changing operations so far.
  int64_t operations() const;
  // The n-th changing operation from now (0: the next) fails with `status` and changes nothing.
  void FailOperation(int64_t n, absl::Status status);

  // Calls so far, of any kind.
  int64_t calls() const;
  struct Fault {
    absl::Status status;  // what the caller hears
    enum class Done {
      kNothing,
      // Of an append's bytes, a file's size, a read; the others do all their work. With an OK
      // status (for reads alone) it is a network file system that remembers an old size.
      kHalf,
      kAll,  // only the reply is lost
    };
    Done done = Done::kNothing;
  };
  // The n-th call from now (0: the next) and those after it, `count` of them.
  void FailCalls(int64_t n, int64_t count, Fault fault);

  // As if it were not mounted, or not visible yet: nobody finds the path or what is below it, and
  // it is in no list. Creating and renaming see it.
  void Hide(const std::string& path);
  void ShowAll();

  // Without it a rename with kFail is UNIMPLEMENTED, as where there are no hard links either.
  void SetExclusiveRename(bool has_it);

  // The n-th changing operation from now does half its work, and from then on everything fails.
  void CrashAtOperation(int64_t n);
  bool crashed() const;

  enum class Crash {
    kProcess,          // kill -9: all that reached the kernel is there
    kMachine,          // only what was synced is there
    kMachineKeepNames  // all names are there, of their bytes only the synced ones
  };
  void Recover(Crash crash);

  // Appends beyond this many bytes in all files together write what fits, then RESOURCE_EXHAUSTED.
  void SetCapacity(int64_t bytes);
  int64_t used_bytes() const;
  // OpenToRead and Map of `path` fail with `status`.
  void FailReads(const std::string& path, absl::Status status);

  void FlipBit(const std::string& path, int64_t byte, int bit);
  void Truncate(const std::string& path, int64_t bytes);
  void Write(const std::string& path, std::string contents);  // folders included, all synced
  bool Exists(const std::string& path) const;

  // --- FileSystem.
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateOrTruncate(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenToAppend(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenToRead(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to, IfExists if_exists) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status CreateFolder(const std::string& path) override;
  absl::Status SyncFolder(const std::string& path) override;
  absl::StatusOr<FileInfo> Stat(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;

 private:
  friend class FaultyWritableFile;
  friend class FaultyReadableFile;
  struct Inode {
    uint64_t number;
    std::string data;
    std::string synced;
  };
  using InodePtr = std::shared_ptr<Inode>;
  using Names = std::map<std::string, InodePtr>;

  // Counts a changing operation and says whether it may happen. `half`: it is where the crash is.
  absl::Status BeginLocked(bool* half) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status BeginLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What happens to the next call; counts it.
  std::optional<Fault> NextCallLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // `work(half)`, as far as the next call's fault lets it, and what the caller hears of it.
  template <typename Work>
  auto CallLocked(const Work& work) -> decltype(work(false)) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsHiddenLocked(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ReadAt(const std::string& data, int64_t offset, std::span<std::byte> into);
  absl::Status AliveLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<InodePtr> FindLocked(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<InodePtr> ReadLocked(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<InodePtr> CreateLocked(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddFolderLocked(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int64_t UsedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Append(Inode& inode, std::span<const std::byte> bytes);
  absl::Status Sync(Inode& inode);
  absl::Status Close();

  mutable Mutex mu_;
  Names names_ ABSL_GUARDED_BY(mu_);
  Names synced_names_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> folders_ ABSL_GUARDED_BY(mu_){"/"};
  std::map<std::string, absl::Status> unreadable_ ABSL_GUARDED_BY(mu_);
  std::map<int64_t, absl::Status> failures_ ABSL_GUARDED_BY(mu_);  // by operation number
  struct PlannedFault {
    int64_t begin;
    int64_t end;
    Fault fault;
  };
  std::vector<PlannedFault> faults_ ABSL_GUARDED_BY(mu_);  // by call number
  std::set<std::string> hidden_ ABSL_GUARDED_BY(mu_);
  bool exclusive_rename_ ABSL_GUARDED_BY(mu_) = true;
  int64_t calls_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<int64_t> crash_at_ ABSL_GUARDED_BY(mu_);
  bool crashed_ ABSL_GUARDED_BY(mu_) = false;
  int64_t operations_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t capacity_ ABSL_GUARDED_BY(mu_) = std::numeric_limits<int64_t>::max();
  uint64_t next_inode_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_FAKES_FAULTY_FILE_SYSTEM_H_
