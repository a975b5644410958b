// Which files a training text consists of, in which order: what `find -L PATH -type f` prints,
// sorted bytewise by path, for each given path in turn. Symbolic links count as what they point
// to, so a copy of the folder that has files in their place is the same text; a file that can be
// reached on two paths is in the text twice. Empty files inside a folder add nothing and are left
// out. The launcher checks with it before anything starts, every worker reads by it.

#ifndef DSRUN_COMMON_CORPUS_CORPUS_FILES_H_
#define DSRUN_COMMON_CORPUS_CORPUS_FILES_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"

namespace dsrun {

struct CorpusFile {
  std::string path;
  int64_t bytes = 0;
  friend bool operator==(const CorpusFile&, const CorpusFile&) = default;
};

// A zero byte within this many bytes from a file's start makes it "not text".
inline constexpr int64_t kTextCheckBytes = 16 << 20;

// Never empty. Errors: INVALID_ARGUMENT, with every finding at once (the first 20 shown): missing,
// unreadable, empty (a given file, or a given folder without any text), neither file nor folder,
// not text (a zero byte, with its offset), a folder that contains itself through a link.
absl::StatusOr<std::vector<CorpusFile>> ListCorpus(std::span<const std::string> paths,
                                                   FileSystem& fs = FileSystem::Real());

// SHA-256 over the bytes of all files in order, 64 lower-case hex digits: what the manifest keeps
// of a text. Reads everything: about a second per GB. Errors: FAILED_PRECONDITION: a file is
// shorter or longer than listed; those of FileSystem.
absl::StatusOr<std::string> CorpusSha256(std::span<const CorpusFile> files,
                                         FileSystem& fs = FileSystem::Real());

}  // namespace dsrun

#endif  // DSRUN_COMMON_CORPUS_CORPUS_FILES_H_
