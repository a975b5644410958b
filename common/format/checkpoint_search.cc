// Which checkpoints a folder has, and which of them is whole: manifests, sizes, what is damaged and
// what only cannot be read now. Reading what is in them is checkpoint_reader.cc's.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/shard_verifier.h"

namespace dsrun {
namespace {

constexpr size_t kMaxListed = 5;
// Between two looks at damage: time for what is not on the disk yet.
constexpr absl::Duration kSecondLook = absl::Milliseconds(200);

// It is not to be had by its name. Missing is what its folder confirms.
absl::Status MissingOrHidden(FileSystem& fs, const std::string& folder, const std::string& name) {
  absl::StatusOr<std::vector<std::string>> names = fs.List(folder);
  RETURN_IF_ERROR(names.status()) << "shard " << JoinPath(folder, name);
  if (!std::binary_search(names->begin(), names->end(), name)) {
    return absl::DataLossError(absl::StrCat("shard ", JoinPath(folder, name), " is missing"));
  }
  return absl::UnavailableError(absl::StrCat("shard ", JoinPath(folder, name),
                                             " is in its folder's list, and cannot be found"));
}

// Shorter than it should be by its size; a network file system may remember an old one. What can be
// read at the end tells.
absl::Status CutOrStale(FileSystem& fs, const std::string& path, int64_t size, int64_t expected) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenToRead(path));
  std::byte last;
  const absl::Status read = file->ReadAt(expected - 1, std::span(&last, 1));
  if (absl::IsOutOfRange(read)) {
    return absl::DataLossError(absl::StrCat("shard ", path, " has ", Counted(size, "byte"),
                                            ", its manifest says ", expected, ": truncated"));
  }
  return read;
}

absl::Status CheckSize(FileSystem& fs, const std::string& folder, const ManifestFile& expected) {
  const std::string path = JoinPath(folder, expected.name);
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  if (absl::IsNotFound(info.status())) return MissingOrHidden(fs, folder, expected.name);
  RETURN_IF_ERROR(info.status()) << "shard " << path;
  if (info->kind != FileKind::kRegular) {
    return absl::DataLossError(absl::StrCat("shard ", path, " is no file"));
  }
  if (info->bytes == expected.bytes) return absl::OkStatus();
  if (info->bytes < expected.bytes) {
    return CutOrStale(fs, path, info->bytes, expected.bytes);
  }
  return absl::DataLossError(absl::StrCat("shard ", path, " has ", Counted(info->bytes, "byte"),
                                          ", its manifest says ", expected.bytes));
}

std::string Line(const PassedOver& passed) {
  return absl::StrCat(passed.manifest, ": ", passed.why);
}

absl::Status NothingFound(const std::string& folder, const FindOptions& options,
                          const CheckpointSearch& search) {
  std::string text = absl::StrCat(
      "no whole checkpoint", options.job_id.empty() ? "" : absl::StrCat(" of job ", options.job_id),
      options.step.has_value() ? absl::StrCat(" of step ", *options.step) : "", " in ", folder);
  if (search.others > 0) absl::StrAppend(&text, "; it holds ", search.others, " of other jobs");
  const size_t shown = std::min(search.passed_over.size(), kMaxListed);
  if (shown > 0) {
    absl::StrAppend(&text, "; not usable (", shown, " of ", search.passed_over.size(), " shown): ");
  }
  for (size_t i = 0; i < shown; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : "; ", Line(search.passed_over[i]));
  }
  return absl::NotFoundError(text);
}

absl::StatusOr<Checkpoint> OpenFilesOf(FileSystem& fs, const std::string& folder,
                                       const std::string& manifest_name, Manifest manifest,
                                       Verify verify) {
  for (const ManifestFile& file : manifest.files) {
    if (verify == Verify::kNone || verify == Verify::kHeaders) break;
    RETURN_IF_ERROR(CheckSize(fs, folder, file));
  }
  if (verify == Verify::kFull) {
    ShardVerifier verifier(fs, folder, manifest);
    for (const ManifestFile& file : manifest.files) {
      const absl::Status status = StatusOf(verifier.VerifyOnce(file, nullptr), folder);
      // Its size was right a moment ago.
      if (absl::IsOutOfRange(status)) return absl::UnavailableError(status.message());
      RETURN_IF_ERROR(status);
    }
  }
  const auto check = verify == Verify::kSizes     ? Checkpoint::TableCheck::kHeader
                     : verify == Verify::kHeaders ? Checkpoint::TableCheck::kHash
                                                  : Checkpoint::TableCheck::kNone;
  return Checkpoint(fs, folder, manifest_name, std::move(manifest), check);
}

// What is behind one listed name.
struct Candidate {
  std::optional<Checkpoint> whole;
  bool of_others = false;
};

absl::StatusOr<Candidate> LookAt(FileSystem& fs, const std::string& folder, const std::string& name,
                                 const FindOptions& options) {
  Candidate candidate;
  absl::StatusOr<Manifest> manifest = ReadManifest(fs, folder, name);
  if (absl::IsFailedPrecondition(manifest.status()) && !options.job_id.empty()) {
    candidate.of_others = true;
    return candidate;
  }
  RETURN_IF_ERROR(manifest.status());
  // Whose it is comes first: a stranger's large files are not worth reading.
  candidate.of_others = !options.job_id.empty() && manifest->facts.job_id != options.job_id;
  if (candidate.of_others) return candidate;
  ASSIGN_OR_RETURN(candidate.whole,
                   OpenFilesOf(fs, folder, name, *std::move(manifest), options.verify));
  return candidate;
}

