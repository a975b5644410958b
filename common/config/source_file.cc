#include "common/config/source_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "common/base/clock.h"
#include "common/base/descriptor.h"
#include "common/base/waits.h"
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

// Until there is something to read, the end too. False: not within `limit`. A named pipe without a
// writer is at its end only once there was one.
bool AwaitInput(int fd, absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  pollfd input{.fd = fd, .events = POLLIN, .revents = 0};
  while (true) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    const int ready = poll(&input, 1, PollMilliseconds(left));
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;  // read() says what it is
    if (left <= absl::ZeroDuration()) return false;
  }
}

absl::Status Silent(const std::string& name, const struct stat& info, bool began,
                    absl::Duration silence) {
  const std::string limit = absl::FormatDuration(silence);
  if (!S_ISFIFO(info.st_mode)) {
    return absl::DeadlineExceededError(name + " is a device, and has said nothing for " + limit +
                                       "; expected a text file");
  }
  if (began) {
    return absl::DeadlineExceededError(name +
                                       " is a pipe, and what writes to it has neither said "
                                       "more nor ended for " +
                                       limit + "; write to a file first and name that");
  }
  return absl::DeadlineExceededError(name + " is a pipe, and nobody has written to it for " +
                                     limit + "; start what writes to it first, or name a file");
}

}  // namespace

absl::StatusOr<std::string> ReadSourceFile(const std::string& path, const std::string& shown,
                                           absl::Duration silence) {
  const std::string name = Quoted(shown);
  if (shown.empty()) return absl::FailedPreconditionError("expected a file, got an empty name");
  int opened = -1;
  do {
    opened = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
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
    if (!S_ISREG(info.st_mode) && !AwaitInput(fd.get(), silence)) {
      return Silent(name, info, !text.empty(), silence);
    }
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
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
