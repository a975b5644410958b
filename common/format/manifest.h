// The manifest: one small JSON file that makes a set of shard files a checkpoint
// (docs/checkpoint_format.md). It names the files and the writer's layout recipe, from which the
// reader computes the pieces of every logical tensor (layout_recipe.h); where no recipe fits, the
// pieces are listed. Any layout can load what any other wrote. Its last field is a SHA-256 of
// everything before, so a torn or altered manifest is recognised without knowing anything else.
//
// Format 1, in which pieces were always listed, is read and never written.
//
// Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_MANIFEST_H_
#define DSRUN_COMMON_FORMAT_MANIFEST_H_

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/format/layout_recipe.h"
#include "common/format/piece.h"
#include "common/model/model_spec.h"
#include "common/numerics/fingerprint.h"

namespace dsrun {

inline constexpr int64_t kManifestFormatVersion = 2;

// What a file says of itself is bounded: by these, and by what its header must have for every
// piece. A reader allocates in proportion to the manifest's own size, and to the headers that it
// names, never beyond kMostPieces (layout_recipe.h).
inline constexpr int64_t kMostManifestBytes = int64_t{1} << 30;
inline constexpr int64_t kMostFileBytes = int64_t{1} << 60;
inline constexpr int64_t kMostShardHeaderBytes = 8 + 100'000'000;  // safetensors' limit
inline constexpr int64_t kLeastEntryBytes = 32;                    // of a piece, in the header

// Which of several checkpoints of one folder is newest: the greatest.
struct ManifestKey {
  Step step;
  Generation generation;
  int64_t epoch = 0;  // the n-th commit of this generation, from 1
  friend auto operator<=>(const ManifestKey&, const ManifestKey&) = default;
};

// "manifest.step-00000100.gen-0002.epoch-0001.json", and back; nullopt for any other name.
std::string ManifestName(const ManifestKey& key);
std::optional<ManifestKey> ParseManifestName(std::string_view name);

// "step-00000100.gen-0002.0123456789abcdef.rank-0003.safetensors", and back.
struct ShardName {
  Step step;
  Generation generation;
  Incarnation incarnation;
  Rank rank;
  friend auto operator<=>(const ShardName&, const ShardName&) = default;
};
std::string ShardFileName(const ShardName& name);
std::optional<ShardName> ParseShardFileName(std::string_view name);

// What fixes the loss curve besides model and numerics: checked when a run goes on from the
// checkpoint.
struct BatchFacts {
  int64_t global_batch_size = 0;
  int64_t micro_batch_size = 0;
  uint64_t seed = 0;
  std::string corpus_sha256;  // of the training text; empty: not recorded
  friend bool operator==(const BatchFacts&, const BatchFacts&) = default;
};

// Where training stands. Part of the content hash.
struct Counters {
  int64_t samples_consumed = 0;  // the data position
  int64_t optimizer_steps = 0;
  // What else has to go on where it was, by name ("loss_scale", "schedule", "rng"): texts.
  std::map<std::string, std::string> named = {};
  friend bool operator==(const Counters&, const Counters&) = default;
};

// Whose state a checkpoint holds. Manifests from before there were others say nothing of it: AdamW.
struct OptimizerFacts {
  std::string name = "adamw";
  std::vector<std::string> slots = {"exp_avg", "exp_avg_sq"};  // "state/<slot>/<parameter>"
  // Parameters that were frozen, by name, ascending: only where there are no slots, whose absence
  // says it otherwise (frozen_in.h).
  std::vector<std::string> frozen = {};
  friend bool operator==(const OptimizerFacts&, const OptimizerFacts&) = default;
};

// What a checkpoint says besides its tensors; the writer's job.
struct ManifestFacts {
  std::string job_id;
  Incarnation incarnation;  // of the process that commits
  ManifestKey key;          // a writer leaves the epoch 0: CommitManifest finds it
  Counters counters;
  ModelSpec model;
  BatchFacts batch;
  NumericsFingerprint fingerprint;
  OptimizerFacts optimizer = {};
  friend bool operator==(const ManifestFacts&, const ManifestFacts&) = default;
};

// Elements [begin, end) of a tensor's shard, row-major: the whole of one entry of one file. Small:
// a large checkpoint has millions.
struct ManifestPiece {
  int64_t begin = 0;
  int64_t end = 0;
  int32_t file = 0;         // index into Manifest::files
  int32_t shard = 0;        // index into ManifestTensor::shards; 0 where these are none
  int64_t offset = 0;       // bytes from the start of the file
  int64_t first_block = 0;  // of its checksums in the file's table (format 2)
  uint32_t crc32c = 0;      // of all its bytes (format 1)
  ElementType type = ElementType::kF32;  // its tensor's
  int64_t bytes() const { return (end - begin) * ElementBytes(type); }
  friend bool operator==(const ManifestPiece&, const ManifestPiece&) = default;
};

struct ManifestTensor {
  std::string name;  // tensor_names.h
  std::vector<int64_t> shape;
  std::vector<ManifestPiece> pieces;     // by shard; ascending, adjacent, covering it
  std::vector<Box> shards = {};          // apart, covering the tensor; none: it is whole
  ElementType type = ElementType::kF32;  // of all pieces; in format 1 F32
  int64_t size() const;                  // elements
  Box ShardOf(const ManifestPiece& piece) const;
  friend bool operator==(const ManifestTensor&, const ManifestTensor&) = default;
};

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  // Of the header followed by the table of checksums, through which it covers every byte; in format
  // 1 of the whole file.
  std::string sha256;
  // Format 2 (block_checksums.h):
  int64_t header_bytes = 0;
  int64_t block_bytes = 0;  // 0: it has no table (format 1)
  int64_t blocks = 0;
  int64_t table_offset() const { return bytes - 4 * blocks; }
  friend bool operator==(const ManifestFile&, const ManifestFile&) = default;
};

