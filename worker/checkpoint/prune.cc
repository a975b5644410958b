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
#include "common/format/tags.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

struct Findings {
  std::vector<std::string> old_manifests;
  std::set<std::string> old_shards;     // named by old manifests
  std::set<std::string> needed_shards;  // named by any manifest that stays
  std::vector<ManifestKey> whole;       // of this job, newest first
  size_t whole_of_caller = 0;           // of them, of the caller's generation
};

bool IsRunning(const PruneOptions& options, Step step, Generation generation) {
  return std::find(options.running.begin(), options.running.end(), RunningSave{step, generation}) !=
         options.running.end();
}

// Everything that was listed is read, or nothing is known.
absl::StatusOr<Manifest> Read(FileSystem& fs, const std::string& folder, const std::string& name) {
  absl::StatusOr<Manifest> manifest = ReadManifest(fs, folder, name);
  if (manifest.ok()) return manifest;
  return absl::Status(
      manifest.status().code(),
      absl::StrCat(std::string(manifest.status().message()),
                   "; as long as it cannot be read, nothing in ", folder,
                   " is removed, because it may need it: make it readable, or if it is torn and "
                   "of no use, remove ",
                   JoinPath(folder, name)));
}

// Whether all shards are there. What cannot be told counts against removing anything.
absl::StatusOr<bool> IsWhole(FileSystem& fs, const std::string& folder, const std::string& name) {
  const absl::Status opened = OpenCheckpoint(fs, folder, name, Verify::kSizes).status();
  if (opened.ok()) return true;
  if (absl::IsDataLoss(opened)) return false;
  return opened;
}

absl::StatusOr<std::set<std::string>> TaggedManifests(FileSystem& fs, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<Tag> tags, ReadTags(fs, folder));
  std::set<std::string> manifests;
  for (const Tag& tag : tags) manifests.insert(tag.manifest);
  return manifests;
}

absl::StatusOr<Findings> Sort(FileSystem& fs, const std::string& folder,
                              const PruneOptions& options) {
  ASSIGN_OR_RETURN(const std::set<std::string> tagged, TaggedManifests(fs, folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  Findings findings;
  const auto keep = static_cast<size_t>(std::max<int64_t>(options.keep, 1));
  for (const std::string& name : names) {  // newest first
    ASSIGN_OR_RETURN(const Manifest manifest, Read(fs, folder, name));
    const ManifestKey& key = manifest.facts.key;
    const bool ours =
        manifest.facts.job_id == options.job_id && key.generation <= options.generation;
    const bool kept = tagged.contains(name) || IsRunning(options, key.step, key.generation) ||
                      (options.keep_every > 0 && key.step.value() % options.keep_every == 0);
    // What this generation saved last stays, also below steps that were thrown away before it.
    const bool own_last = key.generation == options.generation && findings.whole_of_caller < keep;
    const bool old = ours && !kept && !own_last && findings.whole.size() >= keep;
    if (old) findings.old_manifests.push_back(name);
    for (const ManifestFile& file : manifest.files) {
      (old ? findings.old_shards : findings.needed_shards).insert(file.name);
    }
    if (!ours || old) continue;
    ASSIGN_OR_RETURN(const bool whole, IsWhole(fs, folder, name));
    if (!whole) continue;
    findings.whole.push_back(key);
    if (key.generation == options.generation) ++findings.whole_of_caller;
  }
  return findings;
}

// A later generation has gone beyond it, or saved the same step again.
bool IsSuperseded(const Findings& findings, Step step, Generation generation) {
  return std::any_of(findings.whole.begin(), findings.whole.end(), [&](const ManifestKey& key) {
    return key.step >= step && key.generation > generation;
  });
}

// That a removal says "no such file" is not enough to remove what the file names.
absl::Status CheckGone(FileSystem& fs, const std::string& folder,
                       const std::vector<std::string>& manifests) {
  ASSIGN_OR_RETURN(const std::vector<std::string> left, ListManifests(fs, folder));
  for (const std::string& name : manifests) {
    if (std::find(left.begin(), left.end(), name) == left.end()) continue;
    return absl::UnavailableError(absl::StrCat(
        "manifest ", JoinPath(folder, name), " was removed and is still listed; its shards stay"));
  }
  return absl::OkStatus();
}

// The job that a shard says it belongs to; empty if it does not say, or cannot be read: it stays.
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
  return ParseManifestName(name);
}

// Shards and unfinished manifests of earlier generations of this job that nothing names.
absl::StatusOr<std::vector<std::string>> Orphans(FileSystem& fs, const std::string& folder,
                                                 const PruneOptions& options,
                                                 const Findings& findings) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  const std::string prefix = TemporaryPrefix(options.job_id);
  const auto is_left_over = [&](Step step, Generation generation) {
    return generation < options.generation && !IsRunning(options, step, generation) &&
           IsSuperseded(findings, step, generation);
  };
  std::vector<std::string> orphans;
  for (const std::string& name : names) {
    if (name.starts_with(prefix)) {
      const std::optional<ManifestKey> key = KeyOfTemporary(name, prefix);
      if (key.has_value() && is_left_over(key->step, key->generation)) orphans.push_back(name);
      continue;
    }
    const std::optional<ShardName> shard = ParseShardFileName(name);
    if (!shard.has_value() || !is_left_over(shard->step, shard->generation) ||
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
    RETURN_IF_ERROR(CheckGone(fs, folder, findings.old_manifests));
  }
  for (const std::string& name : findings.old_shards) {
    if (findings.needed_shards.contains(name)) continue;
    // The format does not forbid a manifest that names a shard of another save.
    const std::optional<ShardName> shard = ParseShardFileName(name);
    if (shard.has_value() && IsRunning(options, shard->step, shard->generation)) continue;
    RETURN_IF_ERROR(remove(name));
  }
  for (const std::string& name : orphans) RETURN_IF_ERROR(remove(name));
  return removed;
}

}  // namespace dsrun::worker
