#include "launcher/shell/job_files.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "launcher/shell/set_aside.h"

namespace dsrun::launcher {
namespace {

constexpr char kOrElseRunDir[] = "choose another folder with --run-dir";
constexpr char kOrElseSave[] = "choose another folder with --save";
constexpr char kOrElseMetrics[] = "choose another file with --metrics";
constexpr char kOrElseTrace[] = "choose another file with --trace";

}  // namespace

absl::Status StepError(const absl::Status& why, const std::string& what, const std::string& path,
                       std::string_view or_else) {
  std::string text(why.message());
  if (absl::IsDeadlineExceeded(why)) {
    text = absl::StrCat(path, ": there was ", text, " when dsrun was to ", what,
                        ": its disk or file server hangs, look at it");
  }
  return absl::Status(why.code(), absl::StrCat(text, "; ", std::string(or_else)));
}

absl::Status DoStep(absl::Duration limit, const std::string& what, const std::string& path,
                    std::string_view or_else, std::function<absl::Status()> work) {
  const absl::Status done = DoWithin(limit, "a step of the start", std::move(work));
  return done.ok() ? done : StepError(done, what, path, or_else);
}

JobFiles::JobFiles(FileSystem& fs, const proto::JobSpec& job, std::string probe_path,
                   std::function<void(const std::string&)> say, Limits limits)
    : fs_(fs),
      job_(job),
      probe_path_(std::move(probe_path)),
      say_(std::move(say)),
      limits_(limits) {}

absl::Status JobFiles::Claim(const CoordinatorConfig& config) {
  FileSystem* const fs = &fs_;
  const std::string run_dir = job_.run_dir();
  ASSIGN_OR_RETURN(folder_,
                   DoStep<RunFolder>(limits_.step, "make the run folder", run_dir, kOrElseRunDir,
                                     [fs, run_dir] { return PrepareRunFolder(*fs, run_dir); }));
  // The first file of all: it refuses the folder of another job, whose files stay as they are.
  const std::string journal = folder_.journal;
  ASSIGN_OR_RETURN(journal_,
                   DoStep<std::unique_ptr<JournalKeeper>>(
                       limits_.step, "make the journal", journal, kOrElseRunDir, [journal, config] {
                         return JournalKeeper::Create(journal, config,
                                                      {.longest_wait = LongestWait(config.lease)});
                       }));
  if (!probe_path_.empty()) {
    const std::string save = FolderOf(probe_path_);
    RETURN_IF_ERROR(DoStep(
        limits_.step, "make the save folder", save, kOrElseSave,
        [fs, save, user = job_.run_as_user()] { return PrepareSaveFolder(*fs, save, user); }));
    RETURN_IF_ERROR(Lock(save, "save folder", kOrElseSave, save_lock_));
  }
  if (const std::string& metrics = job_.train().metrics_path(); !metrics.empty()) {
    RETURN_IF_ERROR(Lock(metrics, "metrics file", kOrElseMetrics, metrics_lock_));
  }
  ASSIGN_OR_RETURN(
      ProbeFile probe,
      DoStep<ProbeFile>(limits_.step, "write the save folder's marker", probe_path_, kOrElseSave,
                        [fs, path = probe_path_] { return ProbeFile::Write(*fs, path); }));
  probe_.emplace(std::move(probe));
  return absl::OkStatus();
}

absl::Status JobFiles::MakeRoom() {
  if (const std::string& metrics = job_.train().metrics_path(); !metrics.empty()) {
    RETURN_IF_ERROR(OpenMetrics(metrics));
  }
  if (const std::string& trace = job_.train().trace_path(); !trace.empty()) {
    RETURN_IF_ERROR(KeepEarlier(trace, "trace", kOrElseTrace).status());
  }
  // A link that cannot be made is none.
  const absl::Status pointed =
      DoWithin(limits_.step, "the link to the newest run", [run_dir = job_.run_dir()] {
        PointLatestTo(run_dir);
        return absl::OkStatus();
      });
  if (!pointed.ok()) {
    say_(absl::StrCat("warning: the link `latest` in ", FolderOf(job_.run_dir()),
                      " does not lead to this run: ", std::string(pointed.message())));
  }
  return absl::OkStatus();
}

// A run that goes on from a checkpoint goes on in its metrics, too.
absl::Status JobFiles::OpenMetrics(const std::string& path) {
  if (job_.train().load_dir().empty()) {
    ASSIGN_OR_RETURN(const bool moved, KeepEarlier(path, "metrics", kOrElseMetrics));
    if (moved) {  // and the lock with it
      RETURN_IF_ERROR(Unlock(path, "metrics file", kOrElseMetrics, metrics_lock_));
      RETURN_IF_ERROR(Lock(path, "metrics file", kOrElseMetrics, metrics_lock_));
    }
  }
  absl::StatusOr<std::unique_ptr<MetricsWriter>> writer = MetricsWriter::Create(fs_, path);
  if (!writer.ok()) {  // in its own words, also when there was no answer
    return absl::Status(writer.status().code(),
                        absl::StrCat(std::string(writer.status().message()), "; ", kOrElseMetrics));
  }
  metrics_ = *std::move(writer);
  return absl::OkStatus();
}

absl::StatusOr<bool> JobFiles::KeepEarlier(const std::string& path, const std::string& what,
                                           std::string_view or_else) {
  ASSIGN_OR_RETURN(
      const std::string aside,
      DoStep<std::string>(limits_.step, absl::StrCat("keep the ", what, " of an earlier job"), path,
                          or_else, [fs = &fs_, path] { return SetAside(*fs, path); }));
  if (aside.empty()) return false;
  say_(absl::StrCat("the ", what, " of an earlier job in ", path, ": kept as ", aside));
  return true;
}

absl::Status JobFiles::Lock(const std::string& path, const std::string& what,
                            std::string_view or_else, PathLock& lock) {
  ASSIGN_OR_RETURN(lock,
                   DoStep<PathLock>(limits_.step, absl::StrCat("lock the ", what), path, or_else,
                                    [path, what] { return PathLock::Take(path, what); }));
  if (!lock.missing().empty()) say_(absl::StrCat("warning: ", lock.missing()));
  return absl::OkStatus();
}

absl::Status JobFiles::Unlock(const std::string& path, const std::string& what,
                              std::string_view or_else, PathLock& lock) {
  const auto old = std::make_shared<PathLock>(std::move(lock));
  return DoStep(limits_.step, absl::StrCat("unlock the ", what), path, or_else, [old] {
    *old = PathLock();
    return absl::OkStatus();
  });
}

void JobFiles::TakeBack() {
  probe_.reset();
  if (journal_ == nullptr) return;  // what is there is another job's
  const auto journal = std::make_shared<std::unique_ptr<JournalKeeper>>(std::move(journal_));
  const absl::Status done = DoWithin(limits_.take_back, "taking back a journal", [journal] {
    JournalKeeper::TakeBack(std::move(*journal));
    return absl::OkStatus();
  });
  LOG_IF(WARNING, !done.ok()) << "the journal stays behind in " << folder_.path << ": " << done;
}

}  // namespace dsrun::launcher
