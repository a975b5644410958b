#include "launcher/commands/result_output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kBufferBytes = 64 << 10;

// 0, or the errno.
int WriteAll(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t written = write(fd, bytes, size);
    if (written > 0) {
      bytes += written;
      size -= static_cast<size_t>(written);
    } else if (errno == EAGAIN) {  // somebody else has told the open file not to block
      pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
      poll(&room, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

// Network file systems tell a full disk when a descriptor is closed.
int ErrorAtClose(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy >= 0 && close(copy) != 0 && errno != EINTR ? errno : 0;
}

}  // namespace

ResultOutput::ResultOutput(int fd) : fd_(fd), buffer_(kBufferBytes), before_(std::cout.rdbuf()) {
  setp(buffer_.data(), buffer_.data() + buffer_.size());
  std::cout.rdbuf(this);
}

ResultOutput::~ResultOutput() {
  sync();
  std::cout.rdbuf(before_);
}

absl::Status ResultOutput::Finish() {
  sync();
  if (error_ == 0) error_ = ErrorAtClose(fd_);
  if (error_ == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("standard output is not complete: ", strerror(error_)));
}

ResultOutput::int_type ResultOutput::overflow(int_type byte) {
  if (sync() != 0) return traits_type::eof();
  if (!traits_type::eq_int_type(byte, traits_type::eof())) {
    *pptr() = traits_type::to_char_type(byte);
    pbump(1);
  }
  return traits_type::not_eof(byte);
}

int ResultOutput::sync() {
  if (error_ == 0) error_ = WriteAll(fd_, pbase(), static_cast<size_t>(pptr() - pbase()));
  setp(buffer_.data(), buffer_.data() + buffer_.size());
  return error_ == 0 ? 0 : -1;
}

}  // namespace dsrun::launcher
