#include "common/rpc/secrets.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/logging.h"

namespace dsrun {
namespace {

constexpr size_t kMinKeyBytes = 16;
constexpr size_t kMaxKeyBytes = 4096;

absl::StatusOr<std::string> ReadKey(int fd, const std::string& what) {
  std::string key;
  char buffer[kMaxKeyBytes + 2];
  while (key.size() <= kMaxKeyBytes + 1) {
    const ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(what, ": cannot be read: ", strerror(errno)));
    }
    if (got == 0) break;
    key.append(buffer, got);
  }
  if (key.starts_with("\xef\xbb\xbf")) {
    return absl::InvalidArgumentError(absl::StrCat(
        what,
        ": begins with a byte order mark (the bytes EF BB BF), which some editor added; save it "
        "without one, or the other side's copy will not be the same"));
  }
  const bool with_return = key.ends_with("\r\n");
  if (key.ends_with('\n')) key.pop_back();
  if (with_return) key.pop_back();
  if (key.size() < kMinKeyBytes || key.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": expected ", kMinKeyBytes, " to ", kMaxKeyBytes, " bytes, got ",
                     key.size() > kMaxKeyBytes ? "more" : absl::StrCat(key.size()),
                     "; make one with: head -c 32 /dev/urandom | base64 > FILE"));
  }
  return key;
}

absl::Status CheckPrivate(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    const char* const got = S_ISDIR(info.st_mode)    ? "a folder"
                            : S_ISFIFO(info.st_mode) ? "a pipe, which could be read only once"
                                                     : "a device";
    return absl::FailedPreconditionError(
        absl::StrCat("cluster key ", path, ": expected a regular file, got ", got));
  }
  if (info.st_uid != geteuid()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cluster key ", path, ": expected a file of uid ", geteuid(), ", got one of uid ",
        info.st_uid, "; whoever owns it could change it: make your own copy"));
  }
  if ((info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("cluster key %s: expected mode 0600, got %04o: others may read it; draw a "
                        "new key and chmod 600 it",
                        path, info.st_mode & 07777));
  }
  return absl::OkStatus();
}

}  // namespace

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  size_t done = 0;
  while (done < count) {
    const ssize_t got = getrandom(bytes.data() + done, count - done, 0);
    if (got < 0 && errno == EINTR) continue;
    CHECK_GT(got, 0) << "getrandom: " << strerror(errno);
    done += got;
  }
  return bytes;
}

uint64_t RandomIncarnation() {
  uint64_t value = 0;
  while (value == 0) {
    const std::string bytes = RandomBytes(sizeof(value));
    memcpy(&value, bytes.data(), sizeof(value));
  }
  return value;
}

absl::StatusOr<std::string> ReadClusterKeyFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    const std::string key_is = absl::StrCat("cluster key ", path, ": ");
    if (error == ENOENT || error == ENOTDIR) {
      return absl::NotFoundError(
          absl::StrCat(key_is,
                       "there is no such file; expected the one that dsagent gets too; make "
                       "one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE)"));
    }
    if (error == EACCES || error == EPERM) {
      return absl::PermissionDeniedError(absl::StrCat(
          key_is, "uid ", geteuid(), " may not read it; give it to that user, mode 0600"));
    }
    return absl::UnavailableError(absl::StrCat(key_is, "cannot be opened: ", strerror(error)));
  }
  absl::StatusOr<std::string> key = std::string();
  if (absl::Status status = CheckPrivate(fd, path); !status.ok()) {
    key = status;
  } else {
    key = ReadKey(fd, absl::StrCat("cluster key ", path));
  }
  close(fd);
  return key;
}

absl::StatusOr<std::string> ReadClusterKeyFd(int fd) {
  absl::StatusOr<std::string> key = ReadKey(fd, absl::StrCat("cluster key on descriptor ", fd));
  close(fd);
  return key;
}

}  // namespace dsrun
