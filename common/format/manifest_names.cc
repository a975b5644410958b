// Names of manifests, shards and their entries.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/format/manifest.h"
#include "common/format/name_reader.h"
#include "common/format/tensor_names.h"

namespace dsrun {

std::string ManifestName(const ManifestKey& key) {
  return absl::StrFormat("manifest.step-%08d.gen-%04d.epoch-%04d.json", key.step.value(),
                         key.generation.value(), key.epoch);
}

std::optional<ManifestKey> ParseManifestName(std::string_view name) {
  int64_t step = 0, generation = 0;
  ManifestKey key;
  const bool whole = NameReader(name)
                         .Literal("manifest.step-")
                         .Number(&step)
                         .Literal(".gen-")
                         .Number(&generation)
                         .Literal(".epoch-")
                         .Number(&key.epoch)
                         .Literal(".json")
                         .Done();
  key.step = Step(step);
  key.generation = Generation(generation);
  if (!whole || ManifestName(key) != name) return std::nullopt;
  return key;
}

std::string ShardFileName(const ShardName& name) {
  return absl::StrFormat("step-%08d.gen-%04d.%016x.rank-%04d.safetensors", name.step.value(),
                         name.generation.value(), name.incarnation.value(), name.rank.value());
}

std::optional<ShardName> ParseShardFileName(std::string_view name) {
  int64_t step = 0, generation = 0;
  uint64_t incarnation = 0;
  int32_t rank = 0;
  const bool whole = NameReader(name)
                         .Literal("step-")
                         .Number(&step)
                         .Literal(".gen-")
                         .Number(&generation)
                         .Literal(".")
                         .Number(&incarnation, 16)
                         .Literal(".rank-")
                         .Number(&rank)
                         .Literal(".safetensors")
                         .Done();
  const ShardName parsed{Step(step), Generation(generation), Incarnation(incarnation), Rank(rank)};
  if (!whole || ShardFileName(parsed) != name) return std::nullopt;
  return parsed;
}

std::string EntryName(std::string_view tensor, const Box* shard, int64_t begin, int64_t end) {
  std::string box;
  if (shard != nullptr) {
    std::vector<std::string> ranges;
    for (size_t i = 0; i < shard->offset.size(); ++i) {
      ranges.push_back(absl::StrCat(shard->offset[i], ":", shard->offset[i] + shard->extent[i]));
    }
    box = "[" + absl::StrJoin(ranges, ",") + "]";
  }
  return absl::StrCat(std::string(tensor), box, "@", begin, ":", end);
}

std::string EntryName(const Manifest& manifest, const ManifestTensor& tensor,
                      const ManifestPiece& piece) {
  if (manifest.version == 1) {
    return EntryName(ToFormat1Name(tensor.name), nullptr, piece.begin, piece.end);
  }
  const Box* const shard =
      tensor.shards.empty() ? nullptr : &tensor.shards[static_cast<size_t>(piece.shard)];
  return EntryName(tensor.name, shard, piece.begin, piece.end);
}

}  // namespace dsrun
