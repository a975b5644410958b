// A checkpoint that was committed, and nobody said so: the rank's report was lost with an agent
// that was killed. The coordinator knows only what it was told; whoever ends a job looks.

#ifndef DSRUN_LAUNCHER_SHELL_UNREPORTED_COMMIT_H_
#define DSRUN_LAUNCHER_SHELL_UNREPORTED_COMMIT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/base/file_system.h"

namespace dsrun::launcher {

struct UnreportedCommit {
  std::string manifest;
  int64_t step = 0;
};

// The newest checkpoint of `job_id` in `folder`, if it was committed after `reported` (a manifest's
// name; empty: none was reported): its manifest is whole, and its shards are there in their sizes.
// What cannot be read is passed over: this is advice for the operator, and decides nothing.
// Reads no more manifests than are newer than `reported`.
std::optional<UnreportedCommit> FindUnreportedCommit(FileSystem& fs, const std::string& folder,
                                                     const std::string& job_id,
                                                     const std::string& reported);

// The same, in a thread that is left behind after `limit`: a file server that hangs holds up
// nobody. `fs` must outlive the process's end.
std::optional<UnreportedCommit> FindUnreportedCommitWithin(absl::Duration limit, FileSystem& fs,
                                                           const std::string& folder,
                                                           const std::string& job_id,
                                                           const std::string& reported);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_UNREPORTED_COMMIT_H_
