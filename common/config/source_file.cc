#include "common/config/source_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "common/base/descriptor.h"
#include "common/config/source_text.h"

namespace dsrun {
namespace {

absl::Status WhyNotOpened(int error, const std::string& path, const std::string& name) {
  struct stat info;
  switch (error) {
    case ENOENT:
      if (lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode)) {
        return absl::FailedPreconditionError(name + " is a link to a file that is not there");
      }
      return absl::NotFoundError("there is no file " + name + "; check the path");
    case ENOTDIR:
      return absl::NotFoundError("there is no file " + name +
                                 ", because a part of its path is a file itself; check the path");
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(name + " may not be read by uid " +
                                         std::to_string(geteuid()) +
                                         "; check the permissions of the file and of its folders");
    case ELOOP:
      return absl::FailedPreconditionError(name + " is a link that leads back to itself");
    case ENXIO:
      return absl::FailedPreconditionError(name + " is a socket, not a text file");
    default:
      return absl::UnavailableError(name + " cannot be opened: " + std::strerror(error));
  }
}

}  // namespace

absl::StatusOr<std::string> ReadSourceFile(const std::string& path, const std::string& shown) {
  const std::string name = Quoted(shown);
  if (shown.empty()) return absl::FailedPreconditionError("expected a file, got an empty name");
  int opened = -1;
  do {
    opened = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  } while (opened < 0 && errno == EINTR);
  if (opened < 0) return WhyNotOpened(errno, path, name);
  const Descriptor fd(opened);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return WhyNotOpened(errno, path, name);
  if (S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(name + " is a folder, not a text file");
  }
  if (S_ISBLK(info.st_mode)) {
    return absl::FailedPreconditionError(name + " is a disk, not a text file");
  }
  std::string text;
  std::vector<char> buffer(64 * 1024);
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::UnavailableError(name + " could not be read to its end: " +
                                    std::strerror(errno) + "; read it with cat to see more");
    }
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
    if (text.size() > static_cast<size_t>(kMostSourceBytes)) {
      return absl::FailedPreconditionError(name + " is larger than " +
                                           std::to_string(kMostSourceBytes >> 20) +
                                           " MiB; is this the right file?");
    }
  }
}

}  // namespace dsrun
