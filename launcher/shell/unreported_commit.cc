#include "launcher/shell/unreported_commit.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/leavable_thread.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"

namespace dsrun::launcher {
namespace {

// Whether `key` is newer for whoever loads, and was committed later.
bool IsAfter(const ManifestKey& key, const std::optional<ManifestKey>& reported) {
  if (!reported) return true;
  return key > *reported &&
         std::pair(key.generation, key.epoch) > std::pair(reported->generation, reported->epoch);
}

}  // namespace

std::optional<UnreportedCommit> FindUnreportedCommit(FileSystem& fs, const std::string& folder,
                                                     const std::string& job_id,
                                                     const std::string& reported) {
  const absl::StatusOr<std::vector<std::string>> names = ListManifests(fs, folder);
  if (!names.ok()) return std::nullopt;
  const std::optional<ManifestKey> known = ParseManifestName(reported);
  for (const std::string& name : *names) {  // newest first
    const std::optional<ManifestKey> key = ParseManifestName(name);
    if (!key || (known && *key <= *known)) break;
    if (!IsAfter(*key, known)) continue;
    const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(fs, folder, name, Verify::kSizes);
    if (!checkpoint.ok() || checkpoint->manifest().facts.job_id != job_id) continue;
    return UnreportedCommit{name, key->step.value()};
  }
  return std::nullopt;
}

std::optional<UnreportedCommit> FindUnreportedCommitWithin(absl::Duration limit, FileSystem& fs,
                                                           const std::string& folder,
                                                           const std::string& job_id,
                                                           const std::string& reported) {
  const auto found = std::make_shared<std::optional<UnreportedCommit>>();
  absl::StatusOr<LeavableThread> thread = LeavableThread::Start(
      "the look for a checkpoint",
      [=, &fs] { *found = FindUnreportedCommit(fs, folder, job_id, reported); });
  if (!thread.ok() || !thread->JoinOrLeave(limit)) return std::nullopt;
  return *found;
}

}  // namespace dsrun::launcher
