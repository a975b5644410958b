// Tags: names that people give to checkpoints, which then stay until the tag is removed. A tag is a
// file of its own in the checkpoints' folder, "tag.NAME", whose content is the manifest's file name
// and a newline. Any number of tags may name one checkpoint.
//
// A tag and a prune at the same moment: either the checkpoint stays, or whoever gives the tag hears
// that it is gone (common/format/aside.h).
//
// Threads: any. Two writers of one tag at once: the last one wins, and the tag is one or the other.

#ifndef DSRUN_COMMON_FORMAT_TAGS_H_
#define DSRUN_COMMON_FORMAT_TAGS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"

namespace dsrun {

struct Tag {
  std::string name;      // without "tag."
  std::string manifest;  // a manifest's file name; the file may be missing
};

// 1 to 100 letters, digits, '.', '-' and '_', the first a letter or digit. Errors:
// INVALID_ARGUMENT.
absl::Status CheckTagName(std::string_view name);

// All tags of the folder, by name. Errors: DATA_LOSS: a tag says nothing, so it is not known what
// it keeps; NOT_FOUND: no folder; UNAVAILABLE: a tag that is listed cannot be found; those of
// FileSystem. A tag is never left out because it cannot be read.
absl::StatusOr<std::vector<Tag>> ReadTags(FileSystem& fs, const std::string& folder);

// Gives the checkpoint a tag; a tag of this name that names another is moved. When it returns OK
// the tag is on the disk, and its manifest was there after that, brought back if it was aside.
// Errors: INVALID_ARGUMENT: no such name for a tag, or no manifest's name; NOT_FOUND: no such
// manifest, or it was removed meanwhile, and then there is no tag of this name any more; those of
// FileSystem: if the tag was written, and it cannot be told whether its manifest is still there, it
// stays.
absl::Status WriteTag(FileSystem& fs, const std::string& folder, const std::string& name,
                      const std::string& manifest);

// The checkpoint stays until the next one that prunes. Errors: INVALID_ARGUMENT; NOT_FOUND: no such
// tag; those of FileSystem.
absl::Status RemoveTag(FileSystem& fs, const std::string& folder, const std::string& name);

// A tag that is being written is a file ".tmp.tag.0123456789abcdef.MANIFEST.NAME", which is left
// over when its writer dies. One whose manifest is gone is of no use to anybody; a writer that
// misses its own makes another. nullopt: a name of another kind.
std::optional<std::string> ManifestOfTagTemporary(std::string_view file);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_TAGS_H_
