#include "launcher/shell/behind_mark.h"

#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "launcher/shell/journal.h"

namespace dsrun::launcher {
namespace {

constexpr std::string_view kWords =
    "The journal beside this file has fallen behind its job: its disk was full or did not answer, "
    "and what happened last is not in it. Do not go on from it. While the job runs, dsrun takes "
    "this file away again as soon as everything is written.\n";

absl::Status WriteWords(FileSystem& fs, const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.CreateOrTruncate(path));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(kWords.data(), kWords.size()))));
  return file->Close();
}

}  // namespace

BehindMark::BehindMark(FileSystem& fs, std::string journal_path)
    : fs_(fs),
      journal_(std::move(journal_path)),
      spare_(journal_ + ".spare"),
      marked_(BehindMarkOf(journal_)),
      renamed_journal_(journal_ + ".unfinished") {}

absl::Status BehindMark::Prepare() { return WriteWords(fs_, spare_); }

absl::Status BehindMark::Follow(const std::function<bool()>& is_behind) {
  MutexLock lock(mu_);
  const bool wanted = is_behind();
  if (wanted == is_marked_) return absl::OkStatus();
  if (!wanted) {
    Unmark();
    return absl::OkStatus();
  }
  return Mark();
}

absl::Status BehindMark::Mark() {
  const absl::Status renamed = fs_.Rename(spare_, marked_, FileSystem::IfExists::kReplace);
  is_marked_ = true;  // also of a failure: something of it may have been done
  if (renamed.ok()) return renamed;
  // An empty file says it, too.
  const absl::Status written = WriteWords(fs_, marked_);
  if (written.ok() || fs_.Stat(marked_).ok()) return absl::OkStatus();
  const absl::Status hidden = fs_.Rename(journal_, renamed_journal_, FileSystem::IfExists::kFail);
  if (hidden.ok()) return hidden;
  return absl::Status(
      renamed.code(),
      absl::StrCat("it could not be marked as behind, so do not go on from it (",
                   std::string(renamed.message()), "; ", std::string(written.message()), ")"));
}

void BehindMark::Unmark() {
  is_marked_ = false;
  if (fs_.Stat(renamed_journal_).ok()) {
    fs_.Rename(renamed_journal_, journal_, FileSystem::IfExists::kFail).IgnoreError();
  }
  if (fs_.Rename(marked_, spare_, FileSystem::IfExists::kReplace).ok()) return;
  fs_.RemoveFile(marked_).IgnoreError();
}

void BehindMark::Remove() {
  MutexLock lock(mu_);
  fs_.RemoveFile(spare_).IgnoreError();
  fs_.RemoveFile(marked_).IgnoreError();
}

}  // namespace dsrun::launcher
