// What a manifest says, checked and computed. Its text: manifest_json.cc; its names:
// manifest_names.cc.

#include "common/format/manifest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/block_checksums.h"

namespace dsrun {
namespace {

// Each is compared with each.
constexpr size_t kMostListedShards = 1024;

bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\0", 2)) == std::string::npos;
}

absl::Status CheckShape(const ManifestTensor& tensor) {
  if (tensor.shape.size() > kMostDimensions) {
    return absl::DataLossError(absl::StrCat(tensor.name, ": expected at most ", kMostDimensions,
                                            " dimensions, got ", tensor.shape.size()));
  }
  int64_t size = 1;
  for (const int64_t extent : tensor.shape) {
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size) || size > kMostRecipeElements) {
      return absl::DataLossError(tensor.name + ": its shape is too large");
    }
  }
  return absl::OkStatus();
}

// Apart, and together as large as the tensor. `listed`: nobody has computed them.
absl::Status CheckShards(const ManifestTensor& tensor, bool listed) {
  if (!listed) return absl::OkStatus();
  if (tensor.shards.size() > kMostListedShards) {
    return absl::DataLossError(absl::StrCat(tensor.name, ": expected at most ", kMostListedShards,
                                            " shards, got ", tensor.shards.size()));
  }
  int64_t covered = 0;
  for (size_t i = 0; i < tensor.shards.size(); ++i) {
    if (!IsInside(tensor.shards[i], tensor.shape)) {
      return absl::DataLossError(absl::StrCat(tensor.name, ": shard ", i, " is no part of it"));
    }
    for (size_t j = 0; j < i; ++j) {
      if (Overlap(tensor.shards[i], tensor.shards[j])) {
        return absl::DataLossError(
            absl::StrCat(tensor.name, ": shards ", j, " and ", i, " overlap"));
      }
    }
    covered += tensor.shards[i].volume();
  }
  if (tensor.shards.empty() || covered == tensor.size()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(tensor.name, ": its shards hold ", covered, " of ", tensor.size(), " elements"));
}

absl::Status CheckPlace(const Manifest& manifest, const ManifestTensor& tensor,
                        const ManifestPiece& piece) {
  const bool listed = piece.file >= 0 && static_cast<size_t>(piece.file) < manifest.files.size();
  if (listed) {
    const ManifestFile& file = manifest.FileOf(piece);
    if (piece.offset >= file.header_bytes && piece.bytes() <= file.table_offset() &&
        piece.offset <= file.table_offset() - piece.bytes()) {
      return absl::OkStatus();
    }
  }
  return absl::DataLossError(absl::StrCat(
      tensor.name, ": elements [", piece.begin, ", ", piece.end, ") lie outside ",
      listed ? manifest.FileOf(piece).name : absl::StrCat("all files, in file ", piece.file)));
}

absl::Status CheckTensor(const Manifest& manifest, const ManifestTensor& tensor) {
  RETURN_IF_ERROR(CheckShape(tensor));
  RETURN_IF_ERROR(CheckShards(tensor, !manifest.layout.has_value()));
  const size_t shards = std::max<size_t>(tensor.shards.size(), 1);
  const auto volume = [&](size_t shard) {
    return tensor.shards.empty() ? tensor.size() : tensor.shards[shard].volume();
  };
  auto piece = tensor.pieces.begin();
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string of = tensor.shards.empty() ? "" : absl::StrCat(" of shard ", shard);
    int64_t covered = 0;
    for (; piece != tensor.pieces.end() && static_cast<size_t>(piece->shard) == shard; ++piece) {
      if (piece->begin != covered || piece->end <= piece->begin || piece->end > volume(shard)) {
        return absl::DataLossError(
            absl::StrCat(tensor.name, ": expected a piece from element ", covered, " of ",
                         volume(shard), of, " on, got [", piece->begin, ", ", piece->end, ")",
                         static_cast<size_t>(piece->file) < manifest.files.size()
                             ? " in " + manifest.FileOf(*piece).name
                             : "",
                         "; the ranks that wrote it did not agree who owns what"));
      }
      if (piece->type != tensor.type) {
        return absl::DataLossError(absl::StrCat(tensor.name, ": expected pieces of ",
                                                ElementTypeName(tensor.type), ", got one of ",
                                                ElementTypeName(piece->type)));
      }
      covered = piece->end;
      RETURN_IF_ERROR(CheckPlace(manifest, tensor, *piece));
    }
    if (covered == volume(shard)) continue;
    return absl::DataLossError(absl::StrCat(tensor.name, ": elements from ", covered, " to ",
                                            volume(shard), of,
                                            " are in no file; a rank's shard is missing"));
  }
  if (piece == tensor.pieces.end()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(tensor.name, ": a piece is of shard ", piece->shard, ", which it has not"));
}

