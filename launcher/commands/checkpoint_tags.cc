#include "launcher/commands/checkpoint_tags.h"

#include <cstddef>
#include <iterator>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/format/aside.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/model_tensors.h"
#include "common/format/tags.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kMostSteps = 20;

// The checkpoint of a tag; empty: there is no such tag.
absl::StatusOr<std::string> ManifestOf(FileSystem& fs, const std::string& folder,
                                       const std::string& tag) {
  ASSIGN_OR_RETURN(const auto tags, ReadTags(fs, folder));
  for (const auto& [name, manifest] : tags) {
    if (name == tag) return manifest;
  }
  return std::string();
}

// A name for what no job could load would keep it for nothing.
absl::StatusOr<std::string> NameOfLoadable(const Checkpoint& checkpoint) {
  RETURN_IF_ERROR(CheckModelTensors(checkpoint.manifest())) << checkpoint.manifest_name();
  return checkpoint.manifest_name();
}

absl::StatusOr<std::string> Choose(FileSystem& fs, const CheckpointPlace& place,
                                   const std::string& job_id, std::optional<int64_t> step,
                                   std::ostream& err) {
  if (!place.manifest.empty() && step.has_value()) {
    return absl::InvalidArgumentError("--step belongs to a folder, and a manifest was named");
  }
  if (!step.has_value()) {
    ASSIGN_OR_RETURN(const Checkpoint found, OpenAt(fs, place, job_id, Verify::kSizes, err));
    return NameOfLoadable(found);
  }
  FindOptions options;
  options.job_id = job_id;
  options.step = step;
  options.verify = Verify::kSizes;
  const auto found = FindNewestCheckpoint(fs, place.folder, options, nullptr);
  if (found.ok()) return NameOfLoadable(*found);
  if (!absl::IsNotFound(found.status())) return found.status();
  ASSIGN_OR_RETURN(const std::string steps, StepsIn(fs, place.folder));
  return absl::NotFoundError(
      absl::StrCat(found.status().message(), "; the steps that are there: ", steps));
}

}  // namespace

absl::StatusOr<std::string> StepsIn(FileSystem& fs, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  std::set<int64_t> steps;
  for (const std::string& name : names) steps.insert(ParseManifestName(name)->step.value());
  if (steps.empty()) return std::string("none");
  if (steps.size() <= kMostSteps) return absl::StrJoin(steps, ", ");
  const auto first = std::prev(steps.end(), static_cast<std::ptrdiff_t>(kMostSteps));
  return absl::StrCat(absl::StrJoin(first, steps.end(), ", "), " (", kMostSteps, " of ",
                      steps.size(), " shown)");
}

absl::Status CheckTagIsFree(FileSystem& fs, const std::string& folder, const std::string& tag) {
  RETURN_IF_ERROR(CheckTagName(tag));
  const absl::StatusOr<std::string> manifest = ManifestOf(fs, folder, tag);
  if (absl::IsNotFound(manifest.status())) return absl::OkStatus();
  RETURN_IF_ERROR(manifest.status());
  if (manifest->empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("the tag ", tag, " in ", folder, " names ", *manifest,
                   " already; take it away with dsrun checkpoint untag ", folder, " ", tag,
                   ", or choose another name"));
}

int TagCommand(FileSystem& fs, const CheckpointPlace& place, const std::string& job_id,
               std::optional<int64_t> step, const std::string& tag, std::ostream& out,
               std::ostream& err) {
  // What a prune that died has left aside is to be had, too.
  const absl::Status back = BringAllBack(fs, place.folder);
  if (!back.ok()) return PrintCheckpointError(back, err);
  const absl::StatusOr<std::string> chosen = Choose(fs, place, job_id, step, err);
  if (!chosen.ok()) return PrintCheckpointError(chosen.status(), err);
  const absl::Status free = CheckTagIsFree(fs, place.folder, tag);
  if (absl::IsAlreadyExists(free) && ManifestOf(fs, place.folder, tag).value_or("") == *chosen) {
    out << place.folder << ": " << *chosen << " has the tag " << tag << " already\n";
    return kCheckpointGood;
  }
  if (!free.ok()) return PrintCheckpointError(free, err);
  const absl::Status written = WriteTag(fs, place.folder, tag, *chosen);
  if (!written.ok()) return PrintCheckpointError(written, err);
  out << place.folder << ": " << *chosen << " has the tag " << tag
      << " and stays until dsrun checkpoint untag removes it\n";
  return kCheckpointGood;
}

int UntagCommand(FileSystem& fs, const CheckpointPlace& place, const std::string& tag,
                 std::ostream& out, std::ostream& err) {
  absl::Status removed = RemoveTag(fs, place.folder, tag);
  if (absl::IsNotFound(removed)) {
    std::vector<std::string> there;
    if (const auto tags = ReadTags(fs, place.folder); tags.ok()) {
      for (const auto& [name, manifest] : *tags) there.push_back(name);
    }
    removed = absl::NotFoundError(absl::StrCat(
        "no tag ", tag, " in ", place.folder,
        "; its tags: ", there.empty() ? std::string("none") : absl::StrJoin(there, ", ")));
  }
  if (!removed.ok()) return PrintCheckpointError(removed, err);
  out << place.folder << ": the tag " << tag
      << " is gone; its checkpoint stays as long as the rules of its job keep it\n";
  return kCheckpointGood;
}

}  // namespace dsrun::launcher
