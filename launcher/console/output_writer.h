// OutputWriter: standard output and standard error, written by one thread of its own, so that a
// reader that does not read (a paused pager, a full pipe) holds up nobody but itself. Lines keep
// their order across both. On a terminal, one status line stays below everything else and is
// rewritten in place.
//
// Memory is bounded: droppable lines beyond Options::most_bytes are counted and left out (ranks'
// output is in their files anyway); the others are few and always kept.
// Thread-safe; no method blocks except Close.

#ifndef DSRUN_LAUNCHER_CONSOLE_OUTPUT_WRITER_H_
#define DSRUN_LAUNCHER_CONSOLE_OUTPUT_WRITER_H_

#include <cstdint>
#include <deque>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace dsrun::launcher {

class OutputWriter {
 public:
  struct Options {
    int out_fd = 1;
    int err_fd = 2;
    size_t most_bytes = 4 << 20;
  };
  enum class To { kOut, kErr };

  explicit OutputWriter(Options options);
  ~OutputWriter();

  // `text` ends in a newline, unless what goes to standard output next belongs on its last line
  // (then there must be no status line).
  void Write(To to, std::string text);
  // The same; false: left out, because the reader is too far behind.
  bool WriteDroppable(To to, std::string text);
  // On standard output; without a newline; empty: none. Only the newest matters.
  void SetStatusLine(std::string text);

  // Everything queued is written, or given up when the reader takes nothing for `patience`. The
  // status line, if any, stays on the screen as a line of its own. Nothing is written afterwards.
  void Close(absl::Duration patience);

 private:
  struct Line {
    To to;
    std::string text;
    bool droppable = false;
  };

  void Loop();
  // Writes all of `bytes`, or gives up (a reader that is gone, or out of patience).
  void WriteAll(int fd, const std::string& bytes);

  const Options options_;

  Mutex mu_;
  CondVar changed_;
  std::deque<Line> lines_ ABSL_GUARDED_BY(mu_);
  size_t droppable_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::string status_ ABSL_GUARDED_BY(mu_);
  bool status_changed_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration give_up_after_ ABSL_GUARDED_BY(mu_);

  // The thread's own.
  std::string shown_;  // the status line as it is on the screen
  bool gone_[2] = {};  // out, err: its reader is gone

  std::thread thread_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_OUTPUT_WRITER_H_
