#include "launcher/commands/checkpoint_place.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/escaped.h"
#include "common/base/status_macros.h"

namespace dsrun::launcher {
namespace {

constexpr char kFolderOfARun[] = "checkpoints";

}  // namespace

absl::StatusOr<CheckpointPlace> LocateCheckpoints(FileSystem& fs, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (ParseManifestName(name).has_value()) return CheckpointPlace{FolderOf(path), name};
  ASSIGN_OR_RETURN(const std::vector<std::string> manifests, ListManifests(fs, path));
  if (!manifests.empty()) return CheckpointPlace{path};
  const std::string inner = JoinPath(path, kFolderOfARun);
  const absl::StatusOr<FileInfo> info = fs.Stat(inner);
  if (absl::IsNotFound(info.status())) return CheckpointPlace{path};
  RETURN_IF_ERROR(info.status());
  if (info->kind != FileKind::kFolder) return CheckpointPlace{path};
  ASSIGN_OR_RETURN(const std::vector<std::string> of_run, ListManifests(fs, inner));
  if (of_run.empty()) return CheckpointPlace{path};
  return CheckpointPlace{inner, "", /*of_run=*/true};
}

absl::StatusOr<Checkpoint> OpenAt(FileSystem& fs, const CheckpointPlace& place,
                                  const std::string& job_id, Verify verify, std::ostream& err) {
  if (!place.manifest.empty()) {
    // Whose it is comes first: a stranger's large files are not worth reading.
    ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(fs, place.folder, place.manifest));
    if (!job_id.empty() && manifest.facts.job_id != job_id) {
      return absl::InvalidArgumentError(
          absl::StrCat("--job: expected ", job_id, ", but ", JoinPath(place.folder, place.manifest),
                       " is a checkpoint of job ", manifest.facts.job_id,
                       "; name one of its own, or leave out ", "--job"));
    }
    return OpenCheckpoint(fs, place.folder, place.manifest, verify);
  }
  FindOptions options;
  options.job_id = job_id;
  options.verify = verify;
  std::vector<std::string> rejected;
  absl::StatusOr<Checkpoint> found = FindNewestCheckpoint(fs, place.folder, options, &rejected);
  if (found.ok()) {  // otherwise the error lists them
    for (const std::string& line : rejected)
      err << "warning: not usable: " << Escaped(line, "\t") << "\n";
  }
  return found;
}

int PrintCheckpointError(const absl::Status& status, std::ostream& err) {
  err << "dsrun checkpoint: " << Escaped(std::string(status.message()), "\n\t") << "\n";
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:  // a newer format, a file where a folder belongs
      return kCheckpointBadInput;
    default:
      return kCheckpointUnreadable;
  }
}

}  // namespace dsrun::launcher
