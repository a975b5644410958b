#include "common/base/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/descriptor.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::StatusCode::kResourceExhausted;
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

absl::StatusOr<Descriptor> Open(const std::string& path, int flags, const std::string& what) {
  int fd;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus(errno, what, path);
  return Descriptor(fd);
}

// Once more for as long as a signal interrupts it.
template <typename Call>
int Uninterrupted(const Call& call) {
  int result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

// Whether the name is the file that was looked at before.
bool IsFile(const std::string& path, const struct stat& file) {
  struct stat there;
  return Uninterrupted([&] { return lstat(path.c_str(), &there); }) == 0 &&
         there.st_dev == file.st_dev && there.st_ino == file.st_ino;
}

// Of renameat2 and of link: it is not that this request fails, there are none here.
bool HasNoExclusiveRename(int error) {
  return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP;
}
bool HasNoHardLinks(int error) {
  return error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK;
}

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::string path, Descriptor fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  absl::Status Append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      // The kernel writes at most 2 GiB a call.
      const ssize_t n = write(fd_.get(), bytes.data(), std::min(bytes.size(), size_t{1} << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "write to", path_);
      if (n == 0) return ErrnoStatus(EIO, "write to", path_);  // else it would go on for ever
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    // Not repeated after an error: the kernel drops the pages it could not write and would then
    // report success.
    if (Uninterrupted([&] { return fsync(fd_.get()); }) != 0) {
      return ErrnoStatus(errno, "fsync", path_);
    }
    return absl::OkStatus();
  }

  absl::Status Close() override {
    const int fd = fd_.Release();
    if (fd < 0) return absl::OkStatus();
    if (close(fd) != 0 && errno != EINTR) return ErrnoStatus(errno, "close", path_);
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  Descriptor fd_;
};

class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(std::string path, Descriptor fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  absl::Status ReadAt(int64_t offset, std::span<std::byte> into) override {
    while (!into.empty()) {
      const ssize_t n =
          pread(fd_.get(), into.data(), std::min(into.size(), size_t{1} << 30), offset);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "read", path_);
      if (n == 0) {
        return absl::OutOfRangeError(
            absl::StrCat(path_, " ends at byte ", offset, ", ", into.size(), " more expected"));
      }
      offset += n;
      into = into.subspan(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  const Descriptor fd_;
};

class PosixMappedFile final : public MappedFile {
 public:
  PosixMappedFile(void* address, size_t size) : address_(address), size_(size) {}
  ~PosixMappedFile() override {
    if (size_ > 0) munmap(address_, size_);
  }
  PosixMappedFile(const PosixMappedFile&) = delete;
  PosixMappedFile& operator=(const PosixMappedFile&) = delete;
  std::span<const std::byte> bytes() const override {
    return {static_cast<const std::byte*>(address_), size_};
  }

 private:
  void* const address_;
  const size_t size_;
};

FileInfo InfoOf(const struct stat& st) {
  FileInfo info;
  info.kind = S_ISREG(st.st_mode)   ? FileKind::kRegular
              : S_ISDIR(st.st_mode) ? FileKind::kFolder
                                    : FileKind::kOther;
  info.bytes = st.st_size;
  info.device = st.st_dev;
  info.inode = st.st_ino;
  return info;
}

class PosixFileSystem final : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override {
    return OpenToWrite(path, O_WRONLY | O_CREAT | O_EXCL);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateOrTruncate(const std::string& path) override {
    return OpenToWrite(path, O_WRONLY | O_CREAT | O_TRUNC);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenToAppend(const std::string& path) override {
    return OpenToWrite(path, O_WRONLY | O_CREAT | O_APPEND);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenToRead(const std::string& path) override {
    // O_NONBLOCK: a named pipe answers at once instead of waiting for a writer.
    ASSIGN_OR_RETURN(Descriptor fd, Open(path, O_RDONLY | O_NONBLOCK, "open"));
    return std::make_unique<PosixReadableFile>(path, std::move(fd));
  }

  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    ASSIGN_OR_RETURN(const Descriptor fd, Open(path, O_RDONLY | O_NONBLOCK, "open"));
    struct stat st;
    if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, "stat", path);
    if (!S_ISREG(st.st_mode)) return ErrnoStatus(EISDIR, "map (not a regular file)", path);
    const size_t size = static_cast<size_t>(st.st_size);
    if (size == 0) return std::make_unique<PosixMappedFile>(nullptr, 0);
    void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (address == MAP_FAILED) return ErrnoStatus(errno, "map", path);
    return std::make_unique<PosixMappedFile>(address, size);
  }

  absl::Status Rename(const std::string& from, const std::string& to, IfExists if_exists) override {
    const std::string what = absl::StrCat("rename ", from, " to");
    // Looked at before, because afterwards only this tells whose file stands under `to`.
    struct stat source;
    if (Uninterrupted([&] { return lstat(from.c_str(), &source); }) != 0) {
      return ErrnoStatus(errno, what, to);
    }
    if (if_exists == IfExists::kReplace) {
      if (Uninterrupted([&] { return rename(from.c_str(), to.c_str()); }) == 0) {
        return absl::OkStatus();
      }
      const int error = errno;
      if (IsFile(to, source)) return RemoveOldName(from);
      return ErrnoStatus(error, what, to);
    }
    if (Uninterrupted([&] {
          return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD,
                                          to.c_str(), RENAME_NOREPLACE));
        }) == 0) {
      return absl::OkStatus();
    }
    int error = errno;
    if (!HasNoExclusiveRename(error)) {
      if (IsFile(to, source)) return RemoveOldName(from);
      return ErrnoStatus(error, what, to);
    }
    // NFS and others have no such rename; a hard link is exclusive everywhere.
    if (Uninterrupted([&] { return link(from.c_str(), to.c_str()); }) == 0) {
      return RemoveOldName(from);
    }
    error = errno;
    if (IsFile(to, source)) return RemoveOldName(from);
    if (HasNoHardLinks(error)) {
      return absl::UnimplementedError(absl::StrCat(
          "cannot ", what, " ", to,
          " without replacing what may be there: this file system has no such rename and no hard "
          "links (",
          std::generic_category().message(error), ")"));
    }
    return ErrnoStatus(error, what, to);
  }

  absl::Status RemoveFile(const std::string& path) override {
    if (Uninterrupted([&] { return unlink(path.c_str()); }) != 0) {
      return ErrnoStatus(errno, "remove", path);
    }
    return absl::OkStatus();
  }

  absl::Status CreateFolder(const std::string& path) override {
    if (Uninterrupted([&] { return mkdir(path.c_str(), 0777); }) == 0) return absl::OkStatus();
    const int error = errno;
    if (error == EEXIST) {
      ASSIGN_OR_RETURN(const FileInfo info, Stat(path));
      if (info.kind == FileKind::kFolder) return absl::OkStatus();
    }
    if (error != ENOENT || FolderOf(path) == path) return ErrnoStatus(error, "create folder", path);
    RETURN_IF_ERROR(CreateFolder(FolderOf(path)));
    // Somebody else may have been faster.
    if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, "create folder", path);
    }
    return absl::OkStatus();
  }

  absl::Status SyncFolder(const std::string& path) override {
    ASSIGN_OR_RETURN(const Descriptor fd, Open(path, O_RDONLY | O_DIRECTORY, "open folder"));
    // Some network file systems have no fsync of folders; their names are durable when made.
    if (Uninterrupted([&] { return fsync(fd.get()); }) != 0 && errno != EINVAL) {
      return ErrnoStatus(errno, "fsync folder", path);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    struct stat st;
    if (Uninterrupted([&] { return stat(path.c_str(), &st); }) != 0) {
      return ErrnoStatus(errno, "look at", path);
    }
    return InfoOf(st);
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    DIR* dir;
    do {
      dir = opendir(path.c_str());
    } while (dir == nullptr && errno == EINTR);
    if (dir == nullptr) return ErrnoStatus(errno, "list folder", path);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
      errno = 0;
    }
    const int error = errno;
    closedir(dir);
    if (error != 0) return ErrnoStatus(error, "list folder", path);
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  // The file has its new name. The old one may be gone with it, or already taken away.
  static absl::Status RemoveOldName(const std::string& from) {
    if (Uninterrupted([&] { return unlink(from.c_str()); }) == 0 || errno == ENOENT) {
      return absl::OkStatus();
    }
    return ErrnoStatus(errno, "remove", from);
  }

  static absl::StatusOr<std::unique_ptr<WritableFile>> OpenToWrite(const std::string& path,
                                                                   int flags) {
    ASSIGN_OR_RETURN(Descriptor fd, Open(path, flags, (flags & O_CREAT) ? "create" : "open"));
    return std::make_unique<PosixWritableFile>(path, std::move(fd));
  }
};

}  // namespace

