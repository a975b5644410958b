// Finding and reading checkpoints. A folder may hold many, of several jobs, and debris of writers
// that died; a reader trusts nothing without a checksum and takes the newest that is whole.
//
// Threads: one at a time per object.

#ifndef DSRUN_COMMON_FORMAT_CHECKPOINT_READER_H_
#define DSRUN_COMMON_FORMAT_CHECKPOINT_READER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/format/manifest.h"

namespace dsrun {

// One checkpoint that has been found whole.
class Checkpoint {
 public:
  // `fs` must outlive this.
  Checkpoint(FileSystem& fs, std::string folder, std::string manifest_name, Manifest manifest)
      : fs_(&fs),
        folder_(std::move(folder)),
        manifest_name_(std::move(manifest_name)),
        manifest_(std::move(manifest)) {}

  const std::string& folder() const { return folder_; }
  const std::string& manifest_name() const { return manifest_name_; }
  const Manifest& manifest() const { return manifest_; }

  // Shards that are open at one time: a checkpoint of a thousand ranks must not need a thousand
  // descriptors. Beyond them, the one that was not used for longest is closed.
  static constexpr size_t kMaxOpenFiles = 16;

  // Elements [begin, end) of a logical tensor into `into`, from whatever pieces hold them. Every
  // piece is compared with its checksum before the first of its bytes is given out.
  // Errors: NOT_FOUND: no such tensor; OUT_OF_RANGE: not its elements; DATA_LOSS: a shard (named)
  // is damaged; those of FileSystem.
  absl::Status ReadRange(const std::string& tensor, int64_t begin, int64_t end, float* into);

 private:
  absl::Status ReadPiece(const ManifestPiece& piece, int64_t begin, int64_t end, float* into);
  absl::Status CheckPiece(ReadableFile& file, const ManifestPiece& piece);
  absl::StatusOr<ReadableFile*> Open(const std::string& file);

  struct OpenFile {
    std::unique_ptr<ReadableFile> file;
    int64_t last_use = 0;
  };

  FileSystem* fs_;
  std::string folder_;
  std::string manifest_name_;
  Manifest manifest_;
  std::map<std::string, OpenFile> open_;  // at most kMaxOpenFiles
  int64_t uses_ = 0;
  std::set<const ManifestPiece*> checked_;
};

enum class Verify {
  kFull,   // every byte of every file is read and compared with its SHA-256
  kSizes,  // the files are there and as long as they should be
  kNone,   // only the manifest is read; for a rank whose peers have verified the rest. ReadRange
           // compares checksums in any case.
};

// The checkpoint of one manifest.
// Errors: DATA_LOSS: the manifest is torn or contradicts itself, or a file is missing, has another
// size or other bytes; the message names the file and what is wrong. FAILED_PRECONDITION: a newer
// format version. Those of FileSystem.
absl::StatusOr<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& folder,
                                          const std::string& manifest_name, Verify verify);

struct FindOptions {
  std::string job_id = {};           // only this job's checkpoints; empty: any
  std::optional<int64_t> step = {};  // only of this step
  // Paths of manifests of which somebody else has proven damage, and what: rejected unread.
  std::map<std::string, std::string> damaged = {};
  Verify verify = Verify::kFull;
};

// The greatest (step, generation, epoch) that is whole. One line for every newer one that is not is
// added to `rejected` (may be nullptr): show them to the user.
// Errors: NOT_FOUND: no folder, or no (whole) checkpoint in it; the message lists the rejected
// ones.
absl::StatusOr<Checkpoint> FindNewestCheckpoint(FileSystem& fs, const std::string& folder,
                                                const FindOptions& options,
                                                std::vector<std::string>* rejected);

// Names of the folder's manifests, newest first; none of them opened yet.
absl::StatusOr<std::vector<std::string>> ListManifests(FileSystem& fs, const std::string& folder);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_CHECKPOINT_READER_H_
