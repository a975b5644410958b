// Writes to what a descriptor refers to without ever waiting for whoever reads there: a pager that
// is paused, a full pipe, a terminal after Ctrl-S.
//
// O_NONBLOCK belongs to the open file and not to the descriptor, and standard output and error are
// open files that other processes share: setting it would surprise them. So a pipe or a terminal is
// opened once more, and only that one is told not to block. Where it cannot be opened again
// (somebody else's terminal after `su`), it is asked for room first, which leaves one case: a
// terminal with less room than is written may hold the writer up until it is read. Regular files
// are written as they are; a disk that does not answer holds up everybody.
// Thread-safe as the descriptor is.

#ifndef DSRUN_COMMON_BASE_NONBLOCKING_OUTPUT_H_
#define DSRUN_COMMON_BASE_NONBLOCKING_OUTPUT_H_

#include <sys/types.h>

#include <cstddef>

#include "absl/time/time.h"

namespace dsrun {

class NonblockingOutput {
 public:
  // `fd` is borrowed and stays open as long as this. A pipe has one writer more meanwhile.
  explicit NonblockingOutput(int fd);
  ~NonblockingOutput();
  NonblockingOutput(const NonblockingOutput&) = delete;
  NonblockingOutput& operator=(const NonblockingOutput&) = delete;

  // How many bytes were taken, at least one; -1 with errno: EAGAIN: none can be now.
  // Async-signal-safe. A socket raises no SIGPIPE.
  ssize_t Write(const char* bytes, size_t size) const;
  // True: something may be taken now, or an error told. Waits for `limit` at most.
  bool AwaitRoom(absl::Duration limit) const;
  bool is_regular_file() const { return kind_ == Kind::kFile; }

 private:
  enum class Kind { kOwn, kSocket, kFile, kAsked };

  const int fd_;
  Kind kind_ = Kind::kAsked;
  int own_fd_ = -1;
};

// For the last words of a process that is about to end, also in a signal handler: written as far as
// they are taken within 0.25 s.
void WriteLastWords(int fd, const char* bytes, size_t size);

// What the process has said and not written yet is written by `flush` before its last words.
// REQUIRES: async-signal-safe, takes no lock, has a bound.
void SetFlushBeforeLastWords(void (*flush)());

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_NONBLOCKING_OUTPUT_H_
