// dsrun checkpoint tag DIR NAME, dsrun checkpoint untag DIR NAME: a checkpoint with a tag stays
// until the tag is removed (common/format/tags.h).

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_TAGS_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_TAGS_H_

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "launcher/commands/checkpoint_place.h"

namespace dsrun::launcher {

// "10, 20, 30": the steps of a folder's manifests, each once, ascending, the newest twenty; "none".
absl::StatusOr<std::string> StepsIn(FileSystem& fs, const std::string& folder);

// OK: there is no tag of this name in the folder, or no folder. Errors: ALREADY_EXISTS: there is,
// and the message says of which checkpoint; INVALID_ARGUMENT: no name for a tag; those of ReadTags.
absl::Status CheckTagIsFree(FileSystem& fs, const std::string& folder, const std::string& tag);

// The newest whole checkpoint (by sizes) of the place, of `step` and `job_id` where they are given,
// gets the tag, also one that a prune has set aside and not removed (common/format/aside.h). A tag
// that names another checkpoint already is not moved. Both return the exit code.
int TagCommand(FileSystem& fs, const CheckpointPlace& place, const std::string& job_id,
               std::optional<int64_t> step, const std::string& tag, std::ostream& out,
               std::ostream& err);
int UntagCommand(FileSystem& fs, const CheckpointPlace& place, const std::string& tag,
                 std::ostream& out, std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_TAGS_H_
