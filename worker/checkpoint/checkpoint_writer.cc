#include "worker/checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/aside.h"
#include "common/format/safetensors.h"
#include "common/format/save_folder.h"
#include "worker/checkpoint/commit_file.h"

namespace dsrun::worker {
namespace {

using Json = nlohmann::ordered_json;

// Large enough that a disk sees long writes, small enough to stay in the cache between the two
// checksums and the copy into the kernel.
constexpr size_t kChunkBytes = 256 << 10;

// Names tried for one manifest. Each that is taken is another writer's, or a request that a network
// file system has executed twice.
constexpr int64_t kMostNames = 16;

std::string EntryName(const Slice& slice) {
  return absl::StrCat(slice.tensor, "@", slice.begin, ":", slice.end);
}

SafetensorsHeader HeaderOf(const ShardId& id, std::span<const Slice> slices) {
  SafetensorsHeader header;
  header.metadata = {{"format", "dsrun"},
                     {"job", id.job_id},
                     {"step", absl::StrCat(id.name.step.value())},
                     {"generation", absl::StrCat(id.name.generation.value())}};
  int64_t bytes = 0;
  for (const Slice& slice : slices) {
    const int64_t elements = slice.end - slice.begin;
    const int64_t end = bytes + elements * static_cast<int64_t>(sizeof(float));
    header.entries.push_back({EntryName(slice), "F32", {elements}, bytes, end});
    bytes = end;
  }
  return header;
}

// Writes through both checksums.
class ShardStream {
 public:
  explicit ShardStream(WritableFile& file) : file_(file) {}

  absl::Status Append(std::span<const std::byte> bytes, uint32_t* crc32c) {
    while (!bytes.empty()) {
      const std::span<const std::byte> part = bytes.first(std::min(bytes.size(), kChunkBytes));
      sha256_.Update(part);
      *crc32c = ExtendCrc32c(*crc32c, part);
      RETURN_IF_ERROR(file_.Append(part));
      written_ += static_cast<int64_t>(part.size());
      bytes = bytes.subspan(part.size());
    }
    return absl::OkStatus();
  }
  int64_t written() const { return written_; }
  std::string HexDigest() { return sha256_.HexDigest(); }

 private:
  WritableFile& file_;
  Sha256 sha256_;
  int64_t written_ = 0;
};

absl::StatusOr<ShardRecord> WriteContents(WritableFile& file, const ShardId& id,
                                          std::span<const Slice> slices) {
  ShardRecord record;
  record.file.name = ShardFileName(id.name);
  ShardStream stream(file);
  uint32_t header_crc32c = 0;  // the header is covered by the file's SHA-256
  const std::string header = EncodeSafetensorsHeader(HeaderOf(id, slices));
  RETURN_IF_ERROR(stream.Append(std::as_bytes(std::span(header)), &header_crc32c));
  for (const Slice& slice : slices) {
    ManifestPiece piece{slice.begin,      slice.end,        record.file.name,
                        EntryName(slice), stream.written(), /*crc32c=*/0};
    const std::span<const float> values(slice.data, static_cast<size_t>(slice.end - slice.begin));
    RETURN_IF_ERROR(stream.Append(std::as_bytes(values), &piece.crc32c));
    record.pieces.push_back({slice.tensor, slice.shape, std::move(piece)});
  }
  RETURN_IF_ERROR(file.Sync());
  RETURN_IF_ERROR(file.Close());
  record.file.bytes = stream.written();
  record.file.sha256 = stream.HexDigest();
  return record;
}

absl::StatusOr<Manifest> Assemble(const ManifestFacts& facts,
                                  const std::vector<ShardRecord>& records) {
  Manifest manifest;
  manifest.facts = facts;
  std::map<std::string, ManifestTensor> tensors;
  for (const ShardRecord& record : records) {
    manifest.files.push_back(record.file);
    for (const ShardRecord::Piece& part : record.pieces) {
      ManifestTensor& tensor = tensors[part.tensor];
      if (tensor.pieces.empty()) {
        tensor.name = part.tensor;
        tensor.shape = part.shape;
      }
      if (tensor.shape != part.shape) {
        return absl::DataLossError(
            absl::StrCat("two ranks give ", part.tensor, " different shapes"));
      }
      tensor.pieces.push_back(part.piece);
    }
  }
  const auto by_begin = [](const ManifestPiece& a, const ManifestPiece& b) {
    return a.begin < b.begin;
  };
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(), by_begin);
    manifest.tensors.push_back(std::move(tensor));
  }
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
  RETURN_IF_ERROR(CheckManifest(manifest));
  return manifest;
}

