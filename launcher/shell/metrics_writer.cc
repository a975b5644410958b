#include "launcher/shell/metrics_writer.h"

#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "common/base/status_macros.h"

namespace dsrun::launcher {

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
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.CreateOrTruncate(path));
  return std::unique_ptr<MetricsWriter>(new MetricsWriter(std::move(file)));
}

absl::Status MetricsWriter::Write(const Progress& progress) {
  const std::string line = MetricsLine(progress) + "\n";
  return file_->Append(std::as_bytes(std::span(line)));
}

}  // namespace dsrun::launcher
