// MetricsWriter: one JSON object a line for every step that rank 0 finished: step, loss, grad_norm,
// lr, tokens_per_s, step_ms, comm_ms, comm_hidden_ms, generation. A number that is not finite is
// null. After a failure steps come again, with the new generation, and so they do, from generation
// 1 on, where a job goes on from a checkpoint (--load) in the same file: the last line of a step
// counts. What is in the file stays; a job that begins anew has it set aside before (set_aside.h).
// One thread.

#ifndef DSRUN_LAUNCHER_SHELL_METRICS_WRITER_H_
#define DSRUN_LAUNCHER_SHELL_METRICS_WRITER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {

class MetricsWriter {
 public:
  // After what is there, on a line of its own. Errors: those of FileSystem.
  static absl::StatusOr<std::unique_ptr<MetricsWriter>> Create(FileSystem& fs,
                                                               const std::string& path);

  // The line is in the file when this returns: readers may follow it.
  absl::Status Write(const Progress& progress);

 private:
  explicit MetricsWriter(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}

  const std::unique_ptr<WritableFile> file_;
};

// Without newline. Pure.
std::string MetricsLine(const Progress& progress);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_METRICS_WRITER_H_
