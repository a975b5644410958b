#include "common/format/checkpoint_reader.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "common/base/crc32c.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;
constexpr size_t kMaxListed = 5;
// Between two looks at damage: time for what is not on the disk yet.
constexpr absl::Duration kSecondLook = absl::Milliseconds(200);

// Calls use(bytes) for [offset, offset + size) of `file`, in order.
template <typename Use>
absl::Status ReadInChunks(ReadableFile& file, int64_t offset, int64_t size, const Use& use) {
  std::vector<std::byte> chunk(static_cast<size_t>(std::min(size, kChunkBytes)));
  for (int64_t done = 0; done < size;) {
    const std::span<std::byte> part =
        std::span(chunk).first(static_cast<size_t>(std::min(size - done, kChunkBytes)));
    RETURN_IF_ERROR(file.ReadAt(offset + done, part));
    use(part);
    done += static_cast<int64_t>(part.size());
  }
  return absl::OkStatus();
}

// The same into memory that is the caller's.
template <typename Use>
absl::Status ReadInto(ReadableFile& file, int64_t offset, std::span<std::byte> into,
                      const Use& use) {
  while (!into.empty()) {
    const std::span<std::byte> part =
        into.first(std::min(into.size(), static_cast<size_t>(kChunkBytes)));
    RETURN_IF_ERROR(file.ReadAt(offset, part));
    use(part);
    offset += static_cast<int64_t>(part.size());
    into = into.subspan(part.size());
  }
  return absl::OkStatus();
}

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

absl::Status CheckBytes(FileSystem& fs, const std::string& path, const ManifestFile& expected) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenToRead(path));
  Sha256 hash;
  const absl::Status read = ReadInChunks(
      *file, 0, expected.bytes, [&](std::span<const std::byte> part) { hash.Update(part); });
  // Its size was right a moment ago.
  if (absl::IsOutOfRange(read)) return absl::UnavailableError(read.message());
  RETURN_IF_ERROR(read) << "shard " << path;
  const std::string computed = hash.HexDigest();
  if (computed == expected.sha256) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("shard ", path, " is damaged: its SHA-256 is ", computed,
                                          ", its manifest says ", expected.sha256));
}

absl::Status CompareCrc32c(const ManifestPiece& piece, uint32_t crc32c) {
  if (crc32c == piece.crc32c) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("entry ", piece.entry, " is damaged: its CRC-32C is ",
                                          absl::StrFormat("%08x", crc32c), ", its manifest says ",
                                          absl::StrFormat("%08x", piece.crc32c)));
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
    if (verify == Verify::kNone) break;
    RETURN_IF_ERROR(CheckSize(fs, folder, file));
  }
  if (verify == Verify::kFull) {
    for (const ManifestFile& file : manifest.files) {
      RETURN_IF_ERROR(CheckBytes(fs, JoinPath(folder, file.name), file));
    }
  }
  return Checkpoint(fs, folder, manifest_name, std::move(manifest));
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

absl::StatusOr<ReadableFile*> Checkpoint::Open(const std::string& file) {
  auto found = open_.find(file);
  if (found == open_.end()) {
    if (open_.size() >= kMaxOpenFiles) {
      open_.erase(std::min_element(open_.begin(), open_.end(), [](const auto& a, const auto& b) {
        return a.second.last_use < b.second.last_use;
      }));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> opened,
                     fs_->OpenToRead(JoinPath(folder_, file)));
    found = open_.emplace(file, OpenFile{std::move(opened)}).first;
  }
  found->second.last_use = ++uses_;
  return found->second.file.get();
}

absl::Status Checkpoint::ReadRange(const std::string& tensor, int64_t begin, int64_t end,
                                   float* into, const std::function<void()>& moved) {
  const ManifestTensor* found = manifest_.FindTensor(tensor);
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("no tensor ", tensor, " in ", JoinPath(folder_, manifest_name_)));
  }
  if (begin < 0 || end < begin || end > found->size()) {
    return absl::OutOfRangeError(absl::StrCat(tensor, " has ", found->size(),
                                              " elements, asked for [", begin, ", ", end, ")"));
  }
  for (const ManifestPiece& piece : found->pieces) {
    const int64_t from = std::max(begin, piece.begin);
    const int64_t to = std::min(end, piece.end);
    if (from >= to) continue;
    const absl::Status read = ReadPiece(piece, from, to, into + (from - begin), moved);
    // Its size was right when it was opened.
    if (absl::IsOutOfRange(read)) return absl::UnavailableError(read.message());
    RETURN_IF_ERROR(read) << "shard " << JoinPath(folder_, piece.file);
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ReadPiece(const ManifestPiece& piece, int64_t begin, int64_t end,
                                   float* into, const std::function<void()>& moved) {
  ASSIGN_OR_RETURN(ReadableFile * file, Open(piece.file));
  const int64_t float_bytes = sizeof(float);
  const std::span<std::byte> bytes =
      std::as_writable_bytes(std::span(into, static_cast<size_t>(end - begin)));
  // The whole of a piece is the usual case: one pass reads and checks it.
  if (begin == piece.begin && end == piece.end) {
    uint32_t crc32c = 0;
    RETURN_IF_ERROR(ReadInto(*file, piece.offset, bytes, [&](std::span<const std::byte> part) {
      crc32c = ExtendCrc32c(crc32c, part);
      if (moved) moved();
    }));
    return CompareCrc32c(piece, crc32c);
  }
  if (!checked_.contains(&piece)) {
    RETURN_IF_ERROR(CheckPiece(*file, piece, moved));
    checked_.insert(&piece);
  }
  return ReadInto(*file, piece.offset + (begin - piece.begin) * float_bytes, bytes,
                  [&](std::span<const std::byte>) {
                    if (moved) moved();
                  });
}

absl::Status Checkpoint::CheckPiece(ReadableFile& file, const ManifestPiece& piece,
                                    const std::function<void()>& moved) {
  uint32_t crc32c = 0;
  const int64_t bytes = (piece.end - piece.begin) * static_cast<int64_t>(sizeof(float));
  RETURN_IF_ERROR(ReadInChunks(file, piece.offset, bytes, [&](std::span<const std::byte> part) {
    crc32c = ExtendCrc32c(crc32c, part);
    if (moved) moved();
  }));
  return CompareCrc32c(piece, crc32c);
}

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
