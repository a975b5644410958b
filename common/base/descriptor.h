// Descriptor: an open file descriptor that somebody owns, closed when its owner goes. Moves, and is
// never copied: nobody closes one twice, or a stranger's that has got the same number meanwhile.
// What close() says is not heard; where it matters (a file that was written to), Release it and
// close it by hand.
//
// Threads: one at a time per object.

#ifndef DSRUN_COMMON_BASE_DESCRIPTOR_H_
#define DSRUN_COMMON_BASE_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace dsrun {

class Descriptor {
 public:
  // Takes `fd` over. Negative: there is none, as a call that has failed returns it.
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  // Negative: none, or given away.
  int get() const { return fd_; }
  // The caller owns it from now on.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_DESCRIPTOR_H_
