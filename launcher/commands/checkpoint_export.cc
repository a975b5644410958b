#include "launcher/commands/checkpoint_export.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/in_parallel.h"
#include "common/base/status_macros.h"
#include "common/format/element_values.h"
#include "common/format/model_tensors.h"
#include "common/format/safetensors.h"
#include "common/format/tensor_names.h"
#include "launcher/commands/byte_progress.h"
#include "launcher/commands/checkpoint_place.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {
namespace {

constexpr int64_t kChunkElements = 1 << 18;

bool IsNan(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

// The upper half, rounded.
uint16_t ToBf16(uint32_t bits) {
  if (IsNan(bits)) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet, whatever is cut
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// `mantissa` / 2^shift, ties to even.
uint32_t ShiftedRight(uint32_t mantissa, uint32_t shift) {
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t quotient = mantissa >> shift;
  return quotient + (rest > half || (rest == half && (quotient & 1u) != 0) ? 1u : 0u);
}

uint16_t ToF16(uint32_t bits) {
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (IsNan(bits)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // from 65536 on
  const uint32_t exponent = magnitude >> 23;
  // From 2^-14 on: the exponent is rebased, and a carry of the rounding moves it, up to infinity.
  if (exponent >= 113) {
    return static_cast<uint16_t>(sign + ShiftedRight(magnitude - (112u << 23), 13));
  }
  if (exponent < 102) return sign;  // less than half of the least
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  return static_cast<uint16_t>(sign + ShiftedRight(mantissa, 126 - exponent));
}

std::vector<const ManifestTensor*> ModelTensors(const Manifest& manifest) {
  std::vector<const ManifestTensor*> tensors;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (tensor.name.starts_with(kModelPrefix)) tensors.push_back(&tensor);
  }
  return tensors;
}

std::string Header(const std::vector<const ManifestTensor*>& tensors, ElementType type,
                   int64_t* data_bytes) {
  SafetensorsHeader header;
  header.metadata = {{"format", "pt"}};
  int64_t at = 0;
  for (const ManifestTensor* const tensor : tensors) {
    const int64_t end = at + tensor->size() * ElementBytes(type);
    header.entries.push_back({tensor->name.substr(kModelPrefix.size()),
                              std::string(ElementTypeName(type)), tensor->shape, at, end});
    at = end;
  }
  *data_bytes = at;
  return EncodeSafetensorsHeader(header);
}

// Part of a tensor, as it is read and written at one time.
struct Chunk {
  const ManifestTensor* tensor;
  int64_t begin;  // elements
  int64_t end;
};

std::vector<Chunk> ChunksOf(const std::vector<const ManifestTensor*>& tensors) {
  std::vector<Chunk> chunks;
  for (const ManifestTensor* const tensor : tensors) {
    for (int64_t begin = 0; begin < tensor->size(); begin += kChunkElements) {
      chunks.push_back({tensor, begin, std::min(tensor->size(), begin + kChunkElements)});
    }
  }
  return chunks;
}

// Reads and converts chunks, several at a time.
class Converter {
 public:
  Converter(const Checkpoint& checkpoint, ElementType type, int jobs) : type_(type), jobs_(jobs) {
    for (int i = 0; i < std::max(jobs, 1); ++i) {
      readers_.push_back(checkpoint.ForAnotherThread());
    }
    values_.resize(readers_.size());
    bytes_.resize(kChunksOfAWorker * readers_.size());
    overflowed_.resize(bytes_.size());
  }
  size_t AtOnce() const { return bytes_.size(); }

  // REQUIRES: at most AtOnce() of them.
  absl::Status Run(std::span<const Chunk> chunks) {
    return InParallel("exporting", chunks.size(), jobs_,
                      [&](size_t item, size_t worker) -> absl::Status {
                        const Chunk& chunk = chunks[item];
                        std::vector<float>& values = values_[worker];
                        values.resize(static_cast<size_t>(chunk.end - chunk.begin));
                        RETURN_IF_ERROR(readers_[worker].ReadRange(chunk.tensor->name, chunk.begin,
                                                                   chunk.end, values.data()));
                        bytes_[item].clear();
                        overflowed_[item] = Convert(values, type_, bytes_[item]);
                        return absl::OkStatus();
                      });
  }
  const std::string& bytes(size_t item) const { return bytes_[item]; }
  int64_t overflowed(size_t item) const { return overflowed_[item]; }

 private:
  static constexpr size_t kChunksOfAWorker = 4;

  const ElementType type_;
  const int jobs_;
  std::vector<Checkpoint> readers_;         // by worker
  std::vector<std::vector<float>> values_;  // the same
  std::vector<std::string> bytes_;          // by item
  std::vector<int64_t> overflowed_;         // the same
};

absl::Status Overflowed(const ExportOptions& options, int64_t values, const std::string& first) {
  return absl::FailedPreconditionError(absl::StrCat(
      Counted(values, "value"), ", the first in ", first, ", beyond what ",
      ElementTypeName(options.type), " can hold; give --allow-overflow to make them infinite, or ",
      options.type == ElementType::kF16 ? "--dtype bf16 or f32" : "--dtype f32"));
}

absl::StatusOr<Exported> WriteAll(WritableFile& file, Checkpoint& checkpoint,
                                  const ExportOptions& options) {
  const std::vector<const ManifestTensor*> tensors = ModelTensors(checkpoint.manifest());
  Exported exported;
  const std::string header = Header(tensors, options.type, &exported.bytes);
  ByteProgress progress(options.terminal, "exporting", exported.bytes);
  RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(header))));
  const std::vector<Chunk> chunks = ChunksOf(tensors);
  Converter converter(checkpoint, options.type, options.jobs);
  std::string first_overflow;
  for (size_t done = 0; done < chunks.size(); done += converter.AtOnce()) {
    if (options.stop != nullptr && options.stop->asked()) {
      return absl::CancelledError(absl::StrCat("stopped; there is no ", options.path, " of it"));
    }
    const auto part =
        std::span(chunks).subspan(done, std::min(converter.AtOnce(), chunks.size() - done));
    RETURN_IF_ERROR(converter.Run(part));
    for (size_t i = 0; i < part.size(); ++i) {
      if (converter.overflowed(i) > 0 && exported.overflowed == 0) {
        first_overflow = part[i].tensor->name.substr(kModelPrefix.size());
      }
      exported.overflowed += converter.overflowed(i);
      RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(converter.bytes(i)))));
      progress.Add(static_cast<int64_t>(converter.bytes(i).size()));
    }
  }
  if (exported.overflowed > 0 && !options.allow_overflow) {
    return Overflowed(options, exported.overflowed, first_overflow);
  }
  exported.tensors = static_cast<int64_t>(tensors.size());
  exported.bytes += static_cast<int64_t>(header.size());
  RETURN_IF_ERROR(file.Sync());
  RETURN_IF_ERROR(file.Close());
  return exported;
}

