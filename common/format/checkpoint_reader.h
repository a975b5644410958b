// Finding and reading checkpoints. A folder may hold many, of several jobs, and debris of writers
// that died; a reader trusts nothing without a checksum and takes the newest that is whole.
//
// Threads: one at a time per object.

#ifndef DSRUN_COMMON_FORMAT_CHECKPOINT_READER_H_
#define DSRUN_COMMON_FORMAT_CHECKPOINT_READER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/patience.h"
#include "common/format/manifest.h"
#include "common/format/piece.h"
#include "common/format/shard_header.h"

namespace dsrun {

// What a reader wants, and where to.
struct WantedPiece {
  std::string tensor;
  int64_t begin = 0;  // elements [begin, end) of the shard, row-major
  int64_t end = 0;
  void* into = nullptr;
  Box shard = {};  // without dimensions: the whole tensor
  // What stands in `into` then: the type in which it is stored, or F32 of what is exact as F32
  // (element_values.h).
  ElementType type = ElementType::kF32;
};

// One checkpoint that has been found whole.
class Checkpoint {
 public:
  // What is done with a file before the first of it is given out.
  enum class TableCheck {
    kNone,    // the caller has seen to it
    kHash,    // its header and table of checksums are those that the manifest names
    kHeader,  // and its header says of every piece what the manifest says (shard_header.h)
  };

  // `fs` must outlive this.
  Checkpoint(FileSystem& fs, std::string folder, std::string manifest_name, Manifest manifest,
             TableCheck check = TableCheck::kNone)
      : fs_(&fs),
        folder_(std::move(folder)),
        manifest_name_(std::move(manifest_name)),
        manifest_(std::make_shared<const Manifest>(std::move(manifest))),
        check_(check) {}
  Checkpoint(Checkpoint&&) = default;
  Checkpoint& operator=(Checkpoint&&) = default;

  // The same checkpoint, with the same manifest in memory, for another thread.
  Checkpoint ForAnotherThread() const { return Checkpoint(*this, OfAnother()); }

  const std::string& folder() const { return folder_; }
  const std::string& manifest_name() const { return manifest_name_; }
  const Manifest& manifest() const { return *manifest_; }

  // Shards that are open at one time: a checkpoint of a thousand ranks must not need a thousand
  // descriptors. Beyond them, the one that was not used for longest is closed.
  static constexpr size_t kMaxOpenFiles = 4;

  // All of `wanted`, file after file: each file is opened once, and of it no more is read than the
  // blocks in which the wanted elements lie, each compared with its checksum before one of its
  // bytes is given out (format 1: the pieces). Whatever the writer's layout was.
  // Errors and `moved` as ReadRange.
  absl::Status Read(std::span<const WantedPiece> wanted, const std::function<void()>& moved = {});

  // Elements [begin, end) of a logical tensor into `into`, as F32: Read of one.
  // Errors: NOT_FOUND: no such tensor; OUT_OF_RANGE: not its elements; FAILED_PRECONDITION: its
  // type is another, and not exact as F32; DATA_LOSS: a shard (named) is damaged, or its header
  // contradicts the manifest; UNAVAILABLE: it ends earlier than when it was opened; those of
  // FileSystem. `moved` (may be empty) is called after every megabyte that was read, and at least
  // once a piece: the reader is not stuck.
  absl::Status ReadRange(const std::string& tensor, int64_t begin, int64_t end, float* into,
                         const std::function<void()>& moved = {});

  // The same of part of a tensor's shard (without dimensions: of all of it), as it is stored.
  absl::Status ReadStored(const std::string& tensor, const Box& shard, int64_t begin, int64_t end,
                          std::vector<std::byte>& into);

 private:
  struct OfAnother {};
  Checkpoint(const Checkpoint& other, OfAnother)
      : fs_(other.fs_),
        folder_(other.folder_),
        manifest_name_(other.manifest_name_),
        manifest_(other.manifest_),
        check_(other.check_) {}

  // A wanted piece, and one that holds a part of it.
  struct Part {
    const ManifestTensor* tensor;
    const ManifestPiece* piece;
    const WantedPiece* wanted;
  };
  absl::Status FindParts(const WantedPiece& wanted, std::vector<Part>& parts) const;
  // What both have: elements from the start of the piece, and of the wanted one.
  static std::vector<CommonRun> RunsOf(const Part& part);
  absl::Status ReadPart(const Part& part, const std::function<void()>& moved);
  absl::Status ReadOldPart(ReadableFile& file, const Part& part,
                           const std::function<void()>& moved);
  absl::Status CheckOldPiece(ReadableFile& file, const Part& part,
                             const std::function<void()>& moved);
  absl::StatusOr<ReadableFile*> Open(const ManifestFile& file);
  absl::Status CheckTable(ReadableFile& file, const ManifestFile& facts);

