#include "common/format/checkpoint_reader.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/crc32c.h"
#include "common/base/range.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/element_values.h"

namespace dsrun {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

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

absl::Status Damaged(const std::string& entry, uint32_t computed, uint32_t expected,
                     const char* who) {
  return absl::DataLossError(absl::StrCat("entry ", entry, " is damaged: its CRC-32C is ",
                                          absl::StrFormat("%08x", computed), ", its ", who,
                                          " says ", absl::StrFormat("%08x", expected)));
}

}  // namespace

// A table that is damaged as its data is, or is another file's, would vouch for wrong bytes.
absl::Status Checkpoint::CheckTable(ReadableFile& file, const ManifestFile& facts) {
  Sha256 hash;
  std::string header;
  const auto update = [&](std::span<const std::byte> bytes) { hash.Update(bytes); };
  RETURN_IF_ERROR(ReadInChunks(file, 0, facts.header_bytes, [&](std::span<const std::byte> bytes) {
    update(bytes);
    if (check_ != TableCheck::kHeader) return;
    header.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }));
  RETURN_IF_ERROR(
      ReadInChunks(file, facts.table_offset(), facts.bytes - facts.table_offset(), update));
  const std::string digest = hash.HexDigest();
  if (digest != facts.sha256) {
    return absl::DataLossError(
        absl::StrCat("the header or the table of checksums is damaged: their "
                     "SHA-256 is ",
                     digest, ", the manifest says ", facts.sha256));
  }
  if (check_ != TableCheck::kHeader) return absl::OkStatus();
  if (by_file_.empty()) by_file_ = PiecesByFile(*manifest_);
  const auto index = static_cast<size_t>(&facts - manifest_->files.data());
  const std::string contradiction = HeaderContradiction(*manifest_, facts, by_file_[index], header);
  return contradiction.empty() ? absl::OkStatus() : absl::DataLossError(contradiction);
}

absl::StatusOr<ReadableFile*> Checkpoint::Open(const ManifestFile& facts) {
  const std::string& file = facts.name;
  auto found = open_.find(file);
  if (found == open_.end()) {
    if (open_.size() >= kMaxOpenFiles) {
      open_.erase(std::min_element(open_.begin(), open_.end(), [](const auto& a, const auto& b) {
        return a.second.last_use < b.second.last_use;
      }));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> opened,
                     fs_->OpenToRead(JoinPath(folder_, file)));
    if (check_ != TableCheck::kNone && facts.block_bytes > 0 && !checked_files_.contains(file)) {
      RETURN_IF_ERROR(CheckTable(*opened, facts));
      checked_files_.insert(file);
    }
    found = open_.emplace(file, OpenFile{std::move(opened)}).first;
  }
  found->second.last_use = ++uses_;
  return found->second.file.get();
}

absl::Status Checkpoint::ReadRange(const std::string& tensor, int64_t begin, int64_t end,
                                   float* into, const std::function<void()>& moved) {
  const WantedPiece wanted{tensor, begin, end, into};
  return Read(std::span(&wanted, 1), moved);
}

absl::Status Checkpoint::ReadStored(const std::string& tensor, const Box& shard, int64_t begin,
                                    int64_t end, std::vector<std::byte>& into) {
  const ManifestTensor* const found = manifest_->FindTensor(tensor);
  const ElementType type = found == nullptr ? ElementType::kF32 : found->type;
  into.resize(static_cast<size_t>(std::max<int64_t>(end - begin, 0) * ElementBytes(type)));
  const WantedPiece wanted{tensor, begin, end, into.data(), shard, type};
  return Read(std::span(&wanted, 1));
}

