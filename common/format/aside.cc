#include "common/format/aside.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/manifest.h"

namespace dsrun {
namespace {

constexpr std::string_view kPrefix = ".aside.";
constexpr size_t kDigits = 16;
// A list that is read while names change may hold neither the old nor the new one of a file. Once
// it takes two renames within one look; twice in a row is nobody's luck.
constexpr int kEmptyLooks = 2;
constexpr int kMostLooks = 10;

// nullopt: it is not aside.
absl::StatusOr<std::optional<Aside>> FindAside(FileSystem& fs, const std::string& folder,
                                               const std::string& manifest) {
  ASSIGN_OR_RETURN(std::vector<Aside> asides, ListAsides(fs, folder));
  for (Aside& aside : asides) {
    if (aside.manifest == manifest) return std::move(aside);
  }
  return std::nullopt;
}

absl::Status RenameBack(FileSystem& fs, const std::string& folder, const Aside& aside) {
  const std::string from = JoinPath(folder, aside.name);
  const std::string to = JoinPath(folder, aside.manifest);
  const absl::Status renamed = fs.Rename(from, to, FileSystem::IfExists::kFail);
  // It was not there a moment ago, and nobody but one who brings the same back makes this name.
  return absl::IsUnimplemented(renamed) ? fs.Rename(from, to, FileSystem::IfExists::kReplace)
                                        : renamed;
}

}  // namespace

absl::StatusOr<Aside> SetAside(FileSystem& fs, const std::string& folder,
                               const std::string& manifest) {
  Aside aside{absl::StrCat(std::string(kPrefix), RandomDigits(), ".", manifest), manifest};
  RETURN_IF_ERROR(fs.Rename(JoinPath(folder, manifest), JoinPath(folder, aside.name),
                            FileSystem::IfExists::kReplace));
  return aside;
}

std::optional<Aside> ParseAsideName(std::string_view name) {
  const size_t manifest = kPrefix.size() + kDigits + 1;
  if (!name.starts_with(kPrefix) || name.size() <= manifest || name[manifest - 1] != '.' ||
      !ParseManifestName(name.substr(manifest)).has_value()) {
    return std::nullopt;
  }
  return Aside{std::string(name), std::string(name.substr(manifest))};
}

absl::StatusOr<std::vector<Aside>> ListAsides(FileSystem& fs, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  std::vector<Aside> asides;
  for (const std::string& name : names) {
    if (std::optional<Aside> aside = ParseAsideName(name)) asides.push_back(*std::move(aside));
  }
  return asides;
}

absl::Status BringBack(FileSystem& fs, const std::string& folder, const std::string& manifest) {
  const std::string path = JoinPath(folder, manifest);
  for (int look = 0, empty = 0; look < kMostLooks; ++look) {
    const absl::Status there = fs.Stat(path).status();
    if (!absl::IsNotFound(there)) return there;
    ASSIGN_OR_RETURN(const std::optional<Aside> aside, FindAside(fs, folder, manifest));
    if (!aside.has_value()) {
      if (++empty < kEmptyLooks) continue;
      return absl::NotFoundError(absl::StrCat("no manifest ", path));
    }
    const absl::Status renamed = RenameBack(fs, folder, *aside);
    if (renamed.ok()) return fs.SyncFolder(folder);
    // Somebody else was faster, in one way or the other.
    if (!absl::IsNotFound(renamed) && !absl::IsAlreadyExists(renamed)) return renamed;
  }
  return absl::UnavailableError(absl::StrCat("manifest ", path, " is moved about all the time"));
}

absl::Status BringAllBack(FileSystem& fs, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<Aside> asides, ListAsides(fs, folder));
  for (const Aside& aside : asides) {
    const absl::Status back = BringBack(fs, folder, aside.manifest);
    if (absl::IsNotFound(back)) continue;  // removed meanwhile
    RETURN_IF_ERROR(back);
  }
  return absl::OkStatus();
}

}  // namespace dsrun
