#include "common/format/save_folder.h"

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr char kPrefix[] = ".dsrun-probe-";

}  // namespace

std::string SaveFolderMarker(const std::string& job_id) { return kPrefix + job_id; }

std::optional<std::string> JobOfSaveFolderMarker(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  return std::string(name.substr(sizeof(kPrefix) - 1));
}

absl::Status CheckSaveFolder(FileSystem& fs, const std::string& folder, const std::string& job_id) {
  const std::string marker = JoinPath(folder, SaveFolderMarker(job_id));
  const absl::Status found = fs.Stat(marker).status();
  if (found.ok()) return absl::OkStatus();
  if (!absl::IsNotFound(found)) return Annotate(found, "save folder");
  const bool has_folder = !absl::IsNotFound(fs.Stat(folder).status());
  return absl::UnavailableError(absl::StrCat(
      "save folder ", folder,
      has_folder ? " is not the folder that this job began with: its marker "
                 : " has vanished since this job began, with its marker ",
      marker, has_folder ? " is not in it" : "",
      "; nothing is written beside it: mount its file system again on this node, or if the marker "
      "alone was removed: touch ",
      marker));
}

absl::Status AdoptSaveFolder(FileSystem& fs, const std::string& folder, const std::string& job_id) {
  const absl::StatusOr<std::unique_ptr<WritableFile>> marker =
      fs.CreateExclusive(JoinPath(folder, SaveFolderMarker(job_id)));
  if (absl::IsAlreadyExists(marker.status())) return absl::OkStatus();
  RETURN_IF_ERROR(marker.status()) << "save folder";
  RETURN_IF_ERROR((*marker)->Close()) << "save folder";
  return fs.SyncFolder(folder);
}

}  // namespace dsrun
