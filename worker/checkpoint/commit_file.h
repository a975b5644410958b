// The moment in which a checkpoint begins to exist: a file gets its final name, exactly once, on
// file systems that lose replies, have no exclusive rename, or no hard links. Whoever asks learns
// one of four things, and never a guess.

#ifndef DSRUN_WORKER_CHECKPOINT_COMMIT_FILE_H_
#define DSRUN_WORKER_CHECKPOINT_COMMIT_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "common/base/file_system.h"

namespace dsrun::worker {

struct CommitOutcome {
  enum class State {
    kCommitted,  // it is there, whole, and stays
    kTaken,      // the name is another file's; nothing of this one will ever appear under it
    kNot,        // it is not there, and never will be
    kUnknown,    // it is there and may not last, or may be there, or may yet appear
  };
  State state;
  absl::Status why;  // but for kCommitted
};

// `contents` under `path`, never replacing anything. By `temporary` (in the same folder) and a
// rename; where that cannot be exclusive, by writing `path` itself, made exclusively: a reader may
// then see a part of it, and a writer that dies leaves one, so `contents` must tell by themselves
// whether they are whole.
//
// After an error it looks who has the name, and takes the temporary name away before it says kNot
// or kTaken: a request that is still under way in a network then finds nothing to rename.
CommitOutcome CommitFile(FileSystem& fs, const std::string& path, const std::string& temporary,
                         const std::string& contents);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_COMMIT_FILE_H_
