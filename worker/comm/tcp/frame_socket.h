// Messages over a stream socket that does not block: four bytes of length, then the message. Linux.
// Threads: one.

#ifndef DSRUN_WORKER_COMM_TCP_FRAME_SOCKET_H_
#define DSRUN_WORKER_COMM_TCP_FRAME_SOCKET_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/descriptor.h"

namespace dsrun::worker {

class FrameSocket {
 public:
  // A message of more than `most_bytes` is none of ours: the other side is a stranger.
  FrameSocket(Descriptor fd, size_t most_bytes) : fd_(std::move(fd)), most_bytes_(most_bytes) {}

  int fd() const { return fd_.get(); }
  void set_most_bytes(size_t bytes) { most_bytes_ = bytes; }

  // Errors: UNAVAILABLE: the other side is gone; DEADLINE_EXCEEDED.
  absl::Status Send(std::string_view message, SteadyTime deadline);
  // The same, and DATA_LOSS: too long a message.
  absl::StatusOr<std::string> Receive(SteadyTime deadline);
  // The next message if it is here by now, without waiting. Errors: those of Receive.
  absl::StatusOr<std::optional<std::string>> TakeArrived();

 private:
  absl::StatusOr<std::optional<std::string>> Cut();

  Descriptor fd_;
  size_t most_bytes_;
  std::string arrived_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_TCP_FRAME_SOCKET_H_
