// LogWriter: lines on their way to a descriptor that may take nothing for a while, or for good: a
// full pipe, a stopped terminal, a file on a disk that does not answer. Whoever adds a line never
// waits; a thread writes them, one write() a line.
//
// What waits is bounded. A line beyond that is left out, and so is one that a full disk does not
// take; the next one that is written is preceded by how many are missing, and why. Where no thread
// can be had (a limit), whoever adds a line writes it, and waits kPatience for it at most.
//
// The thread takes no signals, so a background process is not stopped for its log (SIGTTOU), and
// one whose signals are taken elsewhere does not get them here.
// Thread-safe. Never destroyed: the thread may wait in the kernel for a disk.

#ifndef DSRUN_COMMON_BASE_LOG_WRITER_H_
#define DSRUN_COMMON_BASE_LOG_WRITER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/nonblocking_output.h"

namespace dsrun {

class LogWriter {
 public:
  struct Options {
    int fd = 2;  // stays open
    size_t most_bytes = 1 << 20;
    std::string who;  // begins the lines about what is missing: "[who] left out ..."
  };
  static constexpr absl::Duration kPatience = absl::Milliseconds(250);
  // At an orderly end there is more: the thread may not have had the CPU yet.
  static constexpr absl::Duration kLastPatience = absl::Seconds(1);

  explicit LogWriter(Options options);
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // With its newline.
  void Add(std::string line);
  // Waits until all that was added before is written or lost; no longer than `limit`, and than
  // kLastPatience since the last line that was taken.
  void Flush(absl::Duration limit);
  // The same for kPatience, in a signal handler.
  void FlushInHandler() const;

 private:
  ~LogWriter() = delete;
  void Run();
  void Push(std::string line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // How many were left out since, as a line of the queue.
  void PushLoss() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string LossLine(int64_t lines, const std::string& why) const;
  // The line, after the words about those that are missing before it.
  void Write(const std::string& line, absl::Duration patience);
  // Whole, or false with why. What was torn off ends its line before anything else is written.
  bool Put(const std::string& line, absl::Duration patience);

  const Options options_;
  const NonblockingOutput output_;
  // Lines that were added and are neither written nor lost. Changes under mu_.
  std::atomic<int64_t> waiting_{0};

  Mutex mu_;
  CondVar changed_;
  bool has_thread_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mu_);
  size_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t left_out_ ABSL_GUARDED_BY(mu_) = 0;  // since the last one that was taken
  SteadyTime moved_at_ ABSL_GUARDED_BY(mu_);

  // Of whoever writes: the thread, or without one whoever holds mu_.
  int64_t failed_ = 0;  // lines since one was written
  std::string why_;
  bool torn_ = false;  // the last thing that was taken has no newline
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_LOG_WRITER_H_
