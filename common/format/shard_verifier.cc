#include "common/format/shard_verifier.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/counted.h"
#include "common/base/crc32c.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/block_checksums.h"
#include "common/format/safetensors.h"

namespace dsrun {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

// What of `chunk`, which begins at byte `at` of its file, belongs to `piece`.
std::span<const std::byte> PartOf(const ManifestPiece& piece, std::span<const std::byte> chunk,
                                  int64_t at) {
  const int64_t from = std::max(piece.offset - at, int64_t{0});
  const int64_t to =
      std::min(piece.offset + piece.bytes() - at, static_cast<int64_t>(chunk.size()));
  if (from >= to) return {};
  return chunk.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
}

// A network file system may remember an old size: what can be read where the file should end tells.
absl::StatusOr<bool> IsOfAnotherSize(FileSystem& fs, const std::string& path, const FileInfo& info,
                                     int64_t bytes) {
  if (info.kind != FileKind::kRegular || info.bytes > bytes) return true;
  if (info.bytes == bytes) return false;
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenToRead(path));
  std::byte last;
  const absl::Status read = file->ReadAt(bytes - 1, std::span(&last, 1));
  if (absl::IsOutOfRange(read)) return true;
  RETURN_IF_ERROR(read);
  return false;
}

std::string SizeWords(const ShardVerdict& verdict) {
  return absl::StrCat("expected ", Counted(verdict.expected_bytes, "byte"), ", got ", verdict.bytes,
                      verdict.bytes < verdict.expected_bytes ? " (cut)" : "");
}

}  // namespace

const char* StateName(ShardVerdict::State state) {
  switch (state) {
    case ShardVerdict::State::kWhole:
      return "whole";
    case ShardVerdict::State::kMissing:
      return "missing";
    case ShardVerdict::State::kDamaged:
      return "damaged";
    case ShardVerdict::State::kUnreadable:
      break;
  }
  return "unreadable";
}

absl::Status StatusOf(const ShardVerdict& verdict, const std::string& folder) {
  const std::string path = JoinPath(folder, verdict.file);
  switch (verdict.state) {
    case ShardVerdict::State::kWhole:
      return absl::OkStatus();
    case ShardVerdict::State::kMissing:
      return absl::DataLossError(absl::StrCat("shard ", path, " is missing"));
    case ShardVerdict::State::kUnreadable:
      return Annotate(verdict.error, absl::StrCat("shard ", path));
    case ShardVerdict::State::kDamaged:
      break;
  }
  std::string text = absl::StrCat("shard ", path, " is damaged: ");
  if (verdict.computed_sha256.empty()) {
    absl::StrAppend(&text, SizeWords(verdict));
  } else if (verdict.computed_sha256 != verdict.expected_sha256) {
    absl::StrAppend(&text, "its SHA-256 is ", verdict.computed_sha256, ", its manifest says ",
                    verdict.expected_sha256);
  } else if (!verdict.contradiction.empty()) {
    absl::StrAppend(&text, verdict.contradiction);
  }
  if (!verdict.pieces.empty()) {
    const PieceDamage& first = verdict.pieces.front();
    if (verdict.computed_sha256 == verdict.expected_sha256) {
      absl::StrAppend(&text, "its CRC-32C is ", absl::StrFormat("%08x", first.computed_crc32c),
                      ", its table says ", absl::StrFormat("%08x", first.expected_crc32c));
    }
    absl::StrAppend(&text, "; ", verdict.pieces.size() == 1 ? "" : "first ", "in elements [",
                    first.begin, ", ", first.end, ") of ", first.tensor);
  }
  return absl::DataLossError(text);
}

ShardVerifier::ShardVerifier(FileSystem& fs, std::string folder, const Manifest& manifest)
    : fs_(fs), folder_(std::move(folder)), manifest_(manifest) {
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (const ManifestPiece& piece : tensor.pieces) {
      pieces_[manifest.FileOf(piece).name].push_back({&tensor, &piece});
    }
  }
  for (auto& [file, pieces] : pieces_) {
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.piece->offset < b.piece->offset; });
  }
}

ShardVerdict ShardVerifier::Verify(const ManifestFile& file,
                                   const std::function<void(int64_t)>& read) {
  ShardVerdict first = Look(file, read);
  if (first.state == ShardVerdict::State::kWhole ||
      first.state == ShardVerdict::State::kUnreadable) {
    return first;
  }
  ShardVerdict second = Look(file, read);
  if (second == first || second.state == ShardVerdict::State::kUnreadable) return second;
  second.error = absl::UnavailableError(absl::StrCat(
      "two looks found two things: ", StateName(first.state), ", then ", StateName(second.state),
      "; something writes to it, or the disk, its cable or the memory is failing"));
  second.state = ShardVerdict::State::kUnreadable;
  return second;
}

