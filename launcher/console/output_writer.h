// OutputWriter: standard output and standard error, written by threads of its own, so that a reader
// that does not read (a paused pager, a full pipe, a terminal after Ctrl-S) holds up nobody but
// itself. Lines keep their order across both where both are the same open file. On a terminal, one
// status line stays below everything else and is rewritten in place; it is never wider than the
// terminal is.
//
// Memory is bounded: droppable lines beyond Options::most_bytes are left out (ranks' output is in
// their files anyway), and of the others those beyond Options::most_kept_bytes.
//
// What cannot be written is counted. A full disk, a quota and a limit of the file's size may pass:
// each text is tried, and when one goes through, a line on standard error says how many were lost
// and why. A reader that is gone does not come back.
//
// The threads take no signals: a process in the background is not stopped for its output (SIGTTOU).
// Thread-safe; no method blocks except Flush and Close.

#ifndef DSRUN_LAUNCHER_CONSOLE_OUTPUT_WRITER_H_
#define DSRUN_LAUNCHER_CONSOLE_OUTPUT_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/leavable_thread.h"

namespace dsrun::launcher {

// Of a row that the terminal `fd` does not wrap; where it is none: without bound.
size_t RowColumns(int fd);

class OutputWriter {
 public:
  struct Options {
    int out_fd = 1;
    int err_fd = 2;
    size_t most_bytes = 4 << 20;
    size_t most_kept_bytes = 16 << 20;
    // From Close until what is not written is lost, however the reader behaves: one who takes a
    // byte now and then would hold up the end of dsrun for days, and whoever waits for its exit
    // code with it. A last screen is a few KiB, a second on the slowest line; a terminal takes all
    // that may be queued in that time. After half of it droppable lines give way to the others.
    absl::Duration end_within = absl::Seconds(10);
    // After that, where standard error is another file: what the line on it gets that says what was
    // lost of standard output.
    absl::Duration last_words_within = absl::Seconds(1);
  };
  enum class To { kOut, kErr };
  // Lines that were to be written and were not.
  struct Loss {
    int64_t lines = 0;
    std::string why;  // "standard output: No space left on device"; empty: none
    // Somebody misses them: a write failed, or the reader took nothing to the end. False: the
    // readers went away before (a closed pipe or terminal), which is their right.
    bool failed = false;
  };

  explicit OutputWriter(Options options);
  ~OutputWriter();

  // `text` ends in a newline, unless what goes to standard output next belongs on its last line
  // (then there must be no status line).
  void Write(To to, std::string text);
  // The same; false: left out, because the reader is too far behind, and not counted as lost.
  bool WriteDroppable(To to, std::string text);
  // On standard output; only the newest matters. From the longest form to the shortest, without
  // newlines: the first that fits is shown, or as much as fits of the last. None: no status line.
  void SetStatusLine(std::vector<std::string> forms);
  // The terminal has another size: the status line is drawn anew.
  void Resized();

  // Of standard output.
  size_t Columns() const;

  // Waits until everything queued is written or lost, `limit` at most.
  void Flush(absl::Duration limit);
  // Everything queued is written, or given up when the reader takes nothing for `patience`, or not
  // all within Options::end_within; returns two seconds and last_words_within later at most,
  // whatever the writing threads wait for. The status line, if any, stays on the screen as a line
  // of its own. What was lost of standard output is said on standard error, which is tried once
  // more for that. Nothing is written afterwards. What was lost, of all that was ever given to
  // Write and WriteDroppable.
  Loss Close(absl::Duration patience);

 private:
  // Shared with the threads, which are left behind where the system does not give them back.
  struct Shared;

  const std::shared_ptr<Shared> shared_;
  std::vector<LeavableThread> threads_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_OUTPUT_WRITER_H_
