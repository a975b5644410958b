#include "worker/checkpoint/prune.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"
#include "common/format/safetensors.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

struct Findings {
  std::vector<std::string> old_manifests;
  std::set<std::string> old_shards;     // named by old manifests
  std::set<std::string> needed_shards;  // named by any manifest that stays
};

// What each manifest of the folder says; nullopt for one that says nothing (torn).
std::optional<Manifest> Read(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(fs, path);
  if (!text.ok()) return std::nullopt;
  absl::StatusOr<Manifest> manifest = ParseManifest(*text);
  if (!manifest.ok()) return std::nullopt;
  return *std::move(manifest);
}

absl::StatusOr<Findings> Sort(FileSystem& fs, const std::string& folder,
                              const PruneOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  Findings findings;
  int64_t whole = 0;
  for (const std::string& name : names) {  // newest first
    const std::optional<Manifest> manifest = Read(fs, JoinPath(folder, name));
    if (!manifest.has_value()) continue;
    const bool ours = manifest->facts.job_id == options.job_id &&
                      manifest->facts.key.generation <= options.generation;
    const bool old = ours && whole >= std::max<int64_t>(options.keep, 1);
    if (old) findings.old_manifests.push_back(name);
    for (const ManifestFile& file : manifest->files) {
      (old ? findings.old_shards : findings.needed_shards).insert(file.name);
    }
    if (ours && OpenCheckpoint(fs, folder, name, Verify::kSizes).ok()) ++whole;
  }
  return findings;
}

// The job that a shard says it belongs to; empty if it does not say.
std::string JobOf(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  const absl::StatusOr<std::unique_ptr<ReadableFile>> file = fs.OpenToRead(path);
  std::string bytes(8, '\0');
  if (!info.ok() || !file.ok() ||
      !(*file)->ReadAt(0, std::as_writable_bytes(std::span(bytes))).ok()) {
    return "";
  }
  const absl::StatusOr<int64_t> size = SafetensorsHeaderBytes(bytes, info->bytes);
  if (!size.ok()) return "";
  bytes.resize(static_cast<size_t>(*size));
  if (!(*file)->ReadAt(0, std::as_writable_bytes(std::span(bytes))).ok()) return "";
  const std::map<std::string, std::string> metadata = SafetensorsMetadata(bytes);
  const auto job = metadata.find("job");
  return job == metadata.end() ? "" : job->second;
}

// "<prefix><incarnation>.<manifest name>", with ".latest" behind it or not.
std::optional<ManifestKey> KeyOfTemporary(std::string_view name, std::string_view prefix) {
  const size_t dot = name.find('.', prefix.size());
  if (dot == std::string_view::npos) return std::nullopt;
  name.remove_prefix(dot + 1);
  if (name.ends_with(kLatestSuffix)) name.remove_suffix(kLatestSuffix.size());
  const std::optional<ManifestKey> key = ParseManifestName(name);
  return key;
}

bool IsRunning(const PruneOptions& options, Step step, Generation generation) {
  return std::find(options.running.begin(), options.running.end(), RunningSave{step, generation}) !=
         options.running.end();
}

// Shards and unfinished manifests of earlier generations of this job that nothing names.
absl::StatusOr<std::vector<std::string>> Orphans(FileSystem& fs, const std::string& folder,
                                                 const PruneOptions& options,
                                                 const Findings& findings) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  const std::string prefix = TemporaryPrefix(options.job_id);
  std::vector<std::string> orphans;
  for (const std::string& name : names) {
    if (name.starts_with(prefix)) {
      const std::optional<ManifestKey> key = KeyOfTemporary(name, prefix);
      if (key.has_value() && key->generation < options.generation &&
          !IsRunning(options, key->step, key->generation)) {
        orphans.push_back(name);
      }
      continue;
    }
    const std::optional<ShardName> shard = ParseShardFileName(name);
    if (!shard.has_value() || shard->generation >= options.generation ||
        IsRunning(options, shard->step, shard->generation) ||
        findings.needed_shards.contains(name) || findings.old_shards.contains(name)) {
      continue;
    }
    if (JobOf(fs, JoinPath(folder, name)) == options.job_id) orphans.push_back(name);
  }
  return orphans;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> PruneCheckpoints(FileSystem& fs, const std::string& folder,
                                                          const PruneOptions& options) {
  ASSIGN_OR_RETURN(const Findings findings, Sort(fs, folder, options));
  ASSIGN_OR_RETURN(const std::vector<std::string> orphans, Orphans(fs, folder, options, findings));
  std::vector<std::string> removed;
  const auto remove = [&](const std::string& name) {
    const absl::Status status = fs.RemoveFile(JoinPath(folder, name));
    if (status.ok()) removed.push_back(name);
    // Somebody else may tidy, too.
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  };
  for (const std::string& name : findings.old_manifests) RETURN_IF_ERROR(remove(name));
  // No manifest may come back after a crash without its shards.
  if (!findings.old_manifests.empty()) {
    RETURN_IF_ERROR(fs.SyncFolder(folder));
  }
  for (const std::string& name : findings.old_shards) {
    if (findings.needed_shards.contains(name)) continue;
    RETURN_IF_ERROR(remove(name));
  }
  for (const std::string& name : orphans) RETURN_IF_ERROR(remove(name));
  return removed;
}

}  // namespace dsrun::worker
