// MetricsWriter: one JSON object a line for every step that rank 0 finished: step, loss, grad_norm,
// lr, tokens_per_s, step_ms, comm_ms, comm_hidden_ms, generation. A number that is not finite is
// null. After a failure steps come again, with the new generation, and so they do, from generation
// 1 on, where a job goes on from a checkpoint (--load) in the same file: the last line of a step
// counts. What is in the file stays; a job that begins anew has it set aside before (set_aside.h).
//
// A thread of its own writes, so a file server that hangs, or a named pipe whose reader has
// stopped, holds up nobody: lines wait in memory, up to most_bytes, and those beyond are left out
// and counted. After a write that fails nothing is written any more. At the end a thread whose file
// still does not answer is left behind.
//
// Methods are for one thread.

#ifndef DSRUN_LAUNCHER_SHELL_METRICS_WRITER_H_
#define DSRUN_LAUNCHER_SHELL_METRICS_WRITER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"
#include "common/base/leavable_thread.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {

class MetricsWriter {
 public:
  struct Options {
    absl::Duration open_within = absl::Seconds(2);
    absl::Duration end_within = absl::Seconds(2);
    size_t most_bytes = 16 << 20;  // a hundred thousand steps
  };

  // After what is there, on a line of its own. `fs` must outlive the process's end, or answer.
  // Errors: those of FileSystem; DEADLINE_EXCEEDED: it cannot be opened within open_within (a named
  // pipe that nobody reads); RESOURCE_EXHAUSTED: no thread.
  static absl::StatusOr<std::unique_ptr<MetricsWriter>> Create(FileSystem& fs,
                                                               const std::string& path,
                                                               const Options& options);
  static absl::StatusOr<std::unique_ptr<MetricsWriter>> Create(FileSystem& fs,
                                                               const std::string& path) {
    return Create(fs, path, Options());
  }
  // As Finish, if that was not called.
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  // Does not wait. The line is in the file soon: readers may follow it. An error: lines are lost,
  // and why; told once for a file that cannot be written, and once for one that takes nothing.
  absl::Status Write(const Progress& progress);

  // Waits until all lines are in the file, end_within at most. OK: they are. Else how many are
  // missing, and why. Nothing is written afterwards.
  absl::Status Finish();

 private:
  struct Shared;
  explicit MetricsWriter(std::shared_ptr<Shared> shared);
  static void Run(Shared& shared);

  // Outlives this object while the file does not answer: the thread still has it then.
  const std::shared_ptr<Shared> shared_;
  LeavableThread thread_;
  bool said_failed_ = false;
  bool said_left_out_ = false;
};

// Without newline. Pure.
std::string MetricsLine(const Progress& progress);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_METRICS_WRITER_H_
