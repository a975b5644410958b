#include "worker/checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/aside.h"
#include "common/format/block_checksums.h"
#include "common/format/safetensors.h"
#include "common/format/save_folder.h"
#include "common/format/shard_header.h"
#include "worker/checkpoint/commit_file.h"

namespace dsrun::worker {
namespace {

using Json = nlohmann::ordered_json;

// Large enough that a disk sees long writes, small enough to stay in the cache between the
// checksum and the copy into the kernel.
constexpr size_t kChunkBytes = 256 << 10;

// Names tried for one manifest. Each that is taken is another writer's, or a request that a network
// file system has executed twice.
constexpr int64_t kMostNames = 16;

std::string EntryOf(const Slice& slice) {
  return EntryName(slice.tensor, slice.shard.extent.empty() ? nullptr : &slice.shard, slice.begin,
                   slice.end);
}

std::vector<int64_t> SizesOf(std::span<const Slice> slices) {
  std::vector<int64_t> bytes;
  for (const Slice& slice : slices) {
    bytes.push_back((slice.end - slice.begin) * ElementBytes(slice.type));
  }
  return bytes;
}

// All but the hash. Sets `header` to the text of the file's header.
ManifestFile PlanFile(const ShardId& id, std::span<const Slice> slices, std::string* text) {
  const std::vector<int64_t> sizes = SizesOf(slices);
  ManifestFile file;
  file.name = ShardFileName(id.name);
  file.block_bytes = BlockBytesFor(sizes);
  SafetensorsHeader header;
  header.metadata = {{"format", "dsrun"},
                     {"job", id.job_id},
                     {"step", absl::StrCat(id.name.step.value())},
                     {"generation", absl::StrCat(id.name.generation.value())},
                     {"block_bytes", absl::StrCat(file.block_bytes)}};
  int64_t bytes = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    header.entries.push_back({EntryOf(slices[i]),
                              std::string(ElementTypeName(slices[i].type)),
                              {slices[i].end - slices[i].begin},
                              bytes,
                              bytes + sizes[i]});
    bytes += sizes[i];
    file.blocks += BlockCount(sizes[i], file.block_bytes);
  }
  if (file.blocks > 0) {
    header.entries.push_back(
        {std::string(kTableEntry), "U32", {file.blocks}, bytes, bytes + 4 * file.blocks});
  }
  *text = EncodeSafetensorsHeader(header);
  file.header_bytes = static_cast<int64_t>(text->size());
  file.bytes = file.header_bytes + bytes + 4 * file.blocks;
  return file;
}

absl::Status AppendAll(WritableFile& file, std::span<const std::byte> bytes,
                       BlockChecksums* checksums) {
  while (!bytes.empty()) {
    const std::span<const std::byte> part = bytes.first(std::min(bytes.size(), kChunkBytes));
    if (checksums != nullptr) checksums->Update(part);
    RETURN_IF_ERROR(file.Append(part));
    bytes = bytes.subspan(part.size());
  }
  return absl::OkStatus();
}

// Whether the recipe computes these slices for this rank.
bool IsBy(const LayoutRecipe& recipe, Rank rank, std::span<const Slice> slices) {
  if (!CheckRecipe(recipe).ok() || rank.value() < 0 || rank.value() >= recipe.ranks()) return false;
  const std::vector<RecipePiece> pieces = PiecesOfRank(recipe, rank.value());
  if (pieces.size() != slices.size()) return false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const RecipePiece& piece = pieces[i];
    const Slice& slice = slices[i];
    const auto index = static_cast<size_t>(piece.parameter);
    std::vector<Box> shards;
    if (piece.slot >= 0) shards = ShardsOf(recipe, recipe.parameters[index]);
    const Box shard = shards.empty() ? Box() : shards[static_cast<size_t>(piece.shard)];
    const std::vector<int64_t>& shape =
        piece.slot < 0 ? recipe.singles[index].shape : recipe.parameters[index].shape;
    if (TensorName(recipe, piece) != slice.tensor || shape != slice.shape || shard != slice.shard ||
        piece.begin != slice.begin || piece.end != slice.end ||
        TypeOf(recipe, piece) != slice.type) {
      return false;
    }
  }
  return true;
}

