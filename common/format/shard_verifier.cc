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
#include "common/base/in_parallel.h"
#include "common/base/mutex.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/block_checksums.h"

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

ShardVerifier::ShardVerifier(FileSystem& fs, std::string folder, const Manifest& manifest, int jobs)
    : fs_(fs),
      folder_(std::move(folder)),
      manifest_(manifest),
      jobs_(jobs),
      pieces_(PiecesByFile(manifest)) {}

const std::vector<PieceOfFile>& ShardVerifier::PiecesOf(const ManifestFile& file) const {
  static const std::vector<PieceOfFile> none;
  const ManifestFile* const found = manifest_.FindFile(file.name);
  return found == nullptr ? none : pieces_[static_cast<size_t>(found - manifest_.files.data())];
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
  const std::vector<PieceOfFile>& pieces = PiecesOf(expected);
  std::vector<uint32_t> sums(pieces.size(), 0);
  size_t first = 0;  // the first piece that has bytes ahead
  Sha256 hash;
  std::string header;  // what is in front of the pieces
  const int64_t header_bytes = std::min(
      pieces.empty() ? expected.bytes : pieces.front().piece->offset, kMostShardHeaderBytes);
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(expected.bytes, kChunkBytes)));
  for (int64_t at = 0; at < expected.bytes; at += kChunkBytes) {
    const std::span<std::byte> chunk =
        std::span(buffer).first(static_cast<size_t>(std::min(expected.bytes - at, kChunkBytes)));
    RETURN_IF_ERROR(file.ReadAt(at, chunk));
    hash.Update(chunk);
    const int64_t end = at + static_cast<int64_t>(chunk.size());
    if (at < header_bytes) {
      header.append(reinterpret_cast<const char*>(chunk.data()),
                    static_cast<size_t>(std::min(header_bytes, end) - at));
    }
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
  if (verdict.computed_sha256 == expected.sha256 && verdict.pieces.empty()) {
    verdict.contradiction = HeaderContradiction(manifest_, expected, pieces, header);
  }
  return absl::OkStatus();
}

namespace {

// Reads [from, to) of a file from the front to the back.
absl::Status ReadAll(ReadableFile& file, int64_t from, int64_t to,
                     const std::function<void(std::span<const std::byte>)>& use) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(to - from, kChunkBytes)));
  for (int64_t at = from; at < to; at += kChunkBytes) {
    const auto chunk = std::span(buffer).first(static_cast<size_t>(std::min(to - at, kChunkBytes)));
    RETURN_IF_ERROR(file.ReadAt(at, chunk));
    use(chunk);
  }
  return absl::OkStatus();
}

// The checksums of all blocks of one file, by several threads: a window of adjacent blocks is read
// and hashed by one of them.
class BlockHasher {
 public:
  BlockHasher(ReadableFile& file, const std::vector<PieceOfFile>& pieces, int64_t block_bytes)
      : file_(file), pieces_(pieces), block_bytes_(block_bytes) {
    int64_t blocks = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const ManifestPiece& piece = *pieces[i].piece;
      for (int64_t at = 0; at < piece.bytes(); at += block_bytes) {
        const int64_t size = std::min(block_bytes, piece.bytes() - at);
        const bool fits = !windows_.empty() && windows_.back().bytes + size <= kChunkBytes;
        if (!fits) windows_.push_back({i, at, piece.offset + at, 0, blocks});
        windows_.back().bytes += size;
        ++blocks;
      }
    }
    sums_.resize(static_cast<size_t>(blocks));
  }

  absl::Status Run(int jobs, const std::function<void(int64_t)>& read) {
    buffers_.resize(static_cast<size_t>(std::max(jobs, 1)));
    return InParallel("hashing", windows_.size(), jobs, [&](size_t item, size_t worker) {
      const absl::Status hashed = Hash(windows_[item], buffers_[worker]);
      if (hashed.ok() && read) {
        const MutexLock lock(mu_);
        read(windows_[item].bytes);
      }
      return hashed;
    });
  }
  const std::vector<uint32_t>& sums() const { return sums_; }

 private:
  struct Window {
    size_t piece;      // in which it begins
    int64_t in_piece;  // bytes from its start
    int64_t offset;    // bytes from the start of the file
    int64_t bytes;
    int64_t first_sum;
  };

  absl::Status Hash(const Window& window, std::vector<std::byte>& buffer) {
    buffer.resize(std::max(buffer.size(), static_cast<size_t>(window.bytes)));
    std::span<std::byte> rest = std::span(buffer).first(static_cast<size_t>(window.bytes));
    RETURN_IF_ERROR(file_.ReadAt(window.offset, rest));
    size_t piece = window.piece;
    int64_t in_piece = window.in_piece;
    for (auto sum = static_cast<size_t>(window.first_sum); !rest.empty(); ++sum) {
      const int64_t bytes = pieces_[piece].piece->bytes();
      const auto size = static_cast<size_t>(std::min(block_bytes_, bytes - in_piece));
      sums_[sum] = ExtendCrc32c(0, rest.first(size));
      rest = rest.subspan(size);
      in_piece += static_cast<int64_t>(size);
      if (in_piece < bytes) continue;
      ++piece;
      in_piece = 0;
    }
    return absl::OkStatus();
  }

  ReadableFile& file_;
  const std::vector<PieceOfFile>& pieces_;
  const int64_t block_bytes_;
  std::vector<Window> windows_;
  std::vector<uint32_t> sums_;
  std::vector<std::vector<std::byte>> buffers_;  // by worker
  Mutex mu_;
};

}  // namespace

absl::Status ShardVerifier::CompareBlocks(ReadableFile& file, const ManifestFile& expected,
                                          const std::function<void(int64_t)>& read,
                                          ShardVerdict& verdict) {
  const std::vector<PieceOfFile>& pieces = PiecesOf(expected);
  Sha256 hash;
  const auto into = [&](std::string& text) {
    return [&](std::span<const std::byte> part) {
      hash.Update(part);
      text.append(reinterpret_cast<const char*>(part.data()), part.size());
      if (read) read(static_cast<int64_t>(part.size()));
    };
  };
  std::string header, table;
  RETURN_IF_ERROR(ReadAll(file, 0, expected.header_bytes, into(header)));
  BlockHasher hasher(file, pieces, expected.block_bytes);
  RETURN_IF_ERROR(hasher.Run(jobs_, read));
  RETURN_IF_ERROR(ReadAll(file, expected.table_offset(), expected.bytes, into(table)));
  verdict.expected_sha256 = expected.sha256;
  verdict.computed_sha256 = hash.HexDigest();
  std::vector<uint32_t> sums(static_cast<size_t>(expected.blocks));
  if (!sums.empty()) std::memcpy(sums.data(), table.data(), table.size());
  CompareTable(pieces, expected, sums, hasher.sums(), verdict);
  if (verdict.computed_sha256 == expected.sha256) {
    verdict.contradiction = HeaderContradiction(manifest_, expected, pieces, header);
  }
  return absl::OkStatus();
}

void ShardVerifier::CompareTable(const std::vector<PieceOfFile>& pieces, const ManifestFile& file,
                                 const std::vector<uint32_t>& expected,
                                 const std::vector<uint32_t>& computed,
                                 ShardVerdict& verdict) const {
  for (const PieceOfFile& one : pieces) {
    const ManifestPiece& piece = *one.piece;
    const int64_t block_elements = file.block_bytes / ElementBytes(piece.type);
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

}  // namespace dsrun
