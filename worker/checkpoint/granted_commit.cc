#include "worker/checkpoint/granted_commit.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

absl::StatusOr<std::string> Commit(FileSystem& fs, const std::string& folder,
                                   const ManifestFacts& facts,
                                   const std::vector<std::string>& texts, Patience* patience) {
  std::vector<ShardRecord> records;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    absl::StatusOr<ShardRecord> record = ShardRecord::Parse(texts[rank]);
    RETURN_IF_ERROR(record.status()) << "rank " << rank;
    records.push_back(*std::move(record));
  }
  ASSIGN_OR_RETURN(const std::string there,
                   ManifestOfSave(fs, folder, facts.job_id, facts.key.step, facts.key.generation));
  if (there.empty()) return CommitManifest(fs, folder, facts, records, patience);
  RETURN_IF_ERROR(fs.SyncFolder(folder)) << "checkpoint " << there << " is not sure to last";
  return there;
}

}  // namespace

absl::StatusOr<std::string> ManifestOfSave(FileSystem& fs, const std::string& folder,
                                           const std::string& job_id, Step step,
                                           Generation generation) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  for (const std::string& name : names) {
    const std::optional<ManifestKey> key = ParseManifestName(name);
    if (!key.has_value() || key->step != step || key->generation != generation) continue;
    ASSIGN_OR_RETURN(const std::string text, ReadFile(fs, JoinPath(folder, name)));
    const absl::StatusOr<Manifest> manifest = ParseManifest(text);
    // One that says nothing is no checkpoint of anybody.
    if (manifest.ok() && manifest->facts.job_id == job_id) return name;
  }
  return std::string();
}

GrantedCommit CommitGranted(FileSystem& fs, const std::string& folder, const ManifestFacts& facts,
                            const std::vector<std::string>& records, Patience* patience) {
  const absl::StatusOr<std::string> committed = Commit(fs, folder, facts, records, patience);
  if (committed.ok()) return {absl::OkStatus(), *committed};
  const absl::StatusOr<std::string> left =
      ManifestOfSave(fs, folder, facts.job_id, facts.key.step, facts.key.generation);
  const bool unknown = !left.ok() || MayBeCommitted(committed.status());
  return {committed.status(), unknown ? ManifestName(facts.key) : *left};
}

}  // namespace dsrun::worker