// By whatever name: a shard that is exported over is lost.
bool IsInFolder(FileSystem& fs, const std::string& path, const std::string& folder) {
  const std::string own = FolderOf(path);
  if (own == folder) return true;
  const absl::StatusOr<FileInfo> a = fs.Stat(own);
  const absl::StatusOr<FileInfo> b = fs.Stat(folder);
  return a.ok() && b.ok() && a->inode != 0 && a->inode == b->inode && a->device == b->device;
}

// A shard may be a link to a file elsewhere.
bool IsShard(FileSystem& fs, const FileInfo& there, const Checkpoint& checkpoint) {
  for (const ManifestFile& file : checkpoint.manifest().files) {
    const absl::StatusOr<FileInfo> shard = fs.Stat(JoinPath(checkpoint.folder(), file.name));
    if (shard.ok() && shard->inode != 0 && shard->inode == there.inode &&
        shard->device == there.device) {
      return true;
    }
  }
  return false;
}

absl::Status CheckTarget(FileSystem& fs, const Checkpoint& checkpoint,
                         const ExportOptions& options) {
  const std::string& folder = checkpoint.folder();
  if (IsInFolder(fs, options.path, folder)) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.path, " is inside ", folder,
                     ", whose files are a checkpoint's; name a place outside of it"));
  }
  const absl::StatusOr<FileInfo> there = fs.Stat(options.path);
  if (absl::IsNotFound(there.status())) return absl::OkStatus();
  RETURN_IF_ERROR(there.status());
  if (there->kind != FileKind::kRegular) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.path, " is no file; expected the name of the file to write"));
  }
  if (IsShard(fs, *there, checkpoint)) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.path, " is a shard of ", checkpoint.manifest_name(),
                     ", which has a link to it; give another name"));
  }
  if (options.force) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(options.path, " exists; give another name, or --force to replace it"));
}

}  // namespace

