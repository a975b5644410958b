#include "common/base/nonblocking_output.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/waits.h"

namespace dsrun {
namespace {

std::atomic<void (*)()> flush_before_last_words = nullptr;

}  // namespace

NonblockingOutput::NonblockingOutput(int fd) : fd_(fd) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return;
  if (S_ISREG(info.st_mode)) kind_ = Kind::kFile;
  if (S_ISSOCK(info.st_mode)) kind_ = Kind::kSocket;
  if (!S_ISFIFO(info.st_mode) && !S_ISCHR(info.st_mode)) return;
  own_fd_ = open(absl::StrCat("/proc/self/fd/", fd).c_str(),
                 O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (own_fd_ >= 0) kind_ = Kind::kOwn;
}

NonblockingOutput::~NonblockingOutput() {
  if (own_fd_ >= 0) close(own_fd_);
}

ssize_t NonblockingOutput::Write(const char* bytes, size_t size) const {
  switch (kind_) {
    case Kind::kOwn:
      return write(own_fd_, bytes, size);
    case Kind::kSocket:
      return send(fd_, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    case Kind::kFile:
      return write(fd_, bytes, size);
    case Kind::kAsked:
      break;
  }
  pollfd room{.fd = fd_, .events = POLLOUT, .revents = 0};
  if (poll(&room, 1, 0) == 0) {
    errno = EAGAIN;
    return -1;
  }
  // A pipe that poll calls writable takes PIPE_BUF bytes without blocking.
  return write(fd_, bytes, std::min<size_t>(size, PIPE_BUF));
}

bool NonblockingOutput::AwaitRoom(absl::Duration limit) const {
  pollfd room{.fd = own_fd_ >= 0 ? own_fd_ : fd_, .events = POLLOUT, .revents = 0};
  return poll(&room, 1, PollMilliseconds(limit)) != 0;
}

void SetFlushBeforeLastWords(void (*flush)()) { flush_before_last_words = flush; }

void WriteLastWords(int fd, const char* bytes, size_t size) {
  if (void (*const flush)() = flush_before_last_words) flush();
  constexpr int kLooks = 250;
  for (int look = 0; look < kLooks && size > 0; ++look) {
    pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&room, 1, 1) == 0) continue;
    // A pipe that poll calls writable takes PIPE_BUF bytes without blocking.
    const ssize_t written = write(fd, bytes, std::min<size_t>(size, PIPE_BUF));
    if (written < 0 && errno != EINTR && errno != EAGAIN) return;
    if (written <= 0) continue;
    bytes += written;
    size -= static_cast<size_t>(written);
  }
}

}  // namespace dsrun
