// Writing a checkpoint (docs/checkpoint_format.md). Every rank writes its shard and syncs it; the
// records of all shards come together at the coordinator, which lets one rank commit them with one
// rename (worker/engine/save_writer.h):
//
//   all:  WriteShard -> record.Serialize() -> coordinator
//   one:  CommitManifest(records) -> PruneCheckpoints
//   all, if any record is missing, or the commit is known not to have happened:
//         RemoveShard(own record); the previous checkpoint stays newest
//
// Until the rename nothing of it exists for a reader; after it, all of it does. Names carry step,
// generation and incarnation and are made exclusively, so a writer that was stopped, overtaken and
// woken again can neither replace nor mix into what its successors wrote.
//
// A shard whose pieces are those that a layout recipe computes (common/format/layout_recipe.h) is
// told by the recipe alone; else its record lists them, and so does the manifest.
//
// One save for each (step, generation, process): a second one is refused by ALREADY_EXISTS.
// Threads: any; each call blocks until the disk has answered.

#ifndef DSRUN_WORKER_CHECKPOINT_CHECKPOINT_WRITER_H_
#define DSRUN_WORKER_CHECKPOINT_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/patience.h"
#include "common/format/layout_recipe.h"
#include "common/format/manifest.h"
#include "common/format/piece.h"
#include "worker/checkpoint/slices.h"

namespace dsrun::worker {

struct ShardId {
  std::string job_id;
  ShardName name;  // step, generation, incarnation of the writing process, rank
};

// What a manifest has to know of one shard file.
struct ShardRecord {
  struct Piece {
    std::string tensor;
    std::vector<int64_t> shape;
    ManifestPiece piece;  // its file is this one
    Box shard;            // without dimensions: the whole tensor
    friend bool operator==(const Piece&, const Piece&) = default;
  };
  ManifestFile file;
  std::string layout;         // the recipe (EncodeLayout), of rank 0 alone; empty: none
  std::string layout_sha256;  // of the recipe that computes its pieces; empty: they are listed
  std::vector<Piece> pieces;  // if they are

  std::string Serialize() const;
  // Errors: DATA_LOSS: not the text of a record.
  static absl::StatusOr<ShardRecord> Parse(std::string_view text);
  friend bool operator==(const ShardRecord&, const ShardRecord&) = default;
};

// Writes and syncs the shard, into the folder that the job began with and no other
// (common/format/save_folder.h), before and after; it never makes one. After an error the partial
// file is removed.
// Errors: UNAVAILABLE: the folder has vanished, or is another one, such as what is beneath a mount;
// ALREADY_EXISTS: this process saved this step before; RESOURCE_EXHAUSTED: the disk is full; those
// of FileSystem.
// `recipe`: of all ranks' pieces; nullptr: there is none. One that does not compute these slices is
// left out.
absl::StatusOr<ShardRecord> WriteShard(FileSystem& fs, const std::string& folder, const ShardId& id,
                                       std::span<const Slice> slices,
                                       const LayoutRecipe* recipe = nullptr);

// For a save that will not be committed.
absl::Status RemoveShard(FileSystem& fs, const std::string& folder, const ShardRecord& record);

// Commits. The manifest gets facts.key.epoch, or if that is 0 the one after the last in its
// generation, and the next ones while a name is taken. Returns the manifest's name. Then points
// `latest` at it; that is advice for people, and no error if it fails.
// `most_bytes`: of the manifest.
// Errors: UNKNOWN: it may be committed; no shard must be removed (see MayBeCommitted); also where
// the folder is another one afterwards than the job began with. After all others nothing is
// committed. DATA_LOSS: the records do not cover every tensor exactly once; FAILED_PRECONDITION:
// the manifest would be larger than readers take, or a shard cannot be seen from here, also not
// while `patience` lasts (nullptr: one look): a network file system may show the others' shards
// late; those of FileSystem.
absl::StatusOr<std::string> CommitManifest(FileSystem& fs, const std::string& folder,
                                           const ManifestFacts& facts,
                                           const std::vector<ShardRecord>& records,
                                           Patience* patience = nullptr,
                                           int64_t most_bytes = kMostManifestBytes);

// What CommitManifest returned leaves it open: every shard it names has to stay.
inline bool MayBeCommitted(const absl::Status& status) {
  return status.ok() || absl::IsUnknown(status);
}

// Files that CommitManifest has in the making: "<prefix><incarnation>.<manifest name>", with the
// suffix for those that become `latest`. They are left over when it dies.
std::string TemporaryPrefix(const std::string& job_id);
inline constexpr std::string_view kLatestSuffix = ".latest";

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_CHECKPOINT_WRITER_H_