int64_t Convert(std::span<const float> values, ElementType type, std::string& out) {
  if (type == ElementType::kF32) {
    out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
    return 0;
  }
  int64_t overflowed = 0;
  const uint16_t infinity = type == ElementType::kBF16 ? 0x7f80u : 0x7c00u;
  for (const float value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint16_t half = type == ElementType::kBF16 ? ToBf16(bits) : ToF16(bits);
    if ((half & 0x7fffu) == infinity && (bits & 0x7fffffffu) != 0x7f800000u) ++overflowed;
    out.push_back(static_cast<char>(half & 0xffu));
    out.push_back(static_cast<char>(half >> 8));
  }
  return overflowed;
}

absl::StatusOr<Exported> ExportSafetensors(FileSystem& fs, Checkpoint& checkpoint,
                                           const ExportOptions& options) {
  RETURN_IF_ERROR(CheckTarget(fs, checkpoint, options));
  const std::vector<const ManifestTensor*> tensors = ModelTensors(checkpoint.manifest());
  if (tensors.empty()) {
    return absl::DataLossError(
        absl::StrCat(checkpoint.manifest_name(), " holds no tensor of a model"));
  }
  for (const ManifestTensor* const tensor : tensors) {
    if (IsExactAsF32(tensor->type)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("export: ", tensor->name, ": expected F32, BF16 or F16, ",
                     checkpoint.manifest_name(), " has ", ElementTypeName(tensor->type)));
  }
  RETURN_IF_ERROR(CheckModelTensors(checkpoint.manifest())) << checkpoint.manifest_name();
  const std::string folder = FolderOf(options.path);
  const StopFlag::HalfDone half_done(options.stop);
  const std::string temporary = JoinPath(folder, absl::StrCat(".tmp.export.", RandomDigits()));
  absl::StatusOr<std::unique_ptr<WritableFile>> file = fs.CreateExclusive(temporary);
  RETURN_IF_ERROR(file.status()) << "export";
  absl::StatusOr<Exported> exported = WriteAll(**file, checkpoint, options);
  file->reset();
  if (exported.ok()) {
    const absl::Status renamed =
        fs.Rename(temporary, options.path,
                  options.force ? FileSystem::IfExists::kReplace : FileSystem::IfExists::kFail);
    if (!renamed.ok()) exported = renamed;
  }
  if (!exported.ok()) {
    fs.RemoveFile(temporary).IgnoreError();  // the first error is the one to report
    return Annotate(exported.status(), "export");
  }
  RETURN_IF_ERROR(fs.SyncFolder(folder))
      << "export: " << options.path << " is there, and may not last";
  return exported;
}

int ExportCommand(FileSystem& fs, Checkpoint& checkpoint, const ExportOptions& options,
                  std::ostream& out, std::ostream& err) {
  const absl::StatusOr<Exported> exported = ExportSafetensors(fs, checkpoint, options);
  if (!exported.ok()) {
    const int code = PrintCheckpointError(exported.status(), err);
    return absl::IsCancelled(exported.status()) ? kExitCancelled : code;
  }
  if (exported->overflowed > 0) {
    err << "warning: " << Counted(exported->overflowed, "value") << " beyond what "
        << ElementTypeName(options.type) << " can hold became infinite\n";
  }
  out << Escaped(options.path, "\t") << ": " << Counted(exported->tensors, "tensor") << ", "
      << ElementTypeName(options.type) << ", " << Counted(exported->bytes, "byte") << ", of step "
      << checkpoint.manifest().facts.key.step << "\n";
  return kCheckpointGood;
}

}  // namespace dsrun::launcher
