#include "worker/checkpoint/prune.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/aside.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"
#include "common/format/safetensors.h"
#include "common/format/tags.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {
namespace {

struct OldManifest {
  std::string name;
  std::vector<std::string> shards;
};

struct Findings {
  std::vector<OldManifest> old_manifests;
  std::set<std::string> old_shards;     // named by old manifests
  std::set<std::string> needed_shards;  // named by any manifest that stays, or is aside
  std::vector<ManifestKey> whole;       // of this job, newest first
  size_t whole_of_caller = 0;           // of them, of the caller's generation
};

bool IsRunning(const PruneOptions& options, Step step, Generation generation) {
  return std::find(options.running.begin(), options.running.end(), RunningSave{step, generation}) !=
         options.running.end();
}

// Everything that was listed is read, or nothing is known. `file` is what stands there under the
// name of `manifest`, or of one that is aside.
absl::StatusOr<Manifest> Read(FileSystem& fs, const std::string& folder, const std::string& file,
                              const std::string& manifest) {
  absl::StatusOr<Manifest> read = ReadManifestFile(fs, folder, file, manifest);
  if (read.ok()) return read;
  return absl::Status(
      read.status().code(),
      absl::StrCat(std::string(read.status().message()),
                   "; as long as it cannot be read, nothing in ", folder,
                   " is removed, because it may need it: make it readable, or if it is torn and "
                   "of no use, remove ",
                   JoinPath(folder, file)));
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

// What prunes have left aside when they died: of this job it is brought back, of others it stays
// where it is, and its shards are needed.
absl::Status UndoTheUnfinished(FileSystem& fs, const std::string& folder,
                               const PruneOptions& options, std::set<std::string>& needed_shards) {
  ASSIGN_OR_RETURN(const std::vector<Aside> asides, ListAsides(fs, folder));
  for (const Aside& aside : asides) {
    const absl::StatusOr<Manifest> manifest = Read(fs, folder, aside.name, aside.manifest);
    if (absl::IsNotFound(manifest.status())) continue;  // somebody else was faster
    RETURN_IF_ERROR(manifest.status());
    if (manifest->facts.job_id != options.job_id ||
        manifest->facts.key.generation > options.generation) {
      for (const ManifestFile& file : manifest->files) needed_shards.insert(file.name);
      continue;
    }
    // Both names are one file's where a prune died between link and unlink. It was seen under the
    // name that stays after it was seen under this one, which nobody gives to a file again.
    if (fs.Stat(JoinPath(folder, aside.manifest)).ok()) {
      fs.RemoveFile(JoinPath(folder, aside.name)).IgnoreError();  // debris at worst
      continue;
    }
    const absl::Status back = BringBack(fs, folder, aside.manifest);
    if (!absl::IsNotFound(back) && !back.ok()) return back;
  }
  return absl::OkStatus();
}

absl::StatusOr<Findings> Sort(FileSystem& fs, const std::string& folder,
                              const PruneOptions& options) {
  Findings findings;
  RETURN_IF_ERROR(UndoTheUnfinished(fs, folder, options, findings.needed_shards));
  ASSIGN_OR_RETURN(const std::set<std::string> tagged, TaggedManifests(fs, folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  const auto keep = static_cast<size_t>(std::max<int64_t>(options.keep, 1));
  for (const std::string& name : names) {  // newest first
    ASSIGN_OR_RETURN(const Manifest manifest, Read(fs, folder, name, name));
    const ManifestKey& key = manifest.facts.key;
    const bool ours =
        manifest.facts.job_id == options.job_id && key.generation <= options.generation;
    const bool kept = tagged.contains(name) || IsRunning(options, key.step, key.generation) ||
                      (options.keep_every > 0 && key.step.value() % options.keep_every == 0);
    // What this generation saved last stays, also below steps that were thrown away before it.
    const bool own_last = key.generation == options.generation && findings.whole_of_caller < keep;
    const bool old = ours && !kept && !own_last && findings.whole.size() >= keep;
    if (old) findings.old_manifests.push_back({name, {}});
    for (const ManifestFile& file : manifest.files) {
      if (old) findings.old_manifests.back().shards.push_back(file.name);
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

bool IsTidied(const absl::Status& status) {
  return status.ok() || absl::IsNotFound(status);  // somebody else may tidy, too
}

// Sets all of them aside, and then reads the tags: who gives one from now on misses its manifest.
absl::StatusOr<std::set<std::string>> SetAllAside(FileSystem& fs, const std::string& folder,
                                                  const std::vector<OldManifest>& old,
                                                  std::map<std::string, std::string>& aside) {
  for (const OldManifest& manifest : old) {
    const absl::StatusOr<Aside> done = SetAside(fs, folder, manifest.name);
    if (!IsTidied(done.status())) return done.status();
    if (done.ok()) aside[manifest.name] = done->name;
  }
  RETURN_IF_ERROR(fs.SyncFolder(folder));
  return TaggedManifests(fs, folder);
}

// Those that this call, and nobody else, has removed for good: their shards may go.
absl::StatusOr<std::vector<OldManifest>> RemoveUntagged(FileSystem& fs, const std::string& folder,
                                                        const std::vector<OldManifest>& old) {
  std::map<std::string, std::string> aside;  // by the manifest's name
  ASSIGN_OR_RETURN(const std::set<std::string> tagged, SetAllAside(fs, folder, old, aside));
  std::vector<OldManifest> removed;
  for (const OldManifest& manifest : old) {
    if (tagged.contains(manifest.name)) {
      const absl::Status back = BringBack(fs, folder, manifest.name);
      if (!IsTidied(back)) return back;
    } else if (aside.contains(manifest.name)) {
      const absl::Status status = fs.RemoveFile(JoinPath(folder, aside[manifest.name]));
      if (!IsTidied(status)) return status;
      if (status.ok()) removed.push_back(manifest);
    }
  }
  // No manifest may come back after a crash without its shards.
  RETURN_IF_ERROR(fs.SyncFolder(folder));
  return removed;
}

// That a removal is acknowledged is not enough to remove what the file names.
absl::Status CheckGone(FileSystem& fs, const std::string& folder,
                       const std::vector<OldManifest>& manifests) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  std::set<std::string> left;
  for (const std::string& name : names) {
    const std::optional<Aside> aside = ParseAsideName(name);
    left.insert(aside.has_value() ? aside->manifest : name);
  }
  for (const OldManifest& manifest : manifests) {
    if (!left.contains(manifest.name)) continue;
    return absl::UnavailableError(absl::StrCat("manifest ", JoinPath(folder, manifest.name),
                                               " was removed and is still listed; its shards "
                                               "stay"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OldManifest>> RemoveManifests(FileSystem& fs, const std::string& folder,
                                                         const std::vector<OldManifest>& old) {
  if (old.empty()) return old;
  absl::StatusOr<std::vector<OldManifest>> removed = RemoveUntagged(fs, folder, old);
  if (!removed.ok()) {
    // The first error is the one to report; the next prune brings back what cannot be now.
    for (const OldManifest& manifest : old) BringBack(fs, folder, manifest.name).IgnoreError();
    return removed;
  }
  RETURN_IF_ERROR(CheckGone(fs, folder, *removed));
  return removed;
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
  std::set<std::string> manifests;  // that are there, or aside
  for (const std::string& name : names) {
    const std::optional<Aside> aside = ParseAsideName(name);
    manifests.insert(aside.has_value() ? aside->manifest : name);
  }
  std::vector<std::string> orphans;
  for (const std::string& name : names) {
    if (const auto manifest = ManifestOfTagTemporary(name)) {
      if (!manifests.contains(*manifest)) orphans.push_back(name);
      continue;
    }
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

// Those that the manifests that are gone have named, and no other.
std::set<std::string> ShardsOf(const Findings& findings, const std::vector<OldManifest>& gone,
                               const PruneOptions& options) {
  std::set<std::string> needed = findings.needed_shards;
  const auto is_gone = [&](const OldManifest& old) {
    return std::any_of(gone.begin(), gone.end(),
                       [&](const OldManifest& manifest) { return manifest.name == old.name; });
  };
  for (const OldManifest& old : findings.old_manifests) {
    if (!is_gone(old)) needed.insert(old.shards.begin(), old.shards.end());
  }
  std::set<std::string> shards;
  for (const OldManifest& manifest : gone) {
    for (const std::string& name : manifest.shards) {
      // The format does not forbid a manifest that names a shard of another save.
      const std::optional<ShardName> shard = ParseShardFileName(name);
      const bool running = shard.has_value() && IsRunning(options, shard->step, shard->generation);
      if (!running && !needed.contains(name)) shards.insert(name);
    }
  }
  return shards;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> PruneCheckpoints(FileSystem& fs, const std::string& folder,
                                                          const PruneOptions& options) {
  ASSIGN_OR_RETURN(const Findings findings, Sort(fs, folder, options));
  ASSIGN_OR_RETURN(const std::vector<std::string> orphans, Orphans(fs, folder, options, findings));
  std::vector<std::string> removed;
  ASSIGN_OR_RETURN(const std::vector<OldManifest> gone,
                   RemoveManifests(fs, folder, findings.old_manifests));
  for (const OldManifest& manifest : gone) removed.push_back(manifest.name);
  const auto remove = [&](const std::string& name) {
    const absl::Status status = fs.RemoveFile(JoinPath(folder, name));
    if (status.ok()) removed.push_back(name);
    return IsTidied(status) ? absl::OkStatus() : status;
  };
  for (const std::string& name : ShardsOf(findings, gone, options)) RETURN_IF_ERROR(remove(name));
  for (const std::string& name : orphans) RETURN_IF_ERROR(remove(name));
  return removed;
}

}  // namespace dsrun::worker
