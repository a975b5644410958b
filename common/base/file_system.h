// The one door to files and folders. Paths are bytes, given on as they are. Every error names the
// path, what was tried and the system's own words.
//
// What survives what: bytes that Append has returned for survive the death of this process; they
// survive the death of the machine only after Sync of the file, and a new, renamed or removed name
// only after SyncFolder of its folder. WriteFileAtomically does all of it.
//
// Threads: a FileSystem may be used from any; each file object from one at a time.
// Errors (all methods): NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED: no space
// (ENOSPC, EDQUOT, EFBIG); FAILED_PRECONDITION: a folder where a file was expected
// or the reverse; UNAVAILABLE: anything else, the medium (EIO), no
// descriptors left.

#ifndef DSRUN_COMMON_BASE_FILE_SYSTEM_H_
#define DSRUN_COMMON_BASE_FILE_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun {

// Closed by its destructor at the latest, without an error report: call Close where it matters.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // All of `bytes`, unbuffered. After an error an unknown part has been written.
  virtual absl::Status Append(std::span<const std::byte> bytes) = 0;
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Fills `into` from `offset` on. Errors: OUT_OF_RANGE: the file ends before.
  virtual absl::Status ReadAt(int64_t offset, std::span<std::byte> into) = 0;
};

// A whole file in memory. The kernel signals SIGBUS to a reader of pages that somebody has cut off
// the file meanwhile: map only what is not written any more.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual std::span<const std::byte> bytes() const = 0;
};

enum class FileKind { kRegular, kFolder, kOther };

struct FileInfo {
  FileKind kind = FileKind::kOther;
  int64_t bytes = 0;
  // Together the identity of the file behind a path, on this machine.
  uint64_t device = 0;
  uint64_t inode = 0;
};

class FileSystem {
 public:
  enum class IfExists { kReplace, kFail };

  virtual ~FileSystem() = default;
  // The real one; never destroyed.
  static FileSystem& Real();

  // ALREADY_EXISTS if there is such a name, whatever it is (O_CREAT | O_EXCL).
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(
      const std::string& path) = 0;
  // Empties what is there.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> CreateOrTruncate(
      const std::string& path) = 0;
  // At the end of what is there; created if it is not.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenToAppend(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenToRead(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) = 0;

  // In one step: a reader sees the old name, the new one, nothing between. With kFail, nothing that
  // is there is ever replaced (ALREADY_EXISTS). A reply that a network file system has lost (EEXIST
  // or ENOENT of a request that was sent twice) is no error: the file behind `to` tells. After any
  // other error than UNIMPLEMENTED it may have been done all the same; whoever cares looks.
  // Errors: UNIMPLEMENTED: kFail, where there is neither an exclusive rename nor hard links.
  virtual absl::Status Rename(const std::string& from, const std::string& to,
                              IfExists if_exists) = 0;
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  // With all missing parents. OK if it is there.
  virtual absl::Status CreateFolder(const std::string& path) = 0;
  virtual absl::Status SyncFolder(const std::string& path) = 0;

  // Symbolic links are followed.
  virtual absl::StatusOr<FileInfo> Stat(const std::string& path) = 0;
  // Names, without "." and "..", sorted bytewise.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& path) = 0;
};

// FileSystem::CreateFolder, and every new name is on the disk. OK if it is there. Errors: those of
// FileSystem; a folder that was made then stays.
absl::Status CreateFolderAndSync(FileSystem& fs, const std::string& path);

absl::StatusOr<std::string> ReadFile(FileSystem& fs, const std::string& path);

// Under `path`, emptied before, and synced; not in one step, and not the name in its folder.
absl::Status WriteAndSync(FileSystem& fs, const std::string& path, const std::string& contents);

// `contents` under `path`, or what was there before, whenever the machine dies. Written to
// `temporary` (in the same folder) first; that is removed after a failure. A rename whose reply was
// lost counts as done. After an error of the folder's sync `contents` are there, and may not last.
absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path,
                                 const std::string& temporary, const std::string& contents,
                                 FileSystem::IfExists if_exists);

// 16 hexadecimal digits, drawn at random: a file with them in its name is nobody else's.
std::string RandomDigits();

std::string JoinPath(const std::string& folder, const std::string& name);
// "." if there is none.
std::string FolderOf(const std::string& path);

// A failed system call as a Status: "cannot WHAT PATH: No space left on device".
absl::Status ErrnoStatus(int error, const std::string& what, const std::string& path);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_FILE_SYSTEM_H_
