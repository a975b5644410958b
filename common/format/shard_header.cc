#include "common/format/shard_header.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/format/safetensors.h"

namespace dsrun {
namespace {

SafetensorsEntry Expected(const Manifest& manifest, const PieceOfFile& one, int64_t data_start) {
  const ManifestPiece& piece = *one.piece;
  const int64_t begin = piece.offset - data_start;
  return {EntryName(manifest, *one.tensor, piece),
          std::string(ElementTypeName(piece.type)),
          {piece.end - piece.begin},
          begin,
          begin + piece.bytes()};
}

std::string Words(const SafetensorsEntry& entry, int64_t data_start) {
  return absl::StrCat(entry.name, " of ", entry.dtype, " at byte ", entry.begin + data_start,
                      " to ", entry.end + data_start);
}

}  // namespace

std::vector<std::vector<PieceOfFile>> PiecesByFile(const Manifest& manifest) {
  std::vector<std::vector<PieceOfFile>> by_file(manifest.files.size());
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (const ManifestPiece& piece : tensor.pieces) {
      by_file[static_cast<size_t>(piece.file)].push_back({&tensor, &piece});
    }
  }
  for (std::vector<PieceOfFile>& pieces : by_file) {
    std::sort(pieces.begin(), pieces.end(), [](const PieceOfFile& a, const PieceOfFile& b) {
      return a.piece->offset < b.piece->offset;
    });
  }
  return by_file;
}

std::string HeaderContradiction(const Manifest& manifest, const ManifestFile& file,
                                const std::vector<PieceOfFile>& pieces, std::string_view header) {
  const absl::StatusOr<SafetensorsHeader> parsed = ParseSafetensorsHeader(header, file.bytes);
  if (!parsed.ok()) return std::string(parsed.status().message());
  const std::vector<SafetensorsEntry>& entries = parsed->entries;
  const size_t tables = file.blocks > 0 ? 1 : 0;
  const int64_t start = file.block_bytes > 0 ? file.header_bytes : parsed->data_start;
  if (entries.size() != pieces.size() + tables || parsed->data_start != start) {
    return absl::StrCat("its header has ", entries.size(), " entries", " behind byte ",
                        parsed->data_start, ", its manifest says ", pieces.size() + tables,
                        " behind byte ", start);
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry expected = i < pieces.size()
                                          ? Expected(manifest, pieces[i], start)
                                          : SafetensorsEntry{std::string(kTableEntry),
                                                             "U32",
                                                             {file.blocks},
                                                             file.table_offset() - start,
                                                             file.bytes - start};
    if (entries[i] == expected) continue;
    return absl::StrCat("its header has entry ", Words(entries[i], start), ", its manifest says ",
                        Words(expected, start));
  }
  return "";
}

}  // namespace dsrun
