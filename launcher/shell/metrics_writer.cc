#include "launcher/shell/metrics_writer.h"

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/do_within.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace dsrun::launcher {
namespace {

// Whether the last line has no end: a disk was full. False: it has, or there is no line.
absl::StatusOr<bool> EndsWithin(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  if (absl::IsNotFound(info.status())) return false;
  RETURN_IF_ERROR(info.status());
  if (info->kind != FileKind::kRegular || info->bytes == 0) return false;
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenToRead(path));
  char last = 0;
  RETURN_IF_ERROR(file->ReadAt(info->bytes - 1, std::as_writable_bytes(std::span(&last, 1))));
  return last != '\n';
}

absl::StatusOr<std::unique_ptr<WritableFile>> Open(FileSystem& fs, const std::string& path) {
  ASSIGN_OR_RETURN(const bool torn, EndsWithin(fs, path));
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.OpenToAppend(path));
  if (torn) {
    RETURN_IF_ERROR(file->Append(std::as_bytes(std::span("\n", 1))));
  }
  return file;
}

}  // namespace

std::string MetricsLine(const Progress& progress) {
  const proto::StepDone& done = progress.done;
  nlohmann::ordered_json line;
  line["step"] = done.step();
  line["loss"] = done.loss();
  line["grad_norm"] = done.grad_norm();
  line["lr"] = done.lr();
  line["tokens_per_s"] = done.tokens_per_s();
  line["step_ms"] = done.step_ms();
  line["comm_ms"] = done.comm_ms();
  line["comm_hidden_ms"] = done.comm_hidden_ms();
  if (done.loss_scale() > 0) {
    line["loss_scale"] = done.loss_scale();
    line["skipped"] = done.skipped();
  }
  line["generation"] = progress.generation.value();
  return line.dump();
}

struct MetricsWriter::Shared {
  Shared(std::string file_path, const Options& with) : path(std::move(file_path)), options(with) {}

  const std::string path;
  const Options options;
  std::unique_ptr<WritableFile> file;  // the thread's, once it runs

  Mutex mu;
  CondVar changed;
  std::deque<std::string> lines ABSL_GUARDED_BY(mu);
  size_t bytes ABSL_GUARDED_BY(mu) = 0;      // with the line that is being written
  int64_t waiting ABSL_GUARDED_BY(mu) = 0;   // likewise
  int64_t left_out ABSL_GUARDED_BY(mu) = 0;  // and never written
  absl::Status failed ABSL_GUARDED_BY(mu);   // the first write that did
  bool closing ABSL_GUARDED_BY(mu) = false;
  bool over ABSL_GUARDED_BY(mu) = false;
};

absl::StatusOr<std::unique_ptr<MetricsWriter>> MetricsWriter::Create(FileSystem& fs,
                                                                     const std::string& path,
                                                                     const Options& options) {
  auto shared = std::make_shared<Shared>(path, options);
  const absl::Status opened =
      DoWithin(options.open_within, "the opening of the metrics", [shared, &fs]() -> absl::Status {
        ASSIGN_OR_RETURN(shared->file, Open(fs, shared->path));
        return absl::OkStatus();
      });
  if (absl::IsDeadlineExceeded(opened)) {
    return absl::DeadlineExceededError(absl::StrCat(
        "metrics file ", path, ": expected to open it, but there was ",
        std::string(opened.message()), " (a pipe needs a reader before dsrun is started)"));
  }
  RETURN_IF_ERROR(opened);
  std::unique_ptr<MetricsWriter> writer(new MetricsWriter(shared));
  ASSIGN_OR_RETURN(writer->thread_,
                   LeavableThread::Start("the metrics", [shared] { Run(*shared); }));
  return writer;
}

MetricsWriter::MetricsWriter(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

MetricsWriter::~MetricsWriter() { Finish().IgnoreError(); }

absl::Status MetricsWriter::Write(const Progress& progress) {
  std::string line = MetricsLine(progress) + "\n";
  Shared& shared = *shared_;
  MutexLock lock(shared.mu);
  if (!shared.failed.ok() || shared.bytes + line.size() > shared.options.most_bytes) {
    ++shared.left_out;
  } else {
    shared.bytes += line.size();
    ++shared.waiting;
    shared.lines.push_back(std::move(line));
    shared.changed.NotifyAll();
  }
  if (!shared.failed.ok()) {
    if (std::exchange(said_failed_, true)) return absl::OkStatus();
    return Annotate(shared.failed, "metrics are not written any more");
  }
  if (shared.left_out == 0 || std::exchange(said_left_out_, true)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("metrics are left out: ", shared.path, " takes nothing, and ",
                   Counted(shared.waiting, "line"), " wait in memory already"));
}

absl::Status MetricsWriter::Finish() {
  Shared& shared = *shared_;
  {
    MutexLock lock(shared.mu);
    shared.closing = true;
    shared.changed.NotifyAll();
  }
  thread_.JoinOrLeave(shared.options.end_within);
  MutexLock lock(shared.mu);
  // What waits now stays unwritten, but for the line that is under way.
  shared.lines.clear();
  const int64_t missing = shared.left_out + shared.waiting;
  if (shared.failed.ok() && missing == 0 && shared.over) return absl::OkStatus();
  std::string why = absl::StrCat("the file has not answered for ",
                                 absl::FormatDuration(shared.options.end_within));
  if (shared.over) why = "the file took nothing for too long";
  if (!shared.failed.ok()) why = std::string(shared.failed.message());
  return absl::UnavailableError(absl::StrCat("metrics are missing in ", shared.path, ": ",
                                             Counted(missing, "line"), " (", why, ")"));
}

void MetricsWriter::Run(Shared& shared) {
  BlockBrokenPipes();
  absl::Status done;
  while (done.ok()) {
    std::string line;
    {
      MutexLock lock(shared.mu);
      while (!shared.closing && shared.lines.empty()) shared.changed.Wait(shared.mu);
      if (shared.lines.empty()) break;
      line = std::move(shared.lines.front());
      shared.lines.pop_front();
    }
    done = shared.file->Append(std::as_bytes(std::span(line)));
    if (!done.ok()) break;
    MutexLock lock(shared.mu);
    shared.bytes -= line.size();
    --shared.waiting;
  }
  // A network file system may say only now that something was not written.
  const absl::Status closed = shared.file->Close();
  MutexLock lock(shared.mu);
  shared.failed = done.ok() ? closed : done;
  shared.left_out += std::exchange(shared.waiting, 0);
  shared.lines.clear();
  shared.over = true;
  shared.changed.NotifyAll();
}

}  // namespace dsrun::launcher