void Describe(const ShardId& id, std::span<const Slice> slices, const LayoutRecipe* recipe,
              ShardRecord& record) {
  if (recipe != nullptr) {
    const std::string text = EncodeLayout(*recipe);
    if (id.name.rank == Rank(0)) record.layout = text;
    if (IsBy(*recipe, id.name.rank, slices)) {
      record.layout_sha256 = Sha256Hex(text);
      return;
    }
  }
  int64_t offset = record.file.header_bytes, block = 0;
  for (const Slice& slice : slices) {
    ManifestPiece piece{slice.begin, slice.end, /*file=*/0, /*shard=*/0, offset, block};
    piece.type = slice.type;
    offset += piece.bytes();
    block += BlockCount(piece.bytes(), record.file.block_bytes);
    record.pieces.push_back({slice.tensor, slice.shape, piece, slice.shard});
  }
}

absl::StatusOr<ShardRecord> WriteContents(WritableFile& file, const ShardId& id,
                                          std::span<const Slice> slices,
                                          const LayoutRecipe* recipe) {
  ShardRecord record;
  std::string header;
  record.file = PlanFile(id, slices, &header);
  RETURN_IF_ERROR(AppendAll(file, std::as_bytes(std::span(header)), nullptr));
  BlockChecksums checksums(SizesOf(slices), record.file.block_bytes);
  for (const Slice& slice : slices) {
    const std::span<const std::byte> bytes(
        static_cast<const std::byte*>(slice.data),
        static_cast<size_t>((slice.end - slice.begin) * ElementBytes(slice.type)));
    RETURN_IF_ERROR(AppendAll(file, bytes, &checksums));
  }
  const auto table = std::as_bytes(std::span(checksums.sums()));
  RETURN_IF_ERROR(AppendAll(file, table, nullptr));
  RETURN_IF_ERROR(file.Sync());
  RETURN_IF_ERROR(file.Close());
  Sha256 hash;
  hash.Update(header);
  hash.Update(table);
  record.file.sha256 = hash.HexDigest();
  Describe(id, slices, recipe, record);
  return record;
}

// The recipe that all of these records are of, if they are all of its ranks; or nullopt.
absl::StatusOr<std::optional<LayoutRecipe>> RecipeOfAll(const std::vector<ShardRecord>& records) {
  std::string text;
  for (const ShardRecord& record : records) text = record.layout.empty() ? text : record.layout;
  if (text.empty()) return std::nullopt;
  const std::string digest = Sha256Hex(text);
  for (const ShardRecord& record : records) {
    if (!record.layout_sha256.empty() && record.layout_sha256 != digest) {
      return absl::DataLossError(
          absl::StrCat(record.file.name, " is of another layout than rank 0's"));
    }
  }
  ASSIGN_OR_RETURN(LayoutRecipe recipe, ParseLayout(text));
  return recipe;
}

// The pieces of a record whose recipe computes them.
void List(const LayoutRecipe& recipe, ShardRecord& record) {
  const std::optional<ShardName> name = ParseShardFileName(record.file.name);
  if (!name.has_value() || name->rank.value() >= recipe.ranks()) return;
  int64_t offset = record.file.header_bytes, block = 0;
  for (const RecipePiece& from : PiecesOfRank(recipe, name->rank.value())) {
    const auto index = static_cast<size_t>(from.parameter);
    std::vector<Box> shards;
    if (from.slot >= 0) shards = ShardsOf(recipe, recipe.parameters[index]);
    ManifestPiece piece{from.begin, from.end, 0, 0, offset, block};
    piece.type = TypeOf(recipe, from);
    offset += piece.bytes();
    block += BlockCount(piece.bytes(), record.file.block_bytes);
    record.pieces.push_back(
        {TensorName(recipe, from),
         from.slot < 0 ? recipe.singles[index].shape : recipe.parameters[index].shape, piece,
         shards.empty() ? Box() : shards[static_cast<size_t>(from.shard)]});
  }
}