// A name that cannot be opened although its folder lists it says nothing about the file.
ShardVerdict::State ShardVerifier::MissingOrNot(const std::string& name, absl::Status& error) {
  const absl::StatusOr<std::vector<std::string>> names = fs_.List(folder_);
  if (names.ok() && !std::binary_search(names->begin(), names->end(), name)) {
    return ShardVerdict::State::kMissing;
  }
  error = names.ok() ? absl::UnavailableError("its folder lists it, and it cannot be found")
                     : names.status();
  return ShardVerdict::State::kUnreadable;
}

ShardVerdict ShardVerifier::Look(const ManifestFile& file,
                                 const std::function<void(int64_t)>& read) {
  ShardVerdict verdict;
  verdict.file = file.name;
  verdict.expected_bytes = file.bytes;
  const std::string path = JoinPath(folder_, file.name);
  const absl::StatusOr<FileInfo> info = fs_.Stat(path);
  if (absl::IsNotFound(info.status())) {
    verdict.state = MissingOrNot(file.name, verdict.error);
    return verdict;
  }
  verdict.error = info.status();
  if (info.ok()) {
    verdict.bytes = info->bytes;
    const absl::StatusOr<bool> another = IsOfAnotherSize(fs_, path, *info, file.bytes);
    if (another.ok() && *another) {
      verdict.state = ShardVerdict::State::kDamaged;
      return verdict;
    }
    verdict.error = another.status();
  }
  if (verdict.error.ok()) {
    absl::StatusOr<std::unique_ptr<ReadableFile>> opened = fs_.OpenToRead(path);
    if (!opened.ok()) {
      verdict.error = opened.status();
    } else {
      verdict.error = file.block_bytes > 0 ? CompareBlocks(**opened, file, read, verdict)
                                           : Compare(**opened, file, read, verdict);
    }
  }
  if (!verdict.error.ok()) {
    verdict.state = ShardVerdict::State::kUnreadable;
  } else if (verdict.computed_sha256 != file.sha256 || !verdict.pieces.empty() ||
             !verdict.contradiction.empty()) {
    verdict.state = ShardVerdict::State::kDamaged;
  }
  return verdict;
}

// Format 1, one pass: the whole file's SHA-256, and the CRC-32C of every piece.
absl::Status ShardVerifier::Compare(ReadableFile& file, const ManifestFile& expected,
                                    const std::function<void(int64_t)>& read,
                                    ShardVerdict& verdict) {
  const std::vector<Piece>& pieces = pieces_[expected.name];
  std::vector<uint32_t> sums(pieces.size(), 0);
  size_t first = 0;  // the first piece that has bytes ahead
  Sha256 hash;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(expected.bytes, kChunkBytes)));
  for (int64_t at = 0; at < expected.bytes; at += kChunkBytes) {
    const std::span<std::byte> chunk =
        std::span(buffer).first(static_cast<size_t>(std::min(expected.bytes - at, kChunkBytes)));
    RETURN_IF_ERROR(file.ReadAt(at, chunk));
    hash.Update(chunk);
    const int64_t end = at + static_cast<int64_t>(chunk.size());
    for (size_t i = first; i < pieces.size() && pieces[i].piece->offset < end; ++i) {
      sums[i] = ExtendCrc32c(sums[i], PartOf(*pieces[i].piece, chunk, at));
    }
    while (first < pieces.size() &&
           pieces[first].piece->offset + pieces[first].piece->bytes() <= end) {
      ++first;
    }
    if (read) read(static_cast<int64_t>(chunk.size()));
  }
  verdict.expected_sha256 = expected.sha256;
  verdict.computed_sha256 = hash.HexDigest();
  for (size_t i = 0; i < pieces.size(); ++i) {
    const ManifestPiece& piece = *pieces[i].piece;
    if (sums[i] == piece.crc32c) continue;
    verdict.pieces.push_back({pieces[i].tensor->name, piece.begin, piece.end,
                              EntryName(manifest_, *pieces[i].tensor, piece), piece.crc32c,
                              sums[i]});
  }
  return absl::OkStatus();
}

