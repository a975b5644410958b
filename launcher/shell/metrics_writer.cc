#include "launcher/shell/metrics_writer.h"

#include <nlohmann/json.hpp>
#include <span>
#include <utility>

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
  line["generation"] = progress.generation.value();
  return line.dump();
}

absl::StatusOr<std::unique_ptr<MetricsWriter>> MetricsWriter::Create(FileSystem& fs,
                                                                     const std::string& path) {
  ASSIGN_OR_RETURN(const bool torn, EndsWithin(fs, path));
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.OpenToAppend(path));
  if (torn) {
    RETURN_IF_ERROR(file->Append(std::as_bytes(std::span("\n", 1))));
  }
  return std::unique_ptr<MetricsWriter>(new MetricsWriter(std::move(file)));
}

absl::Status MetricsWriter::Write(const Progress& progress) {
  const std::string line = MetricsLine(progress) + "\n";
  return file_->Append(std::as_bytes(std::span(line)));
}

}  // namespace dsrun::launcher