absl::Status AddPiece(const ShardRecord::Piece& part, int32_t file,
                      std::map<std::string, ManifestTensor>& tensors) {
  ManifestTensor& tensor = tensors[part.tensor];
  if (tensor.pieces.empty()) {
    tensor.name = part.tensor;
    tensor.shape = part.shape;
    tensor.type = part.piece.type;
  }
  if (tensor.shape != part.shape) {
    return absl::DataLossError(absl::StrCat("two ranks give ", part.tensor, " different shapes"));
  }
  ManifestPiece piece = part.piece;
  piece.file = file;
  if (!part.shard.extent.empty() && part.shard != WholeBox(part.shape)) {
    const auto found = std::find(tensor.shards.begin(), tensor.shards.end(), part.shard);
    piece.shard = static_cast<int32_t>(found - tensor.shards.begin());
    if (found == tensor.shards.end()) tensor.shards.push_back(part.shard);
  }
  tensor.pieces.push_back(piece);
  return absl::OkStatus();
}

absl::Status ListAll(std::vector<ShardRecord> records, const std::optional<LayoutRecipe>& recipe,
                     Manifest& manifest) {
  std::map<std::string, ManifestTensor> tensors;
  for (ShardRecord& record : records) {
    if (!record.layout_sha256.empty()) {
      if (!recipe.has_value()) {
        return absl::DataLossError(
            absl::StrCat(record.file.name, " is of a layout of rank 0, whose shard is missing"));
      }
      List(*recipe, record);
    }
    const auto file =
        static_cast<int32_t>(manifest.FindFile(record.file.name) - manifest.files.data());
    for (const ShardRecord::Piece& part : record.pieces) {
      RETURN_IF_ERROR(AddPiece(part, file, tensors));
    }
  }
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(),
              [](const ManifestPiece& a, const ManifestPiece& b) {
                return std::pair(a.shard, a.begin) < std::pair(b.shard, b.begin);
              });
    manifest.tensors.push_back(std::move(tensor));
  }
  return absl::OkStatus();
}

