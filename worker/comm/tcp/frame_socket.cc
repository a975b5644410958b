#include "worker/comm/tcp/frame_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"

namespace dsrun::worker {
namespace {

absl::Status Gone(const char* why) {
  return absl::UnavailableError(absl::StrCat("the connection is gone: ", why));
}

absl::Status AwaitReady(int fd, short events, SteadyTime deadline) {
  while (true) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("no answer in time");
    pollfd waiting{.fd = fd, .events = events, .revents = 0};
    if (poll(&waiting, 1, PollMilliseconds(left)) > 0) return absl::OkStatus();
  }
}

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

absl::Status FrameSocket::Send(std::string_view message, SteadyTime deadline) {
  const auto length = static_cast<uint32_t>(message.size());  // both ends are on one machine
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes.append(message);
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = send(fd_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count > 0) sent += static_cast<size_t>(count);
    if (count > 0) continue;
    if (!WouldBlock()) return Gone(strerror(errno));
    RETURN_IF_ERROR(AwaitReady(fd_.get(), POLLOUT, deadline));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<std::string>> FrameSocket::Cut() {
  uint32_t length = 0;
  if (arrived_.size() < sizeof(length)) return std::nullopt;
  std::memcpy(&length, arrived_.data(), sizeof(length));
  if (length > most_bytes_) return absl::DataLossError("it says something that is no message");
  if (arrived_.size() - sizeof(length) < length) return std::nullopt;
  std::string message = arrived_.substr(sizeof(length), length);
  arrived_.erase(0, sizeof(length) + length);
  return message;
}

absl::StatusOr<std::optional<std::string>> FrameSocket::TakeArrived() {
  while (true) {
    ASSIGN_OR_RETURN(std::optional<std::string> message, Cut());
    if (message.has_value()) return message;
    char chunk[16384];
    const ssize_t count = recv(fd_.get(), chunk, sizeof(chunk), 0);
    if (count == 0) return Gone("closed by the other side");
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && WouldBlock()) return std::nullopt;
    if (count < 0) return Gone(strerror(errno));
    arrived_.append(chunk, static_cast<size_t>(count));
  }
}

absl::StatusOr<std::string> FrameSocket::Receive(SteadyTime deadline) {
  while (true) {
    ASSIGN_OR_RETURN(std::optional<std::string> message, TakeArrived());
    if (message.has_value()) return *std::move(message);
    RETURN_IF_ERROR(AwaitReady(fd_.get(), POLLIN, deadline));
  }
}

}  // namespace dsrun::worker