  struct OpenFile {
    std::unique_ptr<ReadableFile> file;
    int64_t last_use = 0;
  };

  FileSystem* fs_;
  std::string folder_;
  std::string manifest_name_;
  std::shared_ptr<const Manifest> manifest_;
  std::map<std::string, OpenFile> open_;  // at most kMaxOpenFiles
  int64_t uses_ = 0;
  std::set<const ManifestPiece*> checked_;
  TableCheck check_;
  std::set<std::string> checked_files_;            // by name
  std::vector<std::vector<PieceOfFile>> by_file_;  // PiecesByFile, when it is needed first
};

enum class Verify {
  kFull,  // every byte of every file is read and compared with its checksums
  // What follows compares the checksum of a block in any case before one of its bytes is given out.
  kSizes,    // the files are there and as long as they should be; header and table of a file are
             // compared with the manifest when the first of it is read (TableCheck::kHeader)
  kHeaders,  // only the manifest is read, for a rank whose peers have verified the rest; when the
             // first of a file is read it is seen to be the one that they had (TableCheck::kHash)
  kNone,     // only the manifest is read
};

// What one manifest says. Errors: DATA_LOSS: torn, altered, contradicting itself, or no file;
// FAILED_PRECONDITION: a newer format version; those of FileSystem.
absl::StatusOr<Manifest> ReadManifest(FileSystem& fs, const std::string& folder,
                                      const std::string& manifest_name);

// The same of a manifest that stands under another name, `file` (common/format/aside.h).
absl::StatusOr<Manifest> ReadManifestFile(FileSystem& fs, const std::string& folder,
                                          const std::string& file,
                                          const std::string& manifest_name);

// The checkpoint of one manifest, by one look at it.
// Errors: those of ReadManifest; DATA_LOSS: a file is missing, has another size or other bytes; the
// message names the file and what is wrong. UNAVAILABLE: what the file system says contradicts
// itself. Those of FileSystem: nothing is known of the checkpoint then.
absl::StatusOr<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& folder,
                                          const std::string& manifest_name, Verify verify);

struct FindOptions {
  std::string job_id = {};           // only this job's checkpoints; empty: any
  std::optional<int64_t> step = {};  // only of this step
  // Paths of manifests of which somebody else has proven damage, and what: passed over unread.
  std::map<std::string, std::string> damaged = {};
  // The same, of what could not be read and is given up.
  std::map<std::string, std::string> unreadable = {};
  Verify verify = Verify::kFull;
  // What cannot be read is tried again as long as it lasts. nullptr: once.
  Patience* patience = nullptr;
  // What cannot be read in the end is passed over, as if it were damaged, and named.
  bool pass_unreadable = false;
};

// A checkpoint that is not used.
struct PassedOver {
  std::string manifest;
  ManifestKey key;
  std::string why;
  bool damaged = true;  // proven; false: it could not be read (pass_unreadable)
};

struct CheckpointSearch {
  std::optional<Checkpoint> newest;     // the greatest (step, generation, epoch) that is whole
  std::vector<PassedOver> passed_over;  // greater than it, greatest first
  size_t others = 0;                    // of other jobs, and greater
};

// Looks through a folder from the newest checkpoint down. One is passed over for damage alone, and
// damage is what two looks in a row find in the same way, at files that are opened anew: an error
// of the medium, a name that was just listed and cannot be opened, a size and contents that
// contradict one another say nothing about a checkpoint, and end the search. Errors: NOT_FOUND: no
// folder; FAILED_PRECONDITION: a newer format version (not if only one job is looked for: this
// program's is never newer). All others: it cannot be told which is the newest.
absl::StatusOr<CheckpointSearch> SearchCheckpoints(FileSystem& fs, const std::string& folder,
                                                   const FindOptions& options);

// The newest that SearchCheckpoints finds. One line for every newer one that is passed over is
// added to `rejected` (may be nullptr): show them to the user. Errors: those of SearchCheckpoints;
// NOT_FOUND: no folder, or nothing in it but damaged checkpoints and those of others; the message
// lists the damaged ones.
absl::StatusOr<Checkpoint> FindNewestCheckpoint(FileSystem& fs, const std::string& folder,
                                                const FindOptions& options,
                                                std::vector<std::string>* rejected);

// Names of the folder's manifests, newest first; none of them opened yet.
absl::StatusOr<std::vector<std::string>> ListManifests(FileSystem& fs, const std::string& folder);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_CHECKPOINT_READER_H_