// All shards are there, as long as they should be. A last look before the rename: a successor may
// have tidied them away while this process was stopped.
absl::Status CheckVisible(FileSystem& fs, const std::string& folder, const Manifest& manifest) {
  for (const ManifestFile& file : manifest.files) {
    const std::string path = JoinPath(folder, file.name);
    const absl::StatusOr<FileInfo> info = fs.Stat(path);
    if (info.ok() && info->bytes == file.bytes) continue;
    if (!info.ok() && !absl::IsNotFound(info.status())) {
      return Annotate(info.status(), absl::StrCat("checkpoint not committed: shard ", path));
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "checkpoint not committed: shard ", path, ": expected ", file.bytes, " bytes, ",
        info.ok() ? absl::StrCat("got ", info->bytes) : std::string(info.status().message()),
        "; either a newer generation has removed it, or --save is not one shared folder of all "
        "nodes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FirstEpoch(FileSystem& fs, const std::string& folder,
                                   const ManifestFacts& facts) {
  if (facts.key.epoch > 0) return facts.key.epoch;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(folder));
  int64_t last = 0;
  for (const std::string& name : names) {
    const std::optional<Aside> aside = ParseAsideName(name);
    const std::optional<ManifestKey> key =
        ParseManifestName(aside.has_value() ? aside->manifest : name);
    if (key.has_value() && key->generation == facts.key.generation)
      last = std::max(last, key->epoch);
  }
  return last + 1;
}

std::string TemporaryName(const ManifestFacts& facts, const std::string& name) {
  return absl::StrCat(TemporaryPrefix(facts.job_id), absl::Hex(facts.incarnation.value()), ".",
                      name);
}

}  // namespace

std::string TemporaryPrefix(const std::string& job_id) {
  std::string plain = job_id;
  for (char& c : plain) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_') c = '_';
  }
  return ".tmp." + plain + ".";
}