// Damage is believed when a second look finds the same.
absl::StatusOr<Candidate> LookTwice(FileSystem& fs, const std::string& folder,
                                    const std::string& name, const FindOptions& options) {
  absl::StatusOr<Candidate> first = LookAt(fs, folder, name, options);
  // It was listed: whoever has taken it away since will not be in the next list.
  if (absl::IsNotFound(first.status())) return absl::UnavailableError(first.status().message());
  if (!absl::IsDataLoss(first.status())) return first;
  if (options.patience != nullptr) options.patience->Pause(kSecondLook);
  absl::StatusOr<Candidate> second = LookAt(fs, folder, name, options);
  if (absl::IsNotFound(second.status())) return absl::UnavailableError(second.status().message());
  if (!absl::IsDataLoss(second.status()) || second.status() == first.status()) return second;
  return absl::UnavailableError(
      absl::StrCat("two looks find two things: ", first.status().message(),
                   "; and then: ", second.status().message()));
}

// `last`: what cannot be read is passed over, if that is wanted.
absl::StatusOr<CheckpointSearch> SearchOnce(FileSystem& fs, const std::string& folder,
                                            const FindOptions& options, bool last) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  CheckpointSearch search;
  for (const std::string& name : names) {
    const ManifestKey key = *ParseManifestName(name);
    if (options.step.has_value() && key.step != Step(*options.step)) continue;
    if (const auto proven = options.damaged.find(JoinPath(folder, name));
        proven != options.damaged.end()) {
      search.passed_over.push_back({name, key, proven->second, /*damaged=*/true});
      continue;
    }
    if (const auto given_up = options.unreadable.find(JoinPath(folder, name));
        given_up != options.unreadable.end()) {
      search.passed_over.push_back({name, key, given_up->second, /*damaged=*/false});
      continue;
    }
    absl::StatusOr<Candidate> candidate = LookTwice(fs, folder, name, options);
    if (absl::IsDataLoss(candidate.status()) || (last && !candidate.ok())) {
      search.passed_over.push_back({name, key, std::string(candidate.status().message()),
                                    absl::IsDataLoss(candidate.status())});
      continue;
    }
    RETURN_IF_ERROR(candidate.status());
    if (candidate->of_others) {
      ++search.others;
      continue;
    }
    search.newest = std::move(candidate->whole);
    break;
  }
  return search;
}

}  // namespace

absl::StatusOr<Manifest> ReadManifest(FileSystem& fs, const std::string& folder,
                                      const std::string& manifest_name) {
  return ReadManifestFile(fs, folder, manifest_name, manifest_name);
}

absl::StatusOr<Manifest> ReadManifestFile(FileSystem& fs, const std::string& folder,
                                          const std::string& file,
                                          const std::string& manifest_name) {
  const std::string path = JoinPath(folder, file);
  ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
  if (info.kind != FileKind::kRegular) {
    return absl::DataLossError(absl::StrCat("manifest ", path, " is no file"));
  }
  if (info.bytes > kMostManifestBytes) {
    return absl::DataLossError(absl::StrCat("manifest ", path, ": expected at most ",
                                            kMostManifestBytes, " bytes, got ", info.bytes));
  }
  const absl::StatusOr<std::string> text = ReadFile(fs, path);
  if (absl::IsOutOfRange(text.status())) return absl::UnavailableError(text.status().message());
  RETURN_IF_ERROR(text.status());
  absl::StatusOr<Manifest> manifest = ParseManifest(*text);
  RETURN_IF_ERROR(manifest.status()) << "manifest " << path;
  if (ManifestName(manifest->facts.key) != manifest_name) {
    return absl::DataLossError(absl::StrCat("manifest ", path, " says of itself that it is ",
                                            ManifestName(manifest->facts.key)));
  }
  return manifest;
}

absl::StatusOr<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& folder,
                                          const std::string& manifest_name, Verify verify) {
  ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(fs, folder, manifest_name));
  return OpenFilesOf(fs, folder, manifest_name, std::move(manifest), verify);
}

absl::StatusOr<std::vector<std::string>> ListManifests(FileSystem& fs, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  std::vector<ManifestKey> keys;
  for (const std::string& name : names) {
    if (const auto key = ParseManifestName(name)) keys.push_back(*key);
  }
  std::sort(keys.rbegin(), keys.rend());
  std::vector<std::string> sorted;
  for (const ManifestKey& key : keys) sorted.push_back(ManifestName(key));
  return sorted;
}

absl::StatusOr<CheckpointSearch> SearchCheckpoints(FileSystem& fs, const std::string& folder,
                                                   const FindOptions& options) {
  while (true) {
    absl::StatusOr<CheckpointSearch> search = SearchOnce(fs, folder, options, /*last=*/false);
    // No folder, or a file that another version of this program reads: no matter of time.
    if (search.ok() || absl::IsNotFound(search.status()) ||
        absl::IsFailedPrecondition(search.status())) {
      return search;
    }
    if (options.patience != nullptr && options.patience->Again()) continue;
    if (!options.pass_unreadable) return search;
    return SearchOnce(fs, folder, options, /*last=*/true);
  }
}

absl::StatusOr<Checkpoint> FindNewestCheckpoint(FileSystem& fs, const std::string& folder,
                                                const FindOptions& options,
                                                std::vector<std::string>* rejected) {
  ASSIGN_OR_RETURN(CheckpointSearch search, SearchCheckpoints(fs, folder, options));
  if (rejected != nullptr) {
    for (const PassedOver& passed : search.passed_over) rejected->push_back(Line(passed));
  }
  if (!search.newest.has_value()) return NothingFound(folder, options, search);
  return *std::move(search.newest);
}

}  // namespace dsrun
