#include "common/corpus/corpus_files.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;
constexpr size_t kMaxListed = 20;

// Walks the given paths; keeps files and findings.
class Lister {
 public:
  explicit Lister(FileSystem& fs) : fs_(fs) {}

  void AddGiven(const std::string& path) {
    const absl::StatusOr<FileInfo> info = fs_.Stat(path);
    if (!info.ok()) return Find(path, info.status());
    if (info->kind == FileKind::kFolder) {
      const size_t before = files_.size() + findings_.size();
      AddFolder(path, *info);
      if (files_.size() + findings_.size() == before) {
        Find(absl::StrCat(path, ": no text in this folder"));
      }
      // Names are sorted folder by folder; "a-b/x" belongs before "a/x" all the same.
      std::sort(files_.begin() + static_cast<std::ptrdiff_t>(sorted_), files_.end(),
                [](const CorpusFile& a, const CorpusFile& b) { return a.path < b.path; });
    } else if (info->kind == FileKind::kRegular && info->bytes == 0) {
      Find(absl::StrCat(path, ": empty; expected text"));
    } else {
      AddFile(path, *info);
    }
    sorted_ = files_.size();
  }

  absl::StatusOr<std::vector<CorpusFile>> Finish() && {
    if (findings_.empty() && !files_.empty()) return std::move(files_);
    if (findings_.empty()) findings_.push_back("no path given");
    const size_t shown = std::min(findings_.size(), kMaxListed);
    return absl::InvalidArgumentError(
        absl::StrCat("the training text cannot be read (", shown, " of ",
                     Counted(findings_.size(), "finding"), " shown):\n  ",
                     absl::StrJoin(findings_.begin(),
                                   findings_.begin() + static_cast<std::ptrdiff_t>(shown), "\n  "),
                     "\n--data takes files and folders of text"));
  }

 private:
  void Find(std::string finding) { findings_.push_back(std::move(finding)); }
  void Find(const std::string& path, const absl::Status& status) {
    Find(absl::IsNotFound(status) ? absl::StrCat(path, ": no such file or folder")
                                  : absl::StrCat(path, ": ", std::string(status.message())));
  }

  void AddFolder(const std::string& path, const FileInfo& info) {
    const std::pair identity(info.device, info.inode);
    if (std::find(open_folders_.begin(), open_folders_.end(), identity) != open_folders_.end()) {
      return Find(absl::StrCat(path, ": a link to a folder that it lies in"));
    }
    const absl::StatusOr<std::vector<std::string>> names = fs_.List(path);
    if (!names.ok()) return Find(path, names.status());
    open_folders_.push_back(identity);
    for (const std::string& name : *names) AddFound(JoinPath(path, name));
    open_folders_.pop_back();
  }

  void AddFound(const std::string& path) {
    const absl::StatusOr<FileInfo> info = fs_.Stat(path);
    if (!info.ok()) return Find(path, info.status());
    if (info->kind == FileKind::kFolder) return AddFolder(path, *info);
    if (info->kind == FileKind::kRegular && info->bytes == 0) return;
    AddFile(path, *info);
  }

  void AddFile(const std::string& path, const FileInfo& info) {
    if (info.kind != FileKind::kRegular) {
      return Find(
          absl::StrCat(path,
                       ": neither a file nor a folder; a text is read more than once, so write "
                       "what a pipe or device gives to a file first"));
    }
    const absl::Status readable = CheckText(path, info.bytes);
    if (!readable.ok()) return Find(path, readable);
    files_.push_back({path, info.bytes});
  }

  absl::Status CheckText(const std::string& path, int64_t bytes) {
    ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs_.OpenToRead(path));
    const int64_t end = std::min(bytes, kTextCheckBytes);
    for (int64_t offset = 0; offset < end; offset += kChunkBytes) {
      const auto chunk =
          std::span(chunk_).first(static_cast<size_t>(std::min(kChunkBytes, end - offset)));
      RETURN_IF_ERROR(file->ReadAt(offset, chunk));
      const void* zero = std::memchr(chunk.data(), 0, chunk.size());
      if (zero == nullptr) continue;
      const int64_t at = offset + (static_cast<const std::byte*>(zero) - chunk.data());
      return absl::InvalidArgumentError(absl::StrCat("not text: a zero byte at offset ", at));
    }
    return absl::OkStatus();
  }

  FileSystem& fs_;
  std::vector<std::byte> chunk_ = std::vector<std::byte>(kChunkBytes);
  std::vector<CorpusFile> files_;
  size_t sorted_ = 0;  // files of the paths before
  std::vector<std::string> findings_;
  std::vector<std::pair<uint64_t, uint64_t>> open_folders_;  // from the given one down to here
};

}  // namespace

absl::StatusOr<std::vector<CorpusFile>> ListCorpus(std::span<const std::string> paths,
                                                   FileSystem& fs) {
  Lister lister(fs);
  for (const std::string& path : paths) lister.AddGiven(path);
  return std::move(lister).Finish();
}

absl::StatusOr<std::string> CorpusSha256(std::span<const CorpusFile> files, FileSystem& fs) {
  Sha256 hash;
  std::vector<std::byte> chunk(kChunkBytes);
  for (const CorpusFile& file : files) {
    ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(file.path));
    if (info.bytes != file.bytes) {
      return absl::FailedPreconditionError(
          absl::StrCat("training text ", file.path, ": expected ", Counted(file.bytes, "byte"),
                       ", got ", info.bytes, "; it must not change while it is read"));
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> open, fs.OpenToRead(file.path));
    for (int64_t offset = 0; offset < file.bytes; offset += kChunkBytes) {
      const auto part =
          std::span(chunk).first(static_cast<size_t>(std::min(kChunkBytes, file.bytes - offset)));
      RETURN_IF_ERROR(open->ReadAt(offset, part));
      hash.Update(part);
    }
  }
  return hash.HexDigest();
}

}  // namespace dsrun