absl::Status Checkpoint::Read(std::span<const WantedPiece> wanted,
                              const std::function<void()>& moved) {
  std::vector<Part> parts;
  for (const WantedPiece& one : wanted) RETURN_IF_ERROR(FindParts(one, parts));
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return std::pair(a.piece->file, a.piece->offset) < std::pair(b.piece->file, b.piece->offset);
  });
  for (const Part& part : parts) {
    const absl::Status read = ReadPart(part, moved);
    // Its size was right when it was opened.
    if (absl::IsOutOfRange(read)) return absl::UnavailableError(read.message());
    RETURN_IF_ERROR(read) << "shard " << JoinPath(folder_, manifest_->FileOf(*part.piece).name);
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::FindParts(const WantedPiece& wanted, std::vector<Part>& parts) const {
  const ManifestTensor* const found = manifest_->FindTensor(wanted.tensor);
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("no tensor ", wanted.tensor, " in ", JoinPath(folder_, manifest_name_)));
  }
  if (wanted.type != found->type &&
      !(wanted.type == ElementType::kF32 && IsExactAsF32(found->type))) {
    return absl::FailedPreconditionError(
        absl::StrCat(wanted.tensor, ": expected it stored as ", ElementTypeName(wanted.type),
                     wanted.type == ElementType::kF32 ? ", BF16 or F16" : "", ", ",
                     JoinPath(folder_, manifest_name_), " has ", ElementTypeName(found->type)));
  }
  const Box box = wanted.shard.extent.empty() ? WholeBox(found->shape) : wanted.shard;
  if (!IsInside(box, found->shape)) {
    return absl::OutOfRangeError(
        absl::StrCat(wanted.tensor, ": what is asked for is no part of it"));
  }
  if (wanted.begin < 0 || wanted.end < wanted.begin || wanted.end > box.volume()) {
    return absl::OutOfRangeError(absl::StrCat(wanted.tensor, " has ", box.volume(),
                                              " elements, asked for [", wanted.begin, ", ",
                                              wanted.end, ")"));
  }
  if (wanted.begin == wanted.end) return absl::OkStatus();
  auto piece = found->pieces.begin();
  // Of one box the pieces ascend.
  const bool same = found->shards.empty() && box == WholeBox(found->shape);
  if (same) {
    piece = std::upper_bound(piece, found->pieces.end(), wanted.begin,
                             [](int64_t at, const ManifestPiece& p) { return at < p.end; });
  }
  for (; piece != found->pieces.end(); ++piece) {
    if (same && piece->begin >= wanted.end) break;
    if (same || Overlap(found->ShardOf(*piece), box)) parts.push_back({found, &*piece, &wanted});
  }
  return absl::OkStatus();
}

std::vector<CommonRun> Checkpoint::RunsOf(const Part& part) {
  const Range here{part.piece->begin, part.piece->end};
  const Range there{part.wanted->begin, part.wanted->end};
  std::vector<CommonRun> runs;
  const Box box =
      part.wanted->shard.extent.empty() ? WholeBox(part.tensor->shape) : part.wanted->shard;
  ForRuns(part.tensor->ShardOf(*part.piece), here, box, there, [&](const CommonRun& run) {
    const CommonRun moved{run.from - here.begin, run.to - there.begin, run.count};
    if (!runs.empty() && runs.back().from + runs.back().count == moved.from &&
        runs.back().to + runs.back().count == moved.to) {
      runs.back().count += moved.count;
    } else {
      runs.push_back(moved);
    }
  });
  return runs;
}

namespace {

// Reads runs of one piece by windows of adjacent blocks.
class BlockWindows {
 public:
  BlockWindows(ReadableFile& file, const ManifestFile& facts, const ManifestPiece& piece)
      : file_(file), facts_(facts), piece_(piece), element_(ElementBytes(piece.type)) {}

  // The checksums of the blocks [first, last] of the piece, from the file's table.
  absl::Status ReadTable(int64_t first, int64_t last) {
    first_known_ = first;
    table_.resize(static_cast<size_t>(last - first + 1));
    return file_.ReadAt(facts_.table_offset() + 4 * (piece_.first_block + first),
                        std::as_writable_bytes(std::span(table_)));
  }

  // Sets `window` to blocks [first, last], verified. `bad`: both checksums of the first damaged.
  absl::StatusOr<bool> ReadBlocks(int64_t first, int64_t last, std::pair<uint32_t, uint32_t>* bad) {
    begin_ = first * facts_.block_bytes;
    const int64_t end = std::min((last + 1) * facts_.block_bytes, piece_.bytes());
    window_.resize(static_cast<size_t>(end - begin_));
    RETURN_IF_ERROR(file_.ReadAt(piece_.offset + begin_, window_));
    for (int64_t block = first; block <= last; ++block) {
      const auto at = static_cast<size_t>((block - first) * facts_.block_bytes);
      const std::span<const std::byte> bytes = std::span(window_).subspan(
          at, std::min(static_cast<size_t>(facts_.block_bytes), window_.size() - at));
      *bad = {ExtendCrc32c(0, bytes), table_[static_cast<size_t>(block - first_known_)]};
      if (bad->first != bad->second) return false;
    }
    return true;
  }

  // The part of a run that lies in the window, which holds its start; the run is shortened by it.
  void Take(CommonRun& run, const WantedPiece& wanted) const {
    const int64_t at = run.from * element_ - begin_;
    const int64_t bytes = std::min(run.count * element_, static_cast<int64_t>(window_.size()) - at);
    const auto from =
        std::span(window_).subspan(static_cast<size_t>(at), static_cast<size_t>(bytes));
    std::byte* const into =
        static_cast<std::byte*>(wanted.into) + run.to * ElementBytes(wanted.type);
    if (wanted.type == piece_.type) {
      std::memcpy(into, from.data(), from.size());
    } else {
      ToF32(piece_.type, from, reinterpret_cast<float*>(into));
    }
    const int64_t taken = bytes / element_;
    run = {run.from + taken, run.to + taken, run.count - taken};
  }

