#include "common/format/content_hash.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/sha256.h"
#include "common/base/status_macros.h"

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
  AddText(hash, tensor.name);
  AddText(hash, "F32");
  AddNumber(hash, static_cast<int64_t>(tensor.shape.size()));
  for (const int64_t extent : tensor.shape) AddNumber(hash, extent);
  std::vector<float> chunk;
  // Along the pieces, so that each is read once and whole where it is small.
  for (const ManifestPiece& piece : tensor.pieces) {
    for (int64_t begin = piece.begin; begin < piece.end; begin += kChunkElements) {
      const int64_t end = std::min(piece.end, begin + kChunkElements);
      chunk.resize(static_cast<size_t>(end - begin));
      RETURN_IF_ERROR(checkpoint.ReadRange(tensor.name, begin, end, chunk.data()));
      hash.Update(std::as_bytes(std::span(chunk)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ContentHash(Checkpoint& checkpoint) {
  const Manifest& manifest = checkpoint.manifest();
  Sha256 hash;
  AddText(hash, "dsrun checkpoint content 1");
  AddNumber(hash, static_cast<int64_t>(manifest.tensors.size()));
  for (const ManifestTensor& tensor : manifest.tensors) {
    RETURN_IF_ERROR(AddTensor(hash, checkpoint, tensor));
  }
  AddNumber(hash, manifest.facts.key.step.value());
  AddNumber(hash, manifest.facts.counters.samples_consumed);
  AddNumber(hash, manifest.facts.counters.optimizer_steps);
  return hash.HexDigest();
}

}  // namespace dsrun