// What one file says of itself, before anything is computed from it.
absl::Status CheckFile(const ManifestFile& file, int64_t version) {
  // A name with a slash could make a reader open anything.
  if (!IsPlainName(file.name)) {
    return absl::DataLossError(absl::StrCat("\"", file.name, "\" is no file of this folder"));
  }
  if (file.bytes < 0 || file.bytes > kMostFileBytes) {
    return absl::DataLossError(absl::StrCat(file.name, ": no file has ", file.bytes, " bytes"));
  }
  if (version == 1) return absl::OkStatus();
  if (file.header_bytes < 0 || file.header_bytes > std::min(file.bytes, kMostShardHeaderBytes) ||
      file.blocks < 0 || file.blocks > (file.bytes - file.header_bytes) / 4) {
    return absl::DataLossError(
        absl::StrCat(file.name, ": expected a header of at most ", kMostShardHeaderBytes,
                     " bytes, and 4 for each checksum, got ", file.header_bytes,
                     " bytes of header and ", file.blocks, " checksums in ", file.bytes, " bytes"));
  }
  // An element never lies in two blocks.
  if (file.block_bytes < 8 || file.block_bytes > kMostBlockBytes || file.block_bytes % 8 != 0) {
    return absl::DataLossError(absl::StrCat(file.name, ": expected blocks of at most ",
                                            kMostBlockBytes, " bytes, a multiple of 8, got ",
                                            file.block_bytes));
  }
  return absl::OkStatus();
}

struct PlacedPiece {
  const ManifestTensor* tensor;
  const ManifestPiece* piece;
};

absl::Status Overlapping(const ManifestFile& file, const PlacedPiece& a, const PlacedPiece& b) {
  const auto words = [](const PlacedPiece& p) {
    return absl::StrCat("[", p.piece->begin, ", ", p.piece->end, ") of ", p.tensor->name,
                        " at byte ", p.piece->offset);
  };
  return absl::DataLossError(absl::StrCat(file.name, ": two pieces have the same bytes: elements ",
                                          words(a), ", and ", words(b)));
}

// One file: header, pieces one after the other, table, and nothing else. Of format 1 (`version`)
// only that no two pieces overlap. `pieces`: of this file, by their offset.
absl::Status CheckPiecesOf(const ManifestFile& file, int64_t version,
                           const std::vector<PlacedPiece>& pieces) {
  int64_t bytes = 0, blocks = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const ManifestPiece& piece = *pieces[i].piece;
    if (i > 0) {
      const ManifestPiece& before = *pieces[i - 1].piece;
      if (piece.offset < before.offset + before.bytes()) {
        return Overlapping(file, pieces[i - 1], pieces[i]);
      }
    }
    bytes += piece.bytes();  // inside the file, and apart: no sum overflows
    if (version > 1) blocks += BlockCount(piece.bytes(), file.block_bytes);
  }
  if (version == 1) return absl::OkStatus();
  if (file.blocks != blocks || file.bytes != file.header_bytes + bytes + 4 * blocks) {
    return absl::DataLossError(absl::StrCat(
        file.name, ": expected ", file.header_bytes, " bytes of header, ", bytes, " of pieces and ",
        blocks, " checksums, got ", file.bytes, " bytes with ", file.blocks, " checksums"));
  }
  if (static_cast<int64_t>(pieces.size()) * kLeastEntryBytes > file.header_bytes) {
    return absl::DataLossError(absl::StrCat(file.name, ": ", pieces.size(),
                                            " pieces do not fit into a header of ",
                                            file.header_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const Manifest& manifest) {
  std::vector<std::vector<PlacedPiece>> by_file(manifest.files.size());
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (const ManifestPiece& piece : tensor.pieces) {
      by_file[static_cast<size_t>(piece.file)].push_back({&tensor, &piece});
    }
  }
  for (size_t i = 0; i < by_file.size(); ++i) {
    std::sort(by_file[i].begin(), by_file[i].end(), [](const PlacedPiece& a, const PlacedPiece& b) {
      return a.piece->offset < b.piece->offset;
    });
    RETURN_IF_ERROR(CheckPiecesOf(manifest.files[i], manifest.version, by_file[i]));
  }
  return absl::OkStatus();
}

template <typename Item>
absl::Status CheckNames(const std::vector<Item>& items, const char* what) {
  for (size_t i = 1; i < items.size(); ++i) {
    if (items[i - 1].name < items[i].name) continue;
    return absl::DataLossError(absl::StrCat(what, " are not in name order at ", items[i].name));
  }
  return absl::OkStatus();
}

template <typename Item>
const Item* FindByName(const std::vector<Item>& items, const std::string& name) {
  const auto found =
      std::lower_bound(items.begin(), items.end(), name,
                       [](const Item& a, const std::string& b) { return a.name < b; });
  return found != items.end() && found->name == name ? &*found : nullptr;
}

}  // namespace

int64_t ManifestTensor::size() const {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return elements;
}

const ManifestTensor* Manifest::FindTensor(const std::string& name) const {
  return FindByName(tensors, name);
}