 private:
  ReadableFile& file_;
  const ManifestFile& facts_;
  const ManifestPiece& piece_;
  const int64_t element_;  // bytes; blocks have whole ones (CheckManifest)
  std::vector<uint32_t> table_;
  int64_t first_known_ = 0;
  std::vector<std::byte> window_;
  int64_t begin_ = 0;  // bytes from the start of the piece
};

}  // namespace

absl::Status Checkpoint::ReadPart(const Part& part, const std::function<void()>& moved) {
  std::vector<CommonRun> runs = RunsOf(part);
  if (runs.empty()) return absl::OkStatus();
  const ManifestFile& facts = manifest_->FileOf(*part.piece);
  const int64_t element = ElementBytes(part.piece->type);
  ASSIGN_OR_RETURN(ReadableFile * file, Open(facts));
  if (facts.block_bytes == 0) return ReadOldPart(*file, part, moved);
  const auto first_block = [&](const CommonRun& run) {
    return run.from * element / facts.block_bytes;
  };
  const auto last_block = [&](const CommonRun& run) {
    return ((run.from + run.count) * element - 1) / facts.block_bytes;
  };
  BlockWindows windows(*file, facts, *part.piece);
  RETURN_IF_ERROR(windows.ReadTable(first_block(runs.front()), last_block(runs.back())));
  const int64_t most = std::max<int64_t>(kChunkBytes / facts.block_bytes, 1);
  for (size_t next = 0; next < runs.size();) {
    // As long as no block lies between that nobody wants.
    const int64_t first = first_block(runs[next]);
    int64_t last = last_block(runs[next]);
    for (size_t i = next + 1; i < runs.size() && last - first + 1 < most; ++i) {
      if (first_block(runs[i]) > last + 1) break;
      last = last_block(runs[i]);
    }
    last = std::min(last, first + most - 1);
    std::pair<uint32_t, uint32_t> sums;
    ASSIGN_OR_RETURN(const bool good, windows.ReadBlocks(first, last, &sums));
    if (!good) {
      return Damaged(EntryName(*manifest_, *part.tensor, *part.piece), sums.first, sums.second,
                     "table");
    }
    while (next < runs.size() && first_block(runs[next]) <= last) {
      windows.Take(runs[next], *part.wanted);
      if (runs[next].count > 0) break;
      ++next;
    }
    if (moved) moved();
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ReadOldPart(ReadableFile& file, const Part& part,
                                     const std::function<void()>& moved) {
  const ManifestPiece& piece = *part.piece;
  auto* const wanted = static_cast<float*>(part.wanted->into);  // in format 1 all is F32
  constexpr int64_t kFloatBytes = sizeof(float);
  const auto tell = [&](std::span<const std::byte>) {
    if (moved) moved();
  };
  const std::vector<CommonRun> runs = RunsOf(part);
  // The whole of a piece is the usual case: one pass reads and checks it.
  if (runs.size() == 1 && runs[0].count == piece.end - piece.begin) {
    uint32_t crc32c = 0;
    const auto into =
        std::as_writable_bytes(std::span(wanted + runs[0].to, static_cast<size_t>(runs[0].count)));
    RETURN_IF_ERROR(ReadInto(file, piece.offset, into, [&](std::span<const std::byte> bytes) {
      crc32c = ExtendCrc32c(crc32c, bytes);
      tell(bytes);
    }));
    if (crc32c == piece.crc32c) return absl::OkStatus();
    return Damaged(EntryName(*manifest_, *part.tensor, piece), crc32c, piece.crc32c, "manifest");
  }
  if (!checked_.contains(&piece)) {
    RETURN_IF_ERROR(CheckOldPiece(file, part, moved));
    checked_.insert(&piece);
  }
  for (const CommonRun& run : runs) {
    const auto into =
        std::as_writable_bytes(std::span(wanted + run.to, static_cast<size_t>(run.count)));
    RETURN_IF_ERROR(ReadInto(file, piece.offset + run.from * kFloatBytes, into, tell));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::CheckOldPiece(ReadableFile& file, const Part& part,
                                       const std::function<void()>& moved) {
  uint32_t crc32c = 0;
  const ManifestPiece& piece = *part.piece;
  RETURN_IF_ERROR(
      ReadInChunks(file, piece.offset, piece.bytes(), [&](std::span<const std::byte> bytes) {
        crc32c = ExtendCrc32c(crc32c, bytes);
        if (moved) moved();
      }));
  if (crc32c == piece.crc32c) return absl::OkStatus();
  return Damaged(EntryName(*manifest_, *part.tensor, piece), crc32c, piece.crc32c, "manifest");
}

}  // namespace dsrun