FileSystem& FileSystem::Real() {
  static PosixFileSystem* const real = new PosixFileSystem;
  return *real;
}

absl::Status CreateFolderAndSync(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<FileInfo> there = fs.Stat(path);
  if (there.ok() && there->kind == FileKind::kFolder) return absl::OkStatus();
  const std::string parent = FolderOf(path);
  if (!absl::IsNotFound(there.status()) || parent == path) return fs.CreateFolder(path);
  RETURN_IF_ERROR(CreateFolderAndSync(fs, parent));
  RETURN_IF_ERROR(fs.CreateFolder(path));
  return fs.SyncFolder(parent);
}

absl::StatusOr<std::string> ReadFile(FileSystem& fs, const std::string& path) {
  ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
  if (info.kind != FileKind::kRegular) return ErrnoStatus(EISDIR, "read", path);
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenToRead(path));
  std::string contents(static_cast<size_t>(info.bytes), '\0');
  RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(contents))));
  return contents;
}

absl::Status WriteAndSync(FileSystem& fs, const std::string& path, const std::string& contents) {
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.CreateOrTruncate(path));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(contents))));
  RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path,
                                 const std::string& temporary, const std::string& contents,
                                 FileSystem::IfExists if_exists) {
  absl::Status status = WriteAndSync(fs, temporary, contents);
  if (status.ok()) {
    status = fs.Rename(temporary, path, if_exists);
    // Moved all the same: it is not where it was, and what is there is what we wrote.
    if (!status.ok() && absl::IsNotFound(fs.Stat(temporary).status())) {
      const absl::StatusOr<std::string> there = ReadFile(fs, path);
      if (there.ok() && *there == contents) return fs.SyncFolder(FolderOf(path));
    }
  }
  if (!status.ok()) {
    // The first error is the one to report; what is left is a file that nobody reads.
    fs.RemoveFile(temporary).IgnoreError();
    return status;
  }
  return fs.SyncFolder(FolderOf(path));
}

std::string RandomDigits() {
  std::random_device random;
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad8), absl::Hex(random(), absl::kZeroPad8));
}

std::string JoinPath(const std::string& folder, const std::string& name) {
  if (folder.empty() || folder.back() == '/') return folder + name;
  return folder + "/" + name;
}

std::string FolderOf(const std::string& path) {
  const size_t last = path.find_last_not_of('/');
  if (last == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.rfind('/', last);
  if (slash == std::string::npos) return ".";
  const size_t end = path.find_last_not_of('/', slash);
  return end == std::string::npos ? "/" : path.substr(0, end + 1);
}

absl::Status ErrnoStatus(int error, const std::string& what, const std::string& path) {
  return absl::Status(CodeOf(error),
                      absl::StrCat("cannot ", what, " ", path, ": ",
                                   std::generic_category().message(error), BecauseOfLimit(error)));
}

}  // namespace dsrun