// One pass from the start of the file to its end.
absl::Status ShardVerifier::CompareBlocks(ReadableFile& file, const ManifestFile& expected,
                                          const std::function<void(int64_t)>& read,
                                          ShardVerdict& verdict) {
  const std::vector<Piece>& pieces = pieces_[expected.name];
  Sha256 hash;
  const auto use = [&](int64_t from, int64_t to, const auto& then) -> absl::Status {
    std::vector<std::byte> buffer(static_cast<size_t>(std::min(to - from, kChunkBytes)));
    for (int64_t at = from; at < to; at += kChunkBytes) {
      const auto chunk =
          std::span(buffer).first(static_cast<size_t>(std::min(to - at, kChunkBytes)));
      RETURN_IF_ERROR(file.ReadAt(at, chunk));
      then(std::span<const std::byte>(chunk));
      if (read) read(static_cast<int64_t>(chunk.size()));
    }
    return absl::OkStatus();
  };
  std::string header;
  RETURN_IF_ERROR(use(0, expected.header_bytes, [&](std::span<const std::byte> part) {
    hash.Update(part);
    header.append(reinterpret_cast<const char*>(part.data()), part.size());
  }));
  std::vector<int64_t> sizes;
  for (const Piece& piece : pieces) sizes.push_back(piece.piece->bytes());
  BlockChecksums computed(std::move(sizes), expected.block_bytes);
  RETURN_IF_ERROR(use(expected.header_bytes, expected.table_offset(),
                      [&](std::span<const std::byte> part) { computed.Update(part); }));
  std::string table;
  RETURN_IF_ERROR(
      use(expected.table_offset(), expected.bytes, [&](std::span<const std::byte> part) {
        hash.Update(part);
        table.append(reinterpret_cast<const char*>(part.data()), part.size());
      }));
  verdict.expected_sha256 = expected.sha256;
  verdict.computed_sha256 = hash.HexDigest();
  std::vector<uint32_t> sums(static_cast<size_t>(expected.blocks));
  table.resize(sums.size() * sizeof(uint32_t));  // as it is, unless the file changes meanwhile
  if (!sums.empty()) std::memcpy(sums.data(), table.data(), table.size());
  CompareTable(pieces, expected, sums, computed.sums(), verdict);
  if (verdict.computed_sha256 == expected.sha256) {
    verdict.contradiction = CompareHeader(header, expected, pieces);
  }
  return absl::OkStatus();
}

void ShardVerifier::CompareTable(const std::vector<Piece>& pieces, const ManifestFile& file,
                                 const std::vector<uint32_t>& expected,
                                 const std::vector<uint32_t>& computed,
                                 ShardVerdict& verdict) const {
  const int64_t block_elements = file.block_bytes / static_cast<int64_t>(sizeof(float));
  for (const Piece& one : pieces) {
    const ManifestPiece& piece = *one.piece;
    const int64_t count = BlockCount(piece.bytes(), file.block_bytes);
    for (int64_t i = 0; i < count; ++i) {
      const auto block = static_cast<size_t>(piece.first_block + i);
      if (computed[block] == expected[block]) continue;
      const int64_t begin = piece.begin + i * block_elements;
      verdict.pieces.push_back(
          {one.tensor->name, begin, std::min(piece.end, begin + block_elements),
           EntryName(manifest_, *one.tensor, piece), expected[block], computed[block]});
    }
  }
}

// Empty: every piece lies where its manifest says, or computes, and nothing else is there.
std::string ShardVerifier::CompareHeader(const std::string& header, const ManifestFile& file,
                                         const std::vector<Piece>& pieces) const {
  const absl::StatusOr<SafetensorsHeader> parsed = ParseSafetensorsHeader(header, file.bytes);
  if (!parsed.ok()) return std::string(parsed.status().message());
  const std::vector<SafetensorsEntry>& entries = parsed->entries;
  const size_t tables = file.blocks > 0 ? 1 : 0;
  if (entries.size() != pieces.size() + tables || parsed->data_start != file.header_bytes) {
    return absl::StrCat("its header has ", entries.size(), " entries", " behind byte ",
                        parsed->data_start, ", its manifest says ", pieces.size() + tables,
                        " behind byte ", file.header_bytes);
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const ManifestPiece& piece = *pieces[i].piece;
    const std::string name = EntryName(manifest_, *pieces[i].tensor, piece);
    if (entries[i].name == name && entries[i].dtype == "F32" &&
        entries[i].begin + parsed->data_start == piece.offset) {
      continue;
    }
    return absl::StrCat("its header has entry ", entries[i].name, " at byte ",
                        entries[i].begin + parsed->data_start, ", its manifest says ", name,
                        " at byte ", piece.offset);
  }
  return "";
}

}  // namespace dsrun
