#include "common/format/tags.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/manifest.h"

namespace dsrun {
namespace {

constexpr std::string_view kPrefix = "tag.";
constexpr size_t kMostChars = 100;

std::string PathOf(const std::string& folder, const std::string& name) {
  return JoinPath(folder, std::string(kPrefix) + name);
}

absl::StatusOr<Tag> ReadTag(FileSystem& fs, const std::string& folder, const std::string& name) {
  const std::string path = PathOf(folder, name);
  const absl::StatusOr<std::string> text = ReadFile(fs, path);
  // Gone since it was listed, or hidden: the next look tells.
  if (absl::IsNotFound(text.status()) || absl::IsOutOfRange(text.status())) {
    return absl::UnavailableError(text.status().message());
  }
  RETURN_IF_ERROR(text.status()) << "tag";
  if (text->ends_with("\n")) {
    const std::string manifest = text->substr(0, text->size() - 1);
    if (ParseManifestName(manifest).has_value()) return Tag{name, manifest};
  }
  return absl::DataLossError(absl::StrCat(
      "tag ", path, ": expected the file name of a manifest and a newline, got ", text->size(),
      " bytes that are not; remove the file, or write it again with dsrun checkpoint tag"));
}

}  // namespace

absl::Status CheckTagName(std::string_view name) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  };
  if (!name.empty() && name.size() <= kMostChars && std::isalnum(name.front()) != 0 &&
      std::all_of(name.begin(), name.end(), plain)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tag \"", std::string(name), "\": expected 1 to ", kMostChars,
      " letters, digits, '.', '-' and '_', the first a letter or digit, got ", name.size()));
}

absl::StatusOr<std::vector<Tag>> ReadTags(FileSystem& fs, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  std::vector<Tag> tags;
  for (const std::string& file : names) {
    if (!file.starts_with(kPrefix)) continue;
    ASSIGN_OR_RETURN(Tag tag, ReadTag(fs, folder, file.substr(kPrefix.size())));
    tags.push_back(std::move(tag));
  }
  return tags;
}

absl::Status WriteTag(FileSystem& fs, const std::string& folder, const std::string& name,
                      const std::string& manifest) {
  RETURN_IF_ERROR(CheckTagName(name));
  if (!ParseManifestName(manifest).has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tag ", name, ": \"", manifest, "\" is not the file name of a manifest"));
  }
  const std::string there = JoinPath(folder, manifest);
  RETURN_IF_ERROR(fs.Stat(there).status()) << "tag " << name;
  const std::string path = PathOf(folder, name);
  RETURN_IF_ERROR(WriteFileAtomically(fs, path, JoinPath(folder, absl::StrCat(".tmp.tag.", name)),
                                      manifest + "\n", FileSystem::IfExists::kReplace))
      << "tag " << name;
  // Somebody may have pruned between the look and the tag; from now on nobody does.
  const absl::StatusOr<FileInfo> still = fs.Stat(there);
  if (!absl::IsNotFound(still.status())) return absl::OkStatus();
  RETURN_IF_ERROR(fs.RemoveFile(path)) << "a tag of a checkpoint that was removed meanwhile";
  return Annotate(still.status(), absl::StrCat("tag ", name));
}

absl::Status RemoveTag(FileSystem& fs, const std::string& folder, const std::string& name) {
  RETURN_IF_ERROR(CheckTagName(name));
  RETURN_IF_ERROR(fs.RemoveFile(PathOf(folder, name))) << "tag " << name;
  return fs.SyncFolder(folder);
}

}  // namespace dsrun
