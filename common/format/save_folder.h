// Which folder is a job's save folder, for whoever writes there. A path alone does not say it:
// where a file system was mounted, there is another folder beneath, on the disk of the node, and
// what is written there is seen by nobody else and covered up by the next mount.
//
// So dsrun makes the folder, once, before the job begins, and puts a file there that stays until
// the job ends: the marker. It is the probe by which agents see that they share the folder
// (proto/agent.proto). Whoever saves looks for it before and after, and never makes the folder. It
// says more than device and inode would: it is the same on every node, for a process that was
// started again, and when a file system was mounted anew.
//
// Threads: any.

#ifndef DSRUN_COMMON_FORMAT_SAVE_FOLDER_H_
#define DSRUN_COMMON_FORMAT_SAVE_FOLDER_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/base/file_system.h"

namespace dsrun {

// The marker's file name, and back to its job; nullopt: a name of another kind.
std::string SaveFolderMarker(const std::string& job_id);
std::optional<std::string> JobOfSaveFolderMarker(std::string_view name);

// OK: `folder` is the one that the job began with. Errors: UNAVAILABLE: it is not there, or it is
// another one, for now or for good; those of FileSystem: it cannot be told.
absl::Status CheckSaveFolder(FileSystem& fs, const std::string& folder, const std::string& job_id);

// What is there is the job's save folder from now on, whatever it was. Makes no folder. Errors:
// NOT_FOUND: there is none; those of FileSystem.
absl::Status AdoptSaveFolder(FileSystem& fs, const std::string& folder, const std::string& job_id);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_SAVE_FOLDER_H_
