#include "common/format/tags.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/aside.h"
#include "common/format/manifest.h"

namespace dsrun {
namespace {

constexpr std::string_view kPrefix = "tag.";
constexpr std::string_view kTemporaryPrefix = ".tmp.tag.";
constexpr size_t kMostChars = 100;
constexpr int kTries = 3;

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

// "": there is no such tag, or it cannot be read.
std::string TextOf(FileSystem& fs, const std::string& folder, const std::string& name) {
  return ReadFile(fs, PathOf(folder, name)).value_or("");
}

absl::Status WriteText(FileSystem& fs, const std::string& folder, const std::string& name,
                       const std::string& manifest) {
  absl::Status written;
  for (int i = 0; i < kTries; ++i) {
    const std::string temporary =
        absl::StrCat(std::string(kTemporaryPrefix), RandomDigits(), ".", manifest, ".", name);
    written = WriteFileAtomically(fs, PathOf(folder, name), JoinPath(folder, temporary),
                                  manifest + "\n", FileSystem::IfExists::kReplace);
    // Somebody has tidied it away.
    if (!absl::IsNotFound(written)) return written;
  }
  return written;
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
  RETURN_IF_ERROR(BringBack(fs, folder, manifest)) << "tag " << name;
  const std::string before = TextOf(fs, folder, name);
  RETURN_IF_ERROR(WriteText(fs, folder, name, manifest)) << "tag " << name;
  // Whoever prunes from now on sees the tag; who has looked at the tags before had set its manifest
  // aside by then.
  const absl::Status there = BringBack(fs, folder, manifest);
  if (there.ok()) return absl::OkStatus();
  if (!absl::IsNotFound(there)) {
    return Annotate(there, absl::StrCat("tag ", name, " is written, and it cannot be told whether ",
                                        manifest, " is still there"));
  }
  if (TextOf(fs, folder, name) == manifest + "\n") {
    RETURN_IF_ERROR(RemoveTag(fs, folder, name));
  }
  return absl::NotFoundError(
      absl::StrCat("tag ", name, ": ", manifest, " was removed from ", folder,
                   " as an old checkpoint at the same moment, so there is no such tag",
                   before.empty() ? "" : absl::StrCat(" (it was ", before, " before)"),
                   "; give it to a checkpoint that is there"));
}

absl::Status RemoveTag(FileSystem& fs, const std::string& folder, const std::string& name) {
  RETURN_IF_ERROR(CheckTagName(name));
  RETURN_IF_ERROR(fs.RemoveFile(PathOf(folder, name))) << "tag " << name;
  return fs.SyncFolder(folder);
}

std::optional<std::string> ManifestOfTagTemporary(std::string_view file) {
  if (!file.starts_with(kTemporaryPrefix)) return std::nullopt;
  constexpr std::string_view kEnd = ".json";
  const size_t begin = file.find('.', kTemporaryPrefix.size());
  const size_t end = begin == std::string_view::npos ? begin : file.find(".json.", begin);
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view manifest = file.substr(begin + 1, end + kEnd.size() - begin - 1);
  if (!ParseManifestName(manifest).has_value()) return std::nullopt;
  return std::string(manifest);
}

}  // namespace dsrun
