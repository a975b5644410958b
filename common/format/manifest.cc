// What a manifest says, checked and computed. Its text: manifest_json.cc; its names:
// manifest_names.cc.

#include "common/format/manifest.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/block_checksums.h"

namespace dsrun {
namespace {

bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\0", 2)) == std::string::npos;
}

absl::Status CheckShape(const ManifestTensor& tensor) {
  int64_t size = 1;
  for (const int64_t extent : tensor.shape) {
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size) ||
        size > std::numeric_limits<int64_t>::max() / 8) {
      return absl::DataLossError(tensor.name + ": its shape is too large");
    }
  }
  return absl::OkStatus();
}

// Apart, and together as large as the tensor.
absl::Status CheckShards(const ManifestTensor& tensor) {
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
  RETURN_IF_ERROR(CheckShards(tensor));
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

// Header, pieces one after the other, table, and nothing else.
absl::Status CheckFiles(const Manifest& manifest) {
  std::vector<int64_t> bytes(manifest.files.size(), 0), blocks(manifest.files.size(), 0);
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (const ManifestPiece& piece : tensor.pieces) {
      const auto file = static_cast<size_t>(piece.file);
      bytes[file] += piece.bytes();
      blocks[file] += BlockCount(piece.bytes(), manifest.files[file].block_bytes);
    }
  }
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    const ManifestFile& file = manifest.files[i];
    if (file.header_bytes < 0 || file.blocks != blocks[i] ||
        file.bytes != file.header_bytes + bytes[i] + 4 * blocks[i]) {
      return absl::DataLossError(absl::StrCat(file.name, ": expected ", file.header_bytes,
                                              " bytes of header, ", bytes[i], " of pieces and ",
                                              blocks[i], " checksums, got ", file.bytes,
                                              " bytes with ", file.blocks, " checksums"));
    }
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

absl::Status ComputePieces(Manifest& manifest) {
  const LayoutRecipe& recipe = *manifest.layout;
  RETURN_IF_ERROR(CheckRecipe(recipe));
  const auto ranks = static_cast<size_t>(recipe.ranks());
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
  std::vector<ManifestTensor>& tensors = manifest.tensors;
  tensors.clear();
  for (size_t slot = 0; slot < recipe.slots.size(); ++slot) {
    for (size_t i = 0; i < recipe.parameters.size(); ++i) {
      const RecipePiece any{static_cast<int32_t>(slot), static_cast<int32_t>(i)};
      tensors.push_back({TensorName(recipe, any),
                         recipe.parameters[i].shape,
                         {},
                         ShardsOf(recipe, recipe.parameters[i])});
    }
  }
  for (const LayoutRecipe::Single& single : recipe.singles) {
    tensors.push_back({single.name, single.shape, {}});
  }
  for (size_t rank = 0; rank < ranks; ++rank) {
    if (file_of_rank[rank] < 0) {
      return absl::DataLossError(
          absl::StrCat("layout: rank ", rank, " of ", ranks, " has no file; its shard is missing"));
    }
    const ManifestFile& file = manifest.files[static_cast<size_t>(file_of_rank[rank])];
    int64_t offset = file.header_bytes, block = 0;
    for (const RecipePiece& from : PiecesOfRank(recipe, static_cast<int64_t>(rank))) {
      ManifestPiece piece{from.begin, from.end, file_of_rank[rank], from.shard, offset, block};
      offset += piece.bytes();
      block += BlockCount(piece.bytes(), std::max<int64_t>(file.block_bytes, 1));
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
    // A name with a slash could make a reader open anything.
    if (!IsPlainName(file.name)) {
      return absl::DataLossError(absl::StrCat("\"", file.name, "\" is no file of this folder"));
    }
  }
  for (const ManifestTensor& tensor : manifest.tensors) {
    RETURN_IF_ERROR(CheckTensor(manifest, tensor));
  }
  return manifest.version == 1 ? absl::OkStatus() : CheckFiles(manifest);
}

}  // namespace dsrun