struct Manifest {
  int64_t version = kManifestFormatVersion;
  ManifestFacts facts;
  std::optional<LayoutRecipe> layout = {};  // absent: the pieces are listed
  std::vector<ManifestTensor> tensors;      // in name order
  std::vector<ManifestFile> files;          // in name order
  // nullptr if there is none.
  const ManifestTensor* FindTensor(const std::string& name) const;
  const ManifestFile* FindFile(const std::string& name) const;
  const ManifestFile& FileOf(const ManifestPiece& piece) const {
    return files[static_cast<size_t>(piece.file)];
  }
};

// What a piece is called in its file's header: "model/wte.weight@0:1024"; with its shard if that is
// not the whole tensor: "model/h.0.mlp.c_fc.weight[0:768,0:1536]@0:1024".
std::string EntryName(std::string_view tensor, const Box* shard, int64_t begin, int64_t end);
std::string EntryName(const Manifest& manifest, const ManifestTensor& tensor,
                      const ManifestPiece& piece);

// Sets the tensors and pieces of a manifest from its layout and files. Errors: DATA_LOSS: the files
// are not those of the layout's ranks; those of CheckRecipe.
absl::Status ComputePieces(Manifest& manifest);

// In the present version. REQUIRES: CheckManifest(manifest).ok(), and with a layout, that its
// pieces are those that ComputePieces finds.
std::string EncodeManifest(const Manifest& manifest);
// The same for people and their programs: no checksum, and the pieces are always listed.
std::string DescribeManifest(const Manifest& manifest);

// The layout alone, as it stands in a manifest, and back. Errors: DATA_LOSS.
std::string EncodeLayout(const LayoutRecipe& recipe);
absl::StatusOr<LayoutRecipe> ParseLayout(std::string_view text);

// Errors: DATA_LOSS: torn, altered, or contradicting itself; FAILED_PRECONDITION: whole, but of a
// newer format version. The message does not name the file.
absl::StatusOr<Manifest> ParseManifest(std::string_view text);

// Every element of every tensor exactly once, in files that are listed, have plain names, and hold
// nothing else: no byte of a file is in two pieces. Errors: DATA_LOSS, with tensor and element.
absl::Status CheckManifest(const Manifest& manifest);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_MANIFEST_H_
