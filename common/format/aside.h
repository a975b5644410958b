// Manifests that are set aside: how a checkpoint is removed while somebody may be giving it a tag.
// Two who look and then act miss one another, whatever the order; so each of them acts first and
// looks then:
//
//   prune:  renames the manifest aside -> reads the tags -> tagged: renames it back
//                                                        -> not: removes it, then its shards
//   tag:    writes the tag -> looks for the manifest -> aside: renames it back
//                                                    -> gone: takes the tag away again
//
// If the tags were read before the tag was there, the manifest was aside before, and is found so.
// Renaming back and removing are one step each of one name, and no such name is ever used again:
// one of the two gets it, and knows. A name of this kind is no manifest to any reader. One that is
// left by a prune that died is brought back by the next prune of its job, which judges it anew, by
// the next who gives it a tag, and by dsrun checkpoint tag.
//
// Threads: any.

#ifndef DSRUN_COMMON_FORMAT_ASIDE_H_
#define DSRUN_COMMON_FORMAT_ASIDE_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"

namespace dsrun {

struct Aside {
  std::string name;  // ".aside.0123456789abcdef.manifest.step-00000100.gen-0002.epoch-0001.json"
  std::string manifest;  // what it is when it is brought back
};

// Under a name that nobody has had before. Errors: NOT_FOUND: there is no such manifest; those of
// FileSystem: it may have been done.
absl::StatusOr<Aside> SetAside(FileSystem& fs, const std::string& folder,
                               const std::string& manifest);

// nullopt: a name of another kind.
std::optional<Aside> ParseAsideName(std::string_view name);

// Those that are aside, in the order of their names. Errors: NOT_FOUND: no folder; those of
// FileSystem.
absl::StatusOr<std::vector<Aside>> ListAsides(FileSystem& fs, const std::string& folder);

// OK: the manifest stands under its name; on the disk, if it was this call that brought it back.
// Replaces nothing. Errors: NOT_FOUND: it is neither there nor aside; UNAVAILABLE: it is moved
// about all the time; those of FileSystem: it cannot be told.
absl::Status BringBack(FileSystem& fs, const std::string& folder, const std::string& manifest);

// All of them, whoever has set them aside. Errors: those of ListAsides and BringBack.
absl::Status BringAllBack(FileSystem& fs, const std::string& folder);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_ASIDE_H_
