// JobFiles: everything of a job that lies in files and folders of the operator's choice: the run
// folder with its journal, the save folder with its lock and marker, the metrics, the trace.
//
//   JobFiles files(job, probe_path, say);
//   RETURN_IF_ERROR(files.Claim(config));   // what can refuse the job
//   ... whatever else can refuse it ...
//   RETURN_IF_ERROR(files.MakeRoom());      // what leaves something for good
//   ... the job ...
//   files.TakeBack();                       // instead, where one of these failed
//
// Each step waits for its disk or file server for Limits::step at most, in a thread that is left
// behind then: a job that cannot be started says so. Errors name the path, what was being done with
// it, and what to do. What a step that was left behind makes later stays.
//
// Threads: one. `say` gets lines for the operator.

#ifndef DSRUN_LAUNCHER_SHELL_JOB_FILES_H_
#define DSRUN_LAUNCHER_SHELL_JOB_FILES_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/do_within.h"
#include "common/base/file_system.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/shell/journal_keeper.h"
#include "launcher/shell/metrics_writer.h"
#include "launcher/shell/path_lock.h"
#include "launcher/shell/run_folder.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// A step of the start, `what` being done with `path`: `work` as DoWithin has it. An error goes on
// with what to do about it: `or_else`.
template <typename T>
absl::StatusOr<T> DoStep(absl::Duration limit, const std::string& what, const std::string& path,
                         std::string_view or_else, std::function<absl::StatusOr<T>()> work);
absl::Status DoStep(absl::Duration limit, const std::string& what, const std::string& path,
                    std::string_view or_else, std::function<absl::Status()> work);
// The error of a step, as above.
absl::Status StepError(const absl::Status& why, const std::string& what, const std::string& path,
                       std::string_view or_else);

class JobFiles {
 public:
  struct Limits {
    // Metadata of a busy network file system takes seconds; whoever starts a job waits for no more.
    absl::Duration step = absl::Seconds(20);
    absl::Duration take_back = absl::Seconds(5);  // of a job that was not started
  };

  // `job` must outlive this, and `fs` the process's end. `probe_path`: the save folder's marker, or
  // empty: there is no save folder.
  JobFiles(FileSystem& fs, const proto::JobSpec& job, std::string probe_path,
           std::function<void(const std::string&)> say, Limits limits);
  JobFiles(const proto::JobSpec& job, std::string probe_path,
           std::function<void(const std::string&)> say)
      : JobFiles(FileSystem::Real(), job, std::move(probe_path), std::move(say), Limits()) {}

  // Errors: ALREADY_EXISTS: another job has one of them; those of FileSystem, PathLock and
  // JournalKeeper; DEADLINE_EXCEEDED: no answer.
  absl::Status Claim(const CoordinatorConfig& config);
  // Keeps what earlier jobs have left under other names, opens the metrics, and points `latest`
  // here.
  absl::Status MakeRoom();
  // The next try may have the run folder.
  void TakeBack();

  const RunFolder& folder() const { return folder_; }
  JournalKeeper& journal() { return *journal_; }
  MetricsWriter* metrics() { return metrics_.get(); }  // null: none are written
  ProbeFile& probe() { return *probe_; }
  const PathLock& save_lock() const { return save_lock_; }

 private:
  absl::Status Lock(const std::string& path, const std::string& what, std::string_view or_else,
                    PathLock& lock);
  // The end of a lock is a close(2), which a disk may hold up, too.
  absl::Status Unlock(const std::string& path, const std::string& what, std::string_view or_else,
                      PathLock& lock);
  absl::Status OpenMetrics(const std::string& path);
  // True: what was there has another name now, which is said.
  absl::StatusOr<bool> KeepEarlier(const std::string& path, const std::string& what,
                                   std::string_view or_else);

  FileSystem& fs_;
  const proto::JobSpec& job_;
  const std::string probe_path_;
  const std::function<void(const std::string&)> say_;
  const Limits limits_;

  RunFolder folder_;
  PathLock metrics_lock_;
  PathLock save_lock_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<JournalKeeper> journal_;
  std::optional<ProbeFile> probe_;
};

template <typename T>
absl::StatusOr<T> DoStep(absl::Duration limit, const std::string& what, const std::string& path,
                         std::string_view or_else, std::function<absl::StatusOr<T>()> work) {
  absl::StatusOr<T> result = DoWithin<T>(limit, "a step of the start", std::move(work));
  if (result.ok()) return result;
  return StepError(result.status(), what, path, or_else);
}

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_JOB_FILES_H_
