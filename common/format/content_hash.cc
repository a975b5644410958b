#include "common/format/content_hash.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/range.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/tensor_names.h"

namespace dsrun {
namespace {

static_assert(std::endian::native == std::endian::little, "the hash is over little-endian bytes");

constexpr int64_t kChunkElements = 1 << 18;

void AddNumber(Sha256& hash, int64_t value) { hash.Update(std::as_bytes(std::span(&value, 1))); }

// With its length, so that no two lists of texts run together.
void AddText(Sha256& hash, std::string_view text) {
  AddNumber(hash, static_cast<int64_t>(text.size()));
  hash.Update(text);
}

absl::Status AddTensor(Sha256& hash, Checkpoint& checkpoint, const ManifestTensor& tensor) {
  AddText(hash, ToFormat1Name(tensor.name));
  AddText(hash, ElementTypeName(tensor.type));
  AddNumber(hash, static_cast<int64_t>(tensor.shape.size()));
  for (const int64_t extent : tensor.shape) AddNumber(hash, extent);
  std::vector<std::byte> chunk;
  const auto add = [&](Range range) -> absl::Status {
    for (int64_t begin = range.begin; begin < range.end; begin += kChunkElements) {
      const int64_t end = std::min(range.end, begin + kChunkElements);
      RETURN_IF_ERROR(checkpoint.ReadStored(tensor.name, Box(), begin, end, chunk));
      hash.Update(chunk);
    }
    return absl::OkStatus();
  };
  if (!tensor.shards.empty()) return add({0, tensor.size()});
  // Along the pieces, so that each is read once and whole where it is small.
  for (const ManifestPiece& piece : tensor.pieces) {
    RETURN_IF_ERROR(add({piece.begin, piece.end}));
  }
  return absl::OkStatus();
}

// By the names that the hash knows them by.
std::vector<const ManifestTensor*> InOrder(const Manifest& manifest) {
  std::vector<const ManifestTensor*> tensors;
  for (const ManifestTensor& tensor : manifest.tensors) tensors.push_back(&tensor);
  std::sort(tensors.begin(), tensors.end(), [](const ManifestTensor* a, const ManifestTensor* b) {
    return ToFormat1Name(a->name) < ToFormat1Name(b->name);
  });
  return tensors;
}

}  // namespace

absl::StatusOr<std::string> ContentHash(Checkpoint& checkpoint) {
  const Manifest& manifest = checkpoint.manifest();
  Sha256 hash;
  AddText(hash, "dsrun checkpoint content 1");
  AddNumber(hash, static_cast<int64_t>(manifest.tensors.size()));
  for (const ManifestTensor* const tensor : InOrder(manifest)) {
    RETURN_IF_ERROR(AddTensor(hash, checkpoint, *tensor));
  }
  AddNumber(hash, manifest.facts.key.step.value());
  AddNumber(hash, manifest.facts.counters.samples_consumed);
  AddNumber(hash, manifest.facts.counters.optimizer_steps);
  for (const auto& [name, value] : manifest.facts.counters.named) {
    AddText(hash, name);
    AddText(hash, value);
  }
  return hash.HexDigest();
}

}  // namespace dsrun