std::string ShardRecord::Serialize() const {
  Json json = {{"file", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}};
  json["pieces"] = Json::array();
  for (const Piece& part : pieces) {
    json["pieces"].push_back({part.tensor, part.shape, part.piece.begin, part.piece.end,
                              part.piece.entry, part.piece.offset, part.piece.crc32c});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<ShardRecord> ShardRecord::Parse(std::string_view text) {
  const absl::Status bad = absl::DataLossError("not the record of a shard");
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("file") || !json["file"].is_string() ||
      !json.contains("bytes") || !json["bytes"].is_number_integer() || !json.contains("sha256") ||
      !json["sha256"].is_string() || !json.contains("pieces") || !json["pieces"].is_array()) {
    return bad;
  }
  ShardRecord record;
  record.file = {json["file"].get<std::string>(), json["bytes"].get<int64_t>(),
                 json["sha256"].get<std::string>()};
  for (const Json& item : json["pieces"]) {
    if (!item.is_array() || item.size() != 7 || !item[0].is_string() || !item[1].is_array() ||
        !item[2].is_number_integer() || !item[3].is_number_integer() || !item[4].is_string() ||
        !item[5].is_number_integer() || !item[6].is_number_unsigned()) {
      return bad;
    }
    std::vector<int64_t> shape;
    for (const Json& extent : item[1]) {
      if (!extent.is_number_integer()) return bad;
      shape.push_back(extent.get<int64_t>());
    }
    record.pieces.push_back({item[0].get<std::string>(), std::move(shape),
                             ManifestPiece{item[2].get<int64_t>(), item[3].get<int64_t>(),
                                           record.file.name, item[4].get<std::string>(),
                                           item[5].get<int64_t>(), item[6].get<uint32_t>()}});
  }
  return record;
}

absl::StatusOr<ShardRecord> WriteShard(FileSystem& fs, const std::string& folder, const ShardId& id,
                                       std::span<const Slice> slices) {
  RETURN_IF_ERROR(CheckSaveFolder(fs, folder, id.job_id)) << "saving a checkpoint";
  const std::string path = JoinPath(folder, ShardFileName(id.name));
  absl::StatusOr<std::unique_ptr<WritableFile>> file = fs.CreateExclusive(path);
  RETURN_IF_ERROR(file.status()) << "saving a checkpoint";
  absl::StatusOr<ShardRecord> record = WriteContents(**file, id, slices);
  file->reset();
  // Its name has to be on the disk before the manifest's.
  if (record.ok()) {
    if (absl::Status synced = fs.SyncFolder(folder); !synced.ok()) record = synced;
  }
  // A mount may have gone before the file was made.
  if (record.ok()) {
    if (absl::Status there = CheckSaveFolder(fs, folder, id.job_id); !there.ok()) record = there;
  }
  if (record.ok()) return record;
  // Ours alone (it was made exclusively), and of no use to anybody. The first error is the one to
  // report.
  fs.RemoveFile(path).IgnoreError();
  return Annotate(record.status(), absl::StrCat("saving a checkpoint, shard ", path));
}

absl::Status RemoveShard(FileSystem& fs, const std::string& folder, const ShardRecord& record) {
  return fs.RemoveFile(JoinPath(folder, record.file.name));
}

absl::StatusOr<std::string> CommitManifest(FileSystem& fs, const std::string& folder,
                                           const ManifestFacts& facts,
                                           const std::vector<ShardRecord>& records,
                                           Patience* patience) {
  absl::StatusOr<Manifest> manifest = Assemble(facts, records);
  RETURN_IF_ERROR(manifest.status()) << "checkpoint not committed";
  ASSIGN_OR_RETURN(const int64_t first, FirstEpoch(fs, folder, facts));
  absl::Status visible = CheckVisible(fs, folder, *manifest);
  while (!visible.ok() && patience != nullptr && patience->Again()) {
    visible = CheckVisible(fs, folder, *manifest);
  }
  RETURN_IF_ERROR(visible);
  absl::Status taken;
  for (int64_t epoch = first; epoch < first + kMostNames; ++epoch) {
    manifest->facts.key.epoch = epoch;
    const std::string name = ManifestName(manifest->facts.key);
    const std::string temporary = JoinPath(folder, TemporaryName(facts, name));
    const CommitOutcome outcome =
        CommitFile(fs, JoinPath(folder, name), temporary, EncodeManifest(*manifest));
    switch (outcome.state) {
      case CommitOutcome::State::kCommitted:
        // A mount may have gone since the look at the shards.
        if (const absl::Status there = CheckSaveFolder(fs, folder, facts.job_id); !there.ok()) {
          return absl::UnknownError(absl::StrCat("it cannot be told where checkpoint ", name,
                                                 " was committed: ", std::string(there.message())));
        }
        WriteFileAtomically(fs, JoinPath(folder, "latest"), temporary + std::string(kLatestSuffix),
                            name + "\n", FileSystem::IfExists::kReplace)
            .IgnoreError();  // advice
        return name;
      case CommitOutcome::State::kTaken:
        taken = outcome.why;
        continue;
      case CommitOutcome::State::kNot:
        return Annotate(outcome.why, "checkpoint not committed");
      case CommitOutcome::State::kUnknown:
        return Annotate(outcome.why, absl::StrCat("checkpoint ", name, " may be committed or not"));
    }
  }
  return Annotate(taken, absl::StrCat("checkpoint not committed, ", kMostNames,
                                      " names for its manifest are taken"));
}

}  // namespace dsrun::worker
