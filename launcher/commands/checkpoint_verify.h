// dsrun checkpoint verify DIR: every byte of every checkpoint of a folder is read. What is damaged
// or missing is named with what was expected and what is there; what could not be read is not
// called damage; what no checkpoint needs is listed. Nothing is changed.
//
// A job may be saving and pruning meanwhile: a checkpoint that goes away is said to have gone, and
// files of a save under way are listed as not named by any manifest. What a prune has set aside
// (common/format/aside.h) is left over, and its shards with it; a tag that names it is not broken.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_VERIFY_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_VERIFY_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/format/manifest.h"
#include "common/format/shard_verifier.h"
#include "launcher/commands/checkpoint_place.h"

namespace dsrun::launcher {

struct VerifiedCheckpoint {
  enum class State {
    kWhole,
    kDamaged,        // the manifest, or a shard of it, is damaged or missing
    kContradictory,  // whole, but its manifest is none of its model (common/format/model_tensors.h)
    kUnreadable,     // nothing is damaged as far as it could be read
    kGone,           // removed while it was read
    kOtherJob,       // of another job than the one that was asked for: not read
  };
  std::string manifest;  // its name
  State state = State::kWhole;
  std::string problem;        // of the manifest itself; empty: it can be read
  std::string contradiction;  // of manifest and model: what, expected, got
  ManifestFacts facts;        // if the manifest is good
  int64_t shards = 0;         // "
  int64_t bytes = 0;          // ", of the shards
  std::vector<ShardVerdict> shards_with_findings;
};

struct FolderVerdict {
  std::string folder;
  std::vector<VerifiedCheckpoint> checkpoints;  // newest first
  // Name and what is wrong or what it is, one each.
  struct Note {
    std::string name;
    std::string words;
  };
  std::vector<Note> broken_tags;      // of checkpoints that are not there, or that say nothing
  std::vector<Note> unreadable_tags;  // could not be read
  std::vector<Note> leftover;         // of dsrun, and named by no manifest
  std::vector<Note> foreign;          // not dsrun's
  int Code() const;                   // docs/errors.md
};

struct VerifyOptions {
  CheckpointPlace place;
  std::string job_id;  // that job's checkpoints only; empty: all
  bool json = false;
  int jobs = 1;                      // threads that read and hash
  std::ostream* terminal = nullptr;  // for progress; nullptr: none
};

// Errors: NOT_FOUND: no checkpoint there; those of FileSystem for the folder itself.
absl::StatusOr<FolderVerdict> VerifyFolder(FileSystem& fs, const VerifyOptions& options);

// Prints the verdict; returns the exit code.
int VerifyCommand(FileSystem& fs, const VerifyOptions& options, std::ostream& out,
                  std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_VERIFY_H_
