// The commit of a save that the coordinator has granted, with its attempt number
// (launcher/coordinator/save_ledger.h). A grant may be the second one of its save: then the first
// committer may have done it and died before it could say so.
//
// Threads: any; each call blocks until the disk has answered.

#ifndef DSRUN_WORKER_CHECKPOINT_GRANTED_COMMIT_H_
#define DSRUN_WORKER_CHECKPOINT_GRANTED_COMMIT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "common/base/patience.h"
#include "common/format/manifest.h"

namespace dsrun::worker {

// A manifest of this job's save of `step` by `generation`; "": there is none.
// Errors: those of FileSystem: it cannot be said, because one with such a name cannot be read.
absl::StatusOr<std::string> ManifestOfSave(FileSystem& fs, const std::string& folder,
                                           const std::string& job_id, Step step,
                                           Generation generation);

struct GrantedCommit {
  absl::Status status;
  // OK: the manifest that is committed. Else one that may be there all the same; "": surely none.
  std::string manifest;
};

// Commits, or finds that it has been committed and makes sure that it lasts. `facts.key.epoch` is
// the attempt. `records`: by rank, as ShardRecord::Serialize wrote them.
// `patience`: as CommitManifest. Errors: DATA_LOSS: not the records of one save; those of
// CommitManifest.
GrantedCommit CommitGranted(FileSystem& fs, const std::string& folder, const ManifestFacts& facts,
                            const std::vector<std::string>& records, Patience* patience = nullptr);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_GRANTED_COMMIT_H_
