// Reading every byte of the shards of a checkpoint, and telling apart what is damaged, what is
// missing and what could not be read: a read error is no damage, and damage is believed when a
// second look finds the same. For `dsrun checkpoint verify`, and for the ranks that share out the
// verification of what they load.
//
// Threads: one at a time per object, which reads and hashes the blocks of a file with several of
// its own where it is told to: the verdict is the same.

#ifndef DSRUN_COMMON_FORMAT_SHARD_VERIFIER_H_
#define DSRUN_COMMON_FORMAT_SHARD_VERIFIER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/file_system.h"
#include "common/format/manifest.h"
#include "common/format/shard_header.h"

namespace dsrun {

// A block of a piece (in format 1: a piece) whose bytes are not those that were written.
struct PieceDamage {
  std::string tensor;
  int64_t begin = 0;  // elements of the tensor's shard
  int64_t end = 0;
  std::string entry;
  uint32_t expected_crc32c = 0;
  uint32_t computed_crc32c = 0;
  friend bool operator==(const PieceDamage&, const PieceDamage&) = default;
};

struct ShardVerdict {
  enum class State {
    kWhole,
    kMissing,     // its folder does not list it
    kDamaged,     // another size or other bytes, twice the same
    kUnreadable,  // nothing is known of it: `error` says why
  };
  State state = State::kWhole;
  std::string file;
  int64_t expected_bytes = 0;
  int64_t bytes = 0;                // as it is there
  std::string expected_sha256;      // set, like the computed one, where the sizes agree
  std::string computed_sha256;      // of the header and the table of checksums; in format 1 of all
  std::vector<PieceDamage> pieces;  // none although the bytes differ: header or padding
  std::string contradiction;        // how its header, undamaged, and its manifest differ
  absl::Status error;
  friend bool operator==(const ShardVerdict&, const ShardVerdict&) = default;
};

// "whole", "missing", "damaged", "unreadable".
const char* StateName(ShardVerdict::State state);

// OK; DATA_LOSS: missing or damaged; kUnreadable's own error. The message names the file with its
// folder, what was expected, what is there, and the first damaged tensor.
absl::Status StatusOf(const ShardVerdict& verdict, const std::string& folder);

class ShardVerifier {
 public:
  // `fs` and `manifest` must outlive this. `jobs`: threads for the blocks of one file.
  // REQUIRES: CheckManifest(manifest).ok(); with jobs > 1 that files of `fs` are read by several
  // threads at once.
  ShardVerifier(FileSystem& fs, std::string folder, const Manifest& manifest, int jobs = 1);

  // `read(bytes)` is called for every part that has been read, those of a second look too, by one
  // thread at a time.
  ShardVerdict Verify(const ManifestFile& file, const std::function<void(int64_t bytes)>& read);
  // One look alone, for whoever takes the second one himself.
  ShardVerdict VerifyOnce(const ManifestFile& file,
                          const std::function<void(int64_t bytes)>& read) {
    return Look(file, read);
  }

 private:
  ShardVerdict Look(const ManifestFile& file, const std::function<void(int64_t)>& read);
  absl::Status Compare(ReadableFile& file, const ManifestFile& expected,
                       const std::function<void(int64_t)>& read, ShardVerdict& verdict);
  absl::Status CompareBlocks(ReadableFile& file, const ManifestFile& expected,
                             const std::function<void(int64_t)>& read, ShardVerdict& verdict);
  void CompareTable(const std::vector<PieceOfFile>& pieces, const ManifestFile& file,
                    const std::vector<uint32_t>& expected, const std::vector<uint32_t>& computed,
                    ShardVerdict& verdict) const;
  const std::vector<PieceOfFile>& PiecesOf(const ManifestFile& file) const;
  ShardVerdict::State MissingOrNot(const std::string& name, absl::Status& error);

  FileSystem& fs_;
  const std::string folder_;
  const Manifest& manifest_;
  const int jobs_;
  const std::vector<std::vector<PieceOfFile>> pieces_;  // PiecesByFile
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_SHARD_VERIFIER_H_