const ManifestFile* Manifest::FindFile(const std::string& name) const {
  return FindByName(files, name);
}

Box ManifestTensor::ShardOf(const ManifestPiece& piece) const {
  return shards.empty() ? WholeBox(shape) : shards[static_cast<size_t>(piece.shard)];
}

namespace {

// Which file is which rank's. Errors: DATA_LOSS: not each rank has one.
absl::StatusOr<std::vector<int32_t>> FilesByRank(const Manifest& manifest, size_t ranks) {
  std::vector<int32_t> file_of_rank(ranks, -1);
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    const std::optional<ShardName> name = ParseShardFileName(manifest.files[i].name);
    const auto rank = name.has_value() ? static_cast<size_t>(name->rank.value()) : ranks;
    if (rank >= ranks || file_of_rank[rank] >= 0) {
      return absl::DataLossError(absl::StrCat("layout: ", manifest.files[i].name,
                                              " is no file of one of its ", ranks, " ranks"));
    }
    file_of_rank[rank] = static_cast<int32_t>(i);
  }
  for (size_t rank = 0; rank < ranks; ++rank) {
    if (file_of_rank[rank] >= 0) continue;
    return absl::DataLossError(
        absl::StrCat("layout: rank ", rank, " of ", ranks, " has no file; its shard is missing"));
  }
  return file_of_rank;
}

// All of a recipe, by slot and then parameter, singles behind them; without pieces.
std::vector<ManifestTensor> TensorsOf(const LayoutRecipe& recipe) {
  std::vector<ManifestTensor> tensors;
  for (size_t slot = 0; slot < recipe.slots.size(); ++slot) {
    for (size_t i = 0; i < recipe.parameters.size(); ++i) {
      const RecipePiece any{static_cast<int32_t>(slot), static_cast<int32_t>(i)};
      tensors.push_back({TensorName(recipe, any),
                         recipe.parameters[i].shape,
                         {},
                         ShardsOf(recipe, recipe.parameters[i]),
                         recipe.TypeOf(recipe.slots[slot])});
    }
  }
  for (const LayoutRecipe::Single& single : recipe.singles) {
    tensors.push_back({single.name, single.shape, {}, {}, recipe.TypeOf(single.name)});
  }
  return tensors;
}

}  // namespace

absl::Status ComputePieces(Manifest& manifest) {
  const LayoutRecipe& recipe = *manifest.layout;
  RETURN_IF_ERROR(CheckRecipe(recipe));
  const auto ranks = static_cast<size_t>(recipe.ranks());
  ASSIGN_OR_RETURN(const std::vector<int32_t> file_of_rank, FilesByRank(manifest, ranks));
  std::vector<ManifestTensor>& tensors = manifest.tensors;
  tensors = TensorsOf(recipe);
  for (size_t rank = 0; rank < ranks; ++rank) {
    const ManifestFile& file = manifest.files[static_cast<size_t>(file_of_rank[rank])];
    RETURN_IF_ERROR(CheckFile(file, manifest.version));
    // More pieces than its header can have are not computed.
    const int64_t most = file.header_bytes / kLeastEntryBytes;
    const std::vector<RecipePiece> pieces = PiecesOfRank(recipe, static_cast<int64_t>(rank), most);
    if (static_cast<int64_t>(pieces.size()) > most) {
      return absl::DataLossError(absl::StrCat(file.name, ": the layout's pieces do not fit into ",
                                              "a header of ", file.header_bytes, " bytes"));
    }
    int64_t offset = file.header_bytes, block = 0;
    for (const RecipePiece& from : pieces) {
      ManifestPiece piece{from.begin, from.end, file_of_rank[rank], from.shard, offset, block};
      piece.type = TypeOf(recipe, from);
      offset += piece.bytes();
      block += BlockCount(piece.bytes(), file.block_bytes);
      const size_t index = from.slot < 0
                               ? recipe.slots.size() * recipe.parameters.size()
                               : static_cast<size_t>(from.slot) * recipe.parameters.size();
      tensors[index + static_cast<size_t>(from.parameter)].pieces.push_back(piece);
    }
  }
  for (ManifestTensor& tensor : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(),
              [](const ManifestPiece& a, const ManifestPiece& b) {
                return std::pair(a.shard, a.begin) < std::pair(b.shard, b.begin);
              });
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const ManifestTensor& a, const ManifestTensor& b) { return a.name < b.name; });
  return absl::OkStatus();
}

absl::Status CheckManifest(const Manifest& manifest) {
  RETURN_IF_ERROR(CheckNames(manifest.tensors, "tensors"));
  RETURN_IF_ERROR(CheckNames(manifest.files, "files"));
  for (const ManifestFile& file : manifest.files) {
    RETURN_IF_ERROR(CheckFile(file, manifest.version));
  }
  for (const ManifestTensor& tensor : manifest.tensors) {
    RETURN_IF_ERROR(CheckTensor(manifest, tensor));
  }
  return CheckFiles(manifest);
}

}  // namespace dsrun
