// dsrun checkpoint export CHECKPOINT FILE: the model alone, whole, in one safetensors file that any
// other program reads. The tensors are streamed in parts of a megabyte; the model is never in
// memory. The file appears under its name when it is on the disk, or not at all.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_EXPORT_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_EXPORT_H_

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/piece.h"
#include "launcher/commands/stop_flag.h"

namespace dsrun::launcher {

struct ExportOptions {
  std::string path;
  ElementType type = ElementType::kF32;
  bool force = false;                // replace what is there
  bool allow_overflow = false;       // finite values beyond the type become infinite
  int jobs = 1;                      // threads that read, compare and convert
  std::ostream* terminal = nullptr;  // for progress; nullptr: none
  StopFlag* stop = nullptr;          // asks it to leave off; nullptr: nobody does
};

struct Exported {
  int64_t tensors = 0;
  int64_t bytes = 0;
  int64_t overflowed = 0;  // finite values that are beyond the type and became infinite
};

// To the nearest value of the type, ties to even (IEEE 754): little-endian bytes at the end of
// `out`. What is not a number stays so. Returns how many finite values became infinite.
int64_t Convert(std::span<const float> values, ElementType type, std::string& out);

// Names are those of the checkpoint without "model/"; metadata {"format": "pt"}, which Hugging
// Face's loaders ask for. Tensors stored as F32, BF16 or F16 are exported, and no others. Errors:
// ALREADY_EXISTS: there is such a file and `force` is not set; FAILED_PRECONDITION: a folder of
// that name, or a shard of the checkpoint by another name; values that overflow without
// `allow_overflow` (all are counted first); a tensor of another type; a manifest that contradicts
// its model (common/format/model_tensors.h); DATA_LOSS: the checkpoint is damaged, or holds no
// model; those of Checkpoint::ReadRange and of FileSystem. Nothing is left of it after an error.
absl::StatusOr<Exported> ExportSafetensors(FileSystem& fs, Checkpoint& checkpoint,
                                           const ExportOptions& options);

// Prints what was written; returns the exit code (checkpoint_place.h).
int ExportCommand(FileSystem& fs, Checkpoint& checkpoint, const ExportOptions& options,
                  std::ostream& out, std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_EXPORT_H_
