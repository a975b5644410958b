#include "worker/checkpoint/commit_file.h"

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

using State = CommitOutcome::State;

enum class Holder { kNobody, kOurs, kAnother };

// Who has the name. Errors: it cannot be told.
absl::StatusOr<Holder> HolderOf(FileSystem& fs, const std::string& path,
                                const std::string& contents) {
  const absl::StatusOr<std::string> there = ReadFile(fs, path);
  if (there.ok()) return *there == contents ? Holder::kOurs : Holder::kAnother;
  if (absl::IsNotFound(there.status())) return Holder::kNobody;
  return there.status();
}

CommitOutcome Unknown(const absl::Status& why, const absl::Status& doubt) {
  return {State::kUnknown, absl::UnknownError(absl::StrCat(std::string(why.message()),
                                                           "; and it cannot be told "
                                                           "whether it was done: ",
                                                           std::string(doubt.message())))};
}

// The name is there; it has to last.
CommitOutcome Last(FileSystem& fs, const std::string& path) {
  const absl::Status synced = fs.SyncFolder(FolderOf(path));
  if (synced.ok()) return {State::kCommitted, absl::OkStatus()};
  return {State::kUnknown, absl::UnknownError(absl::StrCat(
                               path, " is there, and may be gone after a crash of the machine: ",
                               std::string(synced.message())))};
}

bool IsGone(const absl::Status& removed) { return removed.ok() || absl::IsNotFound(removed); }

// The rename was refused, or its reply was.
CommitOutcome Look(FileSystem& fs, const std::string& path, const std::string& temporary,
                   const std::string& contents, const absl::Status& why) {
  absl::StatusOr<Holder> holder = HolderOf(fs, path, contents);
  const absl::Status removed = fs.RemoveFile(temporary);
  if (!holder.ok() || *holder != Holder::kOurs) {
    if (!IsGone(removed)) return Unknown(why, removed);
    // It may have got there between the look and the removal.
    holder = HolderOf(fs, path, contents);
  }
  if (!holder.ok()) return Unknown(why, holder.status());
  switch (*holder) {
    case Holder::kOurs:
      return Last(fs, path);
    case Holder::kAnother:
      return {State::kTaken, why};
    case Holder::kNobody:
      break;
  }
  return {State::kNot, why};
}

absl::Status Write(WritableFile& file, const std::string& contents) {
  RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(contents))));
  RETURN_IF_ERROR(file.Sync());
  return file.Close();
}

CommitOutcome CommitInPlace(FileSystem& fs, const std::string& path, const std::string& contents) {
  absl::StatusOr<std::unique_ptr<WritableFile>> file = fs.CreateExclusive(path);
  if (absl::IsAlreadyExists(file.status())) return {State::kTaken, file.status()};
  // An empty file may have been made, which is no commit.
  if (!file.ok()) return {State::kNot, file.status()};
  const absl::Status written = Write(**file, contents);
  file->reset();
  if (written.ok()) return Last(fs, path);
  // Ours alone, and perhaps whole: what is not taken away may be a commit.
  const absl::Status removed = fs.RemoveFile(path);
  if (IsGone(removed)) return {State::kNot, written};
  return Unknown(written, removed);
}

}  // namespace

CommitOutcome CommitFile(FileSystem& fs, const std::string& path, const std::string& temporary,
                         const std::string& contents) {
  if (const absl::Status written = WriteAndSync(fs, temporary, contents); !written.ok()) {
    // Nobody renames it any more, so that it is debris at worst.
    fs.RemoveFile(temporary).IgnoreError();
    return {State::kNot, written};
  }
  const absl::Status renamed = fs.Rename(temporary, path, FileSystem::IfExists::kFail);
  if (renamed.ok()) return Last(fs, path);
  if (absl::IsUnimplemented(renamed)) {
    fs.RemoveFile(temporary).IgnoreError();  // debris at worst, too
    return CommitInPlace(fs, path, contents);
  }
  return Look(fs, path, temporary, contents, renamed);
}

}  // namespace dsrun::worker
