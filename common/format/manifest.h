// The manifest: one small JSON file that makes a set of shard files a checkpoint
// (docs/checkpoint_format.md). It speaks of logical tensors and element ranges, never of ranks, so
// any layout can load what any other wrote. Its last field is a SHA-256 of everything before, so a
// torn or altered manifest is recognised without knowing anything else. Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_MANIFEST_H_
#define DSRUN_COMMON_FORMAT_MANIFEST_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/model/model_spec.h"
#include "common/numerics/fingerprint.h"

namespace dsrun {

inline constexpr int64_t kManifestFormatVersion = 1;

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
  friend bool operator==(const Counters&, const Counters&) = default;
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
  friend bool operator==(const ManifestFacts&, const ManifestFacts&) = default;
};

// Elements [begin, end) of a tensor, row-major: the whole of one entry of one file.
struct ManifestPiece {
  int64_t begin = 0;
  int64_t end = 0;
  std::string file;
  std::string entry;
  int64_t offset = 0;  // bytes from the start of the file
  uint32_t crc32c = 0;
  friend bool operator==(const ManifestPiece&, const ManifestPiece&) = default;
};

struct ManifestTensor {
  std::string name;  // "model/h.0.attn.c_attn.weight", "adam_m/...", "adam_v/..."
  std::vector<int64_t> shape;
  std::vector<ManifestPiece> pieces;  // ascending, adjacent, covering the tensor
  int64_t size() const;               // elements; dtype is F32 in this format version
  friend bool operator==(const ManifestTensor&, const ManifestTensor&) = default;
};

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  std::string sha256;
  friend bool operator==(const ManifestFile&, const ManifestFile&) = default;
};

struct Manifest {
  ManifestFacts facts;
  std::vector<ManifestTensor> tensors;  // in name order
  std::vector<ManifestFile> files;      // in name order
  // nullptr if there is none.
  const ManifestTensor* FindTensor(const std::string& name) const;
  const ManifestFile* FindFile(const std::string& name) const;
};

// REQUIRES: CheckManifest(manifest).ok().
std::string EncodeManifest(const Manifest& manifest);

// Errors: DATA_LOSS: torn, altered, or contradicting itself; FAILED_PRECONDITION: whole, but of a
// newer format version. The message does not name the file.
absl::StatusOr<Manifest> ParseManifest(std::string_view text);

// Every element of every tensor exactly once, in files that are listed and have plain names.
// Errors: DATA_LOSS, with tensor and element.
absl::Status CheckManifest(const Manifest& manifest);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_MANIFEST_H_