absl::StatusOr<Manifest> Assemble(const ManifestFacts& facts,
                                  const std::vector<ShardRecord>& records) {
  Manifest manifest;
  manifest.facts = facts;
  for (const ShardRecord& record : records) manifest.files.push_back(record.file);
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
  ASSIGN_OR_RETURN(const std::optional<LayoutRecipe> recipe, RecipeOfAll(records));
  const bool by_recipe =
      recipe.has_value() && recipe->ranks() == static_cast<int64_t>(records.size()) &&
      std::none_of(records.begin(), records.end(),
                   [](const ShardRecord& record) { return record.layout_sha256.empty(); });
  if (by_recipe) {
    manifest.layout = recipe;
    RETURN_IF_ERROR(ComputePieces(manifest));
  } else {
    RETURN_IF_ERROR(ListAll(records, recipe, manifest));
  }
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
  Json json = {{"file", file.name},
               {"bytes", file.bytes},
               {"sha256", file.sha256},
               {"header_bytes", file.header_bytes},
               {"block_bytes", file.block_bytes},
               {"blocks", file.blocks},
               {"layout", layout},
               {"layout_sha256", layout_sha256}};
  json["pieces"] = Json::array();
  for (const Piece& part : pieces) {
    json["pieces"].push_back({part.tensor, part.shape, part.piece.begin, part.piece.end,
                              part.piece.offset, part.piece.first_block, part.shard.offset,
                              part.shard.extent, std::string(ElementTypeName(part.piece.type))});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

bool HasTexts(const Json& json, std::initializer_list<const char*> keys) {
  return std::all_of(keys.begin(), keys.end(),
                     [&](const char* key) { return json.contains(key) && json[key].is_string(); });
}

bool HasNumbers(const Json& json, std::initializer_list<const char*> keys) {
  return std::all_of(keys.begin(), keys.end(), [&](const char* key) {
    return json.contains(key) && json[key].is_number_integer();
  });
}

bool IsList(const Json& json) {
  return json.is_array() && std::all_of(json.begin(), json.end(),
                                        [](const Json& item) { return item.is_number_integer(); });
}

bool IsPiece(const Json& item) {
  return item.is_array() && item.size() == 9 && item[0].is_string() && IsList(item[1]) &&
         item[2].is_number_integer() && item[3].is_number_integer() &&
         item[4].is_number_integer() && item[5].is_number_integer() && IsList(item[6]) &&
         IsList(item[7]) && item[8].is_string() &&
         ParseElementType(item[8].get<std::string>()).has_value();
}

}  // namespace

absl::StatusOr<ShardRecord> ShardRecord::Parse(std::string_view text) {
  const absl::Status bad = absl::DataLossError("not the record of a shard");
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !HasTexts(json, {"file", "sha256", "layout", "layout_sha256"}) ||
      !HasNumbers(json, {"bytes", "header_bytes", "block_bytes", "blocks"}) ||
      !json.contains("pieces") || !json["pieces"].is_array()) {
    return bad;
  }
  ShardRecord record;
  record.file = {json["file"].get<std::string>(),    json["bytes"].get<int64_t>(),
                 json["sha256"].get<std::string>(),  json["header_bytes"].get<int64_t>(),
                 json["block_bytes"].get<int64_t>(), json["blocks"].get<int64_t>()};
  if (record.file.block_bytes < 1) return bad;
  record.layout = json["layout"].get<std::string>();
  record.layout_sha256 = json["layout_sha256"].get<std::string>();
  for (const Json& item : json["pieces"]) {
    if (!IsPiece(item)) return bad;
    ManifestPiece piece{item[2].get<int64_t>(), item[3].get<int64_t>(), 0, 0,
                        item[4].get<int64_t>(), item[5].get<int64_t>()};
    piece.type = *ParseElementType(item[8].get<std::string>());
    record.pieces.push_back(
        {item[0].get<std::string>(),
         item[1].get<std::vector<int64_t>>(),
         piece,
         {item[6].get<std::vector<int64_t>>(), item[7].get<std::vector<int64_t>>()}});
  }
  return record;
}

absl::StatusOr<ShardRecord> WriteShard(FileSystem& fs, const std::string& folder, const ShardId& id,
                                       std::span<const Slice> slices, const LayoutRecipe* recipe) {
  RETURN_IF_ERROR(CheckSaveFolder(fs, folder, id.job_id)) << "saving a checkpoint";
  const std::string path = JoinPath(folder, ShardFileName(id.name));
  absl::StatusOr<std::unique_ptr<WritableFile>> file = fs.CreateExclusive(path);
  RETURN_IF_ERROR(file.status()) << "saving a checkpoint";
  absl::StatusOr<ShardRecord> record = WriteContents(**file, id, slices, recipe);
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
                                           Patience* patience, int64_t most_bytes) {
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
    const std::string text = EncodeManifest(*manifest);
    // No reader would take it (ReadManifestFile).
    if (static_cast<int64_t>(text.size()) > most_bytes) {
      return absl::FailedPreconditionError(absl::StrCat(
          "checkpoint not committed: its manifest would have ", text.size(), " bytes, at most ",
          most_bytes, " are read; a larger --bucket-bytes or fewer ranks list fewer pieces"));
    }
    const CommitOutcome outcome = CommitFile(fs, JoinPath(folder, name), temporary, text);
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
