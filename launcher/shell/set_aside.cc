#include "launcher/shell/set_aside.h"

#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::launcher {
namespace {

std::string BehindLinks(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

// Nothing that is there is replaced; where the file system cannot promise that, as far as can be
// seen.
absl::Status Move(FileSystem& fs, const std::string& from, const std::string& to) {
  const absl::Status moved = fs.Rename(from, to, FileSystem::IfExists::kFail);
  if (!absl::IsUnimplemented(moved)) return moved;
  const absl::Status there = fs.Stat(to).status();
  if (there.ok()) return absl::AlreadyExistsError(to);
  if (!absl::IsNotFound(there)) return there;
  return fs.Rename(from, to, FileSystem::IfExists::kReplace);
}

}  // namespace

absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  if (absl::IsNotFound(info.status())) return "";
  RETURN_IF_ERROR(info.status());
  if (info->kind != FileKind::kRegular || info->bytes == 0) return "";
  const std::string file = BehindLinks(path);
  for (int number = 1; number <= kMostAside; ++number) {
    const std::string aside = absl::StrCat(file, ".", number);
    const absl::Status moved = Move(fs, file, aside);
    if (moved.ok()) return aside;
    if (absl::IsAlreadyExists(moved)) continue;
    return Annotate(moved, absl::StrCat("what an earlier job has left in ", path,
                                        " cannot be kept under another name"));
  }
  return absl::ResourceExhaustedError(absl::StrCat("what an earlier job has left in ", path,
                                                   " cannot be kept: expected one of ", file,
                                                   ".1 to ", file, ".", kMostAside, " to be free"));
}

}  // namespace dsrun::launcher
