// RunFolder: the folder in which one job leaves its traces: journal.db (with its lock, and a mark
// while it is behind: journal_keeper.h), logs/, report.json. Its
// parent gets a symbolic link `latest` to the newest.

#ifndef DSRUN_LAUNCHER_SHELL_RUN_FOLDER_H_
#define DSRUN_LAUNCHER_SHELL_RUN_FOLDER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"

namespace dsrun::launcher {

struct RunFolder {
  std::string path;
  std::string logs;     // path/logs
  std::string journal;  // path/journal.db
  std::string report;   // path/report.json
};

// Creates what is missing. A folder with a journal is another job's: ALREADY_EXISTS; so is one with
// a report.json that would be written over. The folder is this job's from the moment in which it
// has made that file (Journal::Create), which two cannot. Other errors: those of
// FileSystem::CreateFolder and Stat.
absl::StatusOr<RunFolder> PrepareRunFolder(FileSystem& fs, const std::string& path);

// Renamed into place, so that `latest` always points to a run. One that is not a symbolic link is
// somebody else's and stays; a link that cannot be made is none.
void PointLatestTo(const std::string& path);

// In one step, at `path`, in the run folder; `limit` at most: where that does not answer the
// operator gets the last screen all the same. Errors: those of WriteFileAtomically;
// DEADLINE_EXCEEDED: it may still be written, and is not to be tried again.
absl::Status WriteReportFile(const std::string& path, const std::string& report,
                             absl::Duration limit);

// Makes the save folder if it is missing, with what is missing above it, so that it lasts (a save
// never makes it: common/format/save_folder.h), and then gives it to the user that the ranks run
// as: they write into it. One that is there stays as it is. A user who is unknown here is the
// agents' matter. Errors: those of FileSystem; PERMISSION_DENIED: it cannot be given away.
absl::Status PrepareSaveFolder(FileSystem& fs, const std::string& path, const std::string& user);

// The file by which agents see that they share the launcher's save folder (proto/agent.proto), and
// ranks that it is still the same one: its marker (common/format/save_folder.h). Written and synced
// on construction, removed with this object at the latest. An empty path writes nothing.
class ProbeFile {
 public:
  static constexpr absl::Duration kRemoveWithin = absl::Seconds(2);

  // `fs` must outlive the process's end, or answer.
  static absl::StatusOr<ProbeFile> Write(FileSystem& fs, const std::string& path);
  ProbeFile(ProbeFile&& other) noexcept;
  ~ProbeFile();

  // Waits for `limit` at most: a file server that hangs holds up nobody. Errors: it stays behind;
  // those of FileSystem, and DEADLINE_EXCEEDED: it may still be removed.
  absl::Status Remove(absl::Duration limit);

  const std::string& path() const { return path_; }
  const std::string& content() const { return content_; }

 private:
  ProbeFile(FileSystem& fs, std::string path, std::string content);

  FileSystem* fs_;
  std::string path_;
  std::string content_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_RUN_FOLDER_H_
