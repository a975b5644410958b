#include "common/format/checkpoint_reader.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/base/crc32c.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;
constexpr size_t kMaxListed = 5;

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

absl::Status CheckSize(FileSystem& fs, const std::string& path, const ManifestFile& expected) {
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  if (absl::IsNotFound(info.status())) {
    return absl::DataLossError(absl::StrCat("shard ", path, " is missing"));
  }
  RETURN_IF_ERROR(info.status()) << "shard " << path;
  if (info->kind == FileKind::kRegular && info->bytes == expected.bytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("shard ", path, " has ", Counted(info->bytes, "byte"),
                                          ", its manifest says ", expected.bytes,
                                          info->bytes < expected.bytes ? ": truncated" : ""));
}

absl::Status CheckBytes(FileSystem& fs, const std::string& path, const ManifestFile& expected) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenToRead(path));
  Sha256 hash;
  RETURN_IF_ERROR(ReadInChunks(*file, 0, expected.bytes,
                               [&](std::span<const std::byte> part) { hash.Update(part); }))
      << "shard " << path;
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

absl::Status NothingFound(const std::string& folder, const FindOptions& options,
                          const std::vector<std::string>& rejected, size_t others) {
  std::string text = absl::StrCat(
      "no whole checkpoint", options.job_id.empty() ? "" : absl::StrCat(" of job ", options.job_id),
      options.step.has_value() ? absl::StrCat(" of step ", *options.step) : "", " in ", folder);
  if (others > 0) absl::StrAppend(&text, "; it holds ", others, " of other jobs");
  if (!rejected.empty()) {
    const size_t shown = std::min(rejected.size(), kMaxListed);
    absl::StrAppend(&text, "; not usable (", shown, " of ", rejected.size(), " shown): ",
                    absl::StrJoin(rejected.begin(),
                                  rejected.begin() + static_cast<std::ptrdiff_t>(shown), "; "));
  }
  return absl::NotFoundError(text);
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
                                   float* into) {
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
    RETURN_IF_ERROR(ReadPiece(piece, from, to, into + (from - begin)))
        << "shard " << JoinPath(folder_, piece.file);
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ReadPiece(const ManifestPiece& piece, int64_t begin, int64_t end,
                                   float* into) {
  ASSIGN_OR_RETURN(ReadableFile * file, Open(piece.file));
  const int64_t float_bytes = sizeof(float);
  const std::span<std::byte> bytes =
      std::as_writable_bytes(std::span(into, static_cast<size_t>(end - begin)));
  // The whole of a piece is the usual case: one pass reads and checks it.
  if (begin == piece.begin && end == piece.end) {
    RETURN_IF_ERROR(file->ReadAt(piece.offset, bytes));
    return CompareCrc32c(piece, ExtendCrc32c(0, bytes));
  }
  if (!checked_.contains(&piece)) {
    RETURN_IF_ERROR(CheckPiece(*file, piece));
    checked_.insert(&piece);
  }
  return file->ReadAt(piece.offset + (begin - piece.begin) * float_bytes, bytes);
}

absl::Status Checkpoint::CheckPiece(ReadableFile& file, const ManifestPiece& piece) {
  uint32_t crc32c = 0;
  const int64_t bytes = (piece.end - piece.begin) * static_cast<int64_t>(sizeof(float));
  RETURN_IF_ERROR(ReadInChunks(file, piece.offset, bytes, [&](std::span<const std::byte> part) {
    crc32c = ExtendCrc32c(crc32c, part);
  }));
  return CompareCrc32c(piece, crc32c);
}

absl::StatusOr<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& folder,
                                          const std::string& manifest_name, Verify verify) {
  const std::string path = JoinPath(folder, manifest_name);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(fs, path));
  absl::StatusOr<Manifest> manifest = ParseManifest(text);
  RETURN_IF_ERROR(manifest.status()) << "manifest " << path;
  if (ManifestName(manifest->facts.key) != manifest_name) {
    return absl::DataLossError(absl::StrCat("manifest ", path, " says of itself that it is ",
                                            ManifestName(manifest->facts.key)));
  }
  for (const ManifestFile& file : manifest->files) {
    if (verify == Verify::kNone) break;
    RETURN_IF_ERROR(CheckSize(fs, JoinPath(folder, file.name), file));
  }
  if (verify == Verify::kFull) {
    for (const ManifestFile& file : manifest->files) {
      RETURN_IF_ERROR(CheckBytes(fs, JoinPath(folder, file.name), file));
    }
  }
  return Checkpoint(fs, folder, manifest_name, *std::move(manifest));
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

absl::StatusOr<Checkpoint> FindNewestCheckpoint(FileSystem& fs, const std::string& folder,
                                                const FindOptions& options,
                                                std::vector<std::string>* rejected) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListManifests(fs, folder));
  std::vector<std::string> findings;
  size_t others = 0;
  for (const std::string& name : names) {
    const ManifestKey key = *ParseManifestName(name);
    if (options.step.has_value() && key.step != Step(*options.step)) continue;
    if (const auto proven = options.damaged.find(JoinPath(folder, name));
        proven != options.damaged.end()) {
      findings.push_back(absl::StrCat(name, ": ", proven->second));
      if (rejected != nullptr) rejected->push_back(findings.back());
      continue;
    }
    // Whose it is comes first: a stranger's large files are not worth reading.
    absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(fs, folder, name, Verify::kSizes);
    if (checkpoint.ok() && !options.job_id.empty() &&
        checkpoint->manifest().facts.job_id != options.job_id) {
      ++others;
      continue;
    }
    if (checkpoint.ok() && options.verify == Verify::kFull) {
      checkpoint = OpenCheckpoint(fs, folder, name, Verify::kFull);
    }
    if (checkpoint.ok()) return checkpoint;
    findings.push_back(absl::StrCat(name, ": ", checkpoint.status().message()));
    if (rejected != nullptr) rejected->push_back(findings.back());
  }
  return NothingFound(folder, options, findings, others);
}

}  // namespace dsrun
