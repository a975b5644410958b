#include "launcher/shell/run_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/do_within.h"
#include "common/base/logging.h"
#include "common/base/process_user.h"
#include "common/base/status_macros.h"
#include "common/rpc/secrets.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kProbeBytes = 32;

}  // namespace

void PointLatestTo(const std::string& path) {
  const std::string link = JoinPath(FolderOf(path), "latest");
  struct stat info;
  const bool there = lstat(link.c_str(), &info) == 0;
  if (!there && errno != ENOENT) {  // it may be somebody else's
    PLOG(WARNING) << "cannot look at " << link << ", which stays as it is";
    return;
  }
  if (there && !S_ISLNK(info.st_mode)) return;
  const std::string name = path.substr(path.rfind('/') + 1);
  // Of this run alone, whoever else starts one here, on whatever machine.
  const std::string temporary = absl::StrCat(link, ".", name);
  unlink(temporary.c_str());
  if (symlink(name.c_str(), temporary.c_str()) != 0 ||
      rename(temporary.c_str(), link.c_str()) != 0) {
    PLOG(WARNING) << "cannot point " << link << " to " << name;
    unlink(temporary.c_str());
  }
}

absl::StatusOr<RunFolder> PrepareRunFolder(FileSystem& fs, const std::string& path) {
  RunFolder folder{.path = path,
                   .logs = JoinPath(path, "logs"),
                   .journal = JoinPath(path, "journal.db"),
                   .report = JoinPath(path, "report.json")};
  const absl::Status journal = fs.Stat(folder.journal).status();
  if (journal.ok()) {
    return absl::AlreadyExistsError(
        absl::StrCat("run folder ", path, ": expected a new one, but there is the journal of an ",
                     "earlier job in it (journal.db)"));
  }
  if (!absl::IsNotFound(journal)) {
    return Annotate(journal, "run folder: it cannot be told whether it is another job's");
  }
  if (fs.Stat(folder.report).ok()) {
    return absl::AlreadyExistsError(
        absl::StrCat("run folder ", path, ": there is a report.json that no job of dsrun has left ",
                     "(there is no journal beside it), and the job would write over it"));
  }
  RETURN_IF_ERROR(fs.CreateFolder(folder.logs)) << "run folder";
  return folder;
}

absl::Status WriteReportFile(const std::string& path, const std::string& report,
                             absl::Duration limit) {
  const absl::Status written = DoWithin(limit, "report.json", [path, report] {
    return WriteFileAtomically(FileSystem::Real(), path, path + ".new", report,
                               FileSystem::IfExists::kReplace);
  });
  if (!absl::IsDeadlineExceeded(written)) return written;
  return Annotate(written, absl::StrCat("write ", path));
}

absl::Status PrepareSaveFolder(FileSystem& fs, const std::string& path, const std::string& user) {
  RETURN_IF_ERROR(CreateFolderAndSync(fs, FolderOf(path))) << "save folder";
  if (mkdir(path.c_str(), 0777) != 0) {
    // One that is there, whoever made it a moment ago, is not given away; what else it may be shows
    // here, too.
    return errno == EEXIST ? fs.CreateFolder(path) : ErrnoStatus(errno, "make save folder", path);
  }
  RETURN_IF_ERROR(fs.SyncFolder(FolderOf(path))) << "save folder";
  const absl::StatusOr<ProcessUser> owner = ResolveProcessUser(user);
  if (!owner.ok() || !owner->change) return absl::OkStatus();
  if (chown(path.c_str(), owner->uid, owner->gid) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "give to uid " + std::to_string(owner->uid) + " the save folder", path);
}

absl::StatusOr<ProbeFile> ProbeFile::Write(FileSystem& fs, const std::string& path) {
  if (path.empty()) return ProbeFile(fs, "", "");
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.CreateExclusive(path));
  ProbeFile probe(fs, path, RandomBytes(kProbeBytes));  // from here on it is removed
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(probe.content()))));
  RETURN_IF_ERROR(file->Sync());
  RETURN_IF_ERROR(file->Close());
  RETURN_IF_ERROR(fs.SyncFolder(FolderOf(path)));
  return probe;
}

ProbeFile::ProbeFile(FileSystem& fs, std::string path, std::string content)
    : fs_(&fs), path_(std::move(path)), content_(std::move(content)) {}

ProbeFile::ProbeFile(ProbeFile&& other) noexcept
    : fs_(other.fs_), path_(std::exchange(other.path_, "")), content_(std::move(other.content_)) {}

ProbeFile::~ProbeFile() {
  const absl::Status status = Remove(kRemoveWithin);
  LOG_IF(WARNING, !status.ok()) << status;
}

absl::Status ProbeFile::Remove(absl::Duration limit) {
  if (path_.empty()) return absl::OkStatus();
  const std::string path = std::exchange(path_, "");
  return Annotate(DoWithin(limit, "the removal of the probe file",
                           [fs = fs_, path] { return fs->RemoveFile(path); }),
                  absl::StrCat("the probe file stays behind: ", path));
}

}  // namespace dsrun::launcher
