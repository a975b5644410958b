// The real file system for a process that stops itself on the way: before the n-th operation that
// changes something, `pause` is called; in an append, after the first half of its bytes. With
// raise(SIGSTOP) as `pause` a test has a writer that is stopped at any moment it likes, and woken
// when it likes.
//
// Counted as FaultyFileSystem counts: create, append, sync, close, rename, remove, create folder,
// sync folder. Reads are not. Threads: one.

#ifndef DSRUN_TESTS_FAKES_STOPPING_FILE_SYSTEM_H_
#define DSRUN_TESTS_FAKES_STOPPING_FILE_SYSTEM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/file_system.h"

namespace dsrun {

class StoppingFileSystem final : public FileSystem {
 public:
  // --- Test control. `at` counts from 0; negative: never.
  StoppingFileSystem(FileSystem& real, int64_t at, std::function<void()> pause)
      : real_(real), at_(at), pause_(std::move(pause)) {}
  int64_t operations() const { return operations_; }

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
  friend class StoppingWritableFile;
  absl::StatusOr<std::unique_ptr<WritableFile>> Watched(
      absl::StatusOr<std::unique_ptr<WritableFile>> file);
  bool IsNext() { return operations_++ == at_; }
  void Begin() {
    if (IsNext()) pause_();
  }

  FileSystem& real_;
  const int64_t at_;
  const std::function<void()> pause_;
  std::atomic<int64_t> operations_ = 0;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_FAKES_STOPPING_FILE_SYSTEM_H_
