#include "common/base/private_folder.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dsrun {
namespace {

constexpr size_t kMostPathBytes = 107 - 40;

// Whether every user may pass through `path` and all folders above it.
bool IsOpenToAll(std::string path) {
  while (path.size() > 1) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return false;
    if ((info.st_mode & S_IXOTH) == 0) return false;
    path.resize(path.rfind('/'));
  }
  return true;
}

}  // namespace

absl::StatusOr<std::string> MakePrivateFolder(const std::string& prefix) {
  std::vector<std::string> parents;
  const char* const wanted = getenv("TMPDIR");
  if (wanted != nullptr && wanted[0] == '/' && strlen(wanted) <= kMostPathBytes &&
      IsOpenToAll(wanted)) {
    parents.push_back(wanted);
  }
  parents.push_back("/tmp");
  parents.push_back("/dev/shm");
  std::vector<std::string> tried;
  for (const std::string& parent : parents) {
    std::string folder = absl::StrCat(parent, "/", prefix, "XXXXXX");
    if (mkdtemp(folder.data()) != nullptr) return folder;
    tried.push_back(absl::StrCat(parent, " (", strerror(errno), ")"));
  }
  return absl::UnavailableError(
      absl::StrCat("expected a folder for sockets in one of these, but none can be made: ",
                   absl::StrJoin(tried, ", "),
                   "; make one of them writable, or set TMPDIR to a short path that "
                   "every user may enter"));
}

}  // namespace dsrun
