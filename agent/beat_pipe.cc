#include "agent/beat_pipe.h"

#include <unistd.h>

#include <cstdint>

namespace dsrun::agent {

void WriteBeat(int fd, absl::Duration stalled_after) {
  // At most PIPE_BUF bytes: written whole or not at all.
  const int64_t nanos = absl::ToInt64Nanoseconds(stalled_after);
  (void)!write(fd, &nanos, sizeof(nanos));
}

std::optional<absl::Duration> ReadBeats(int fd) {
  std::optional<absl::Duration> newest;
  int64_t nanos = 0;
  while (read(fd, &nanos, sizeof(nanos)) == sizeof(nanos)) newest = absl::Nanoseconds(nanos);
  return newest;
}

}  // namespace dsrun::agent
