#include "launcher/shell/path_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/file_system.h"

namespace dsrun::launcher {
namespace {

// "another job of dsrun (pid 4711)", as far as the kernel's table tells.
std::string Holder(const struct stat& info) {
  const std::string file =
      absl::StrFormat("%02x:%02x:%d", major(info.st_dev), minor(info.st_dev), info.st_ino);
  std::ifstream table("/proc/locks");
  for (std::string line; std::getline(table, line);) {
    // 1: FLOCK  ADVISORY  WRITE 4711 08:01:131074 0 EOF
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
    if (words.size() > 5 && words[1] == "FLOCK" && words[5] == file) {
      return absl::StrCat("another job of dsrun (pid ", words[4], ")");
    }
  }
  return "another job of dsrun";
}

}  // namespace

absl::StatusOr<PathLock> PathLock::Take(const std::string& path, const std::string& what) {
  struct stat info;
  PathLock lock;
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) return lock;
    lock.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } else {
    lock.fd_ = open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
  }
  if (lock.fd_ < 0 || fstat(lock.fd_, &info) != 0) return ErrnoStatus(errno, "open " + what, path);
  if (flock(lock.fd_, LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno == EWOULDBLOCK) {
    return absl::AlreadyExistsError(absl::StrCat(what, " ", path, ": ", Holder(info),
                                                 " is using it, and two would spoil each other's "
                                                 "files"));
  }
  lock.missing_ = absl::StrCat("the ", what, " ", path, " cannot be locked (", strerror(errno),
                               "): another job that uses it as well would not be noticed");
  return lock;
}

PathLock::PathLock(PathLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), missing_(std::move(other.missing_)) {}

PathLock& PathLock::operator=(PathLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(missing_, other.missing_);
  return *this;
}

PathLock::~PathLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace dsrun::launcher
