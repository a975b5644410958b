#include "common/format/manifest.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

// A reader from before exact sums wants a number of canonical blocks. It then finds `sums` in the
// fingerprint, which it does not know, and says that it cannot go on with the same curve.
constexpr int64_t kForOldReaders = 1;

using Json = nlohmann::ordered_json;

constexpr std::string_view kTrailer = ",\n \"sha256_of_all_above\": \"";
constexpr std::string_view kEnd = "\"\n}\n";
constexpr size_t kDigestChars = 64;

// Reads a file name from the front to the back.
class NameReader {
 public:
  explicit NameReader(std::string_view text) : rest_(text) {}
  NameReader& Literal(std::string_view expected) {
    ok_ = ok_ && rest_.starts_with(expected);
    if (ok_) rest_.remove_prefix(expected.size());
    return *this;
  }
  template <typename Int>
  NameReader& Number(Int* value, int base = 10) {
    if (!ok_) return *this;
    const auto result = std::from_chars(rest_.data(), rest_.data() + rest_.size(), *value, base);
    ok_ = result.ec == std::errc() && !rest_.starts_with('-');
    if (ok_) rest_.remove_prefix(static_cast<size_t>(result.ptr - rest_.data()));
    return *this;
  }
  bool Done() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

// Reads fields of one JSON object; remembers the first that is missing or of another type.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) Fail("an object");
  }
  void Int(const char* key, int64_t* value) {
    if (const Json* field = Find(key)) {
      if (field->is_number_integer()) {
        *value = field->get<int64_t>();
      } else {
        Fail(absl::StrCat("a whole number as ", key));
      }
    }
  }
  void Unsigned(const char* key, uint64_t* value) {
    if (const Json* field = Find(key)) {
      if (field->is_number_unsigned()) {
        *value = field->get<uint64_t>();
      } else {
        Fail(absl::StrCat("a number from 0 on as ", key));
      }
    }
  }
  void Text(const char* key, std::string* value) {
    if (const Json* field = Find(key)) {
      if (field->is_string()) {
        *value = field->get<std::string>();
      } else {
        Fail(absl::StrCat("a text as ", key));
      }
    }
  }
  void Hex(const char* key, uint64_t* value) {
    std::string text;
    Text(key, &text);
    if (status_.ok() && !NameReader(text).Number(value, 16).Done()) {
      Fail(absl::StrCat("a hexadecimal number as ", key));
    }
  }
  // An empty list or object after an error.
  const Json& Child(const char* key) {
    static const Json nothing;
    const Json* field = Find(key);
    return field == nullptr ? nothing : *field;
  }
  const Json& List(const char* key) {
    static const Json nothing = Json::array();
    const Json* field = Find(key);
    if (field == nullptr) return nothing;
    if (field->is_array()) return *field;
    Fail(absl::StrCat("a list as ", key));
    return nothing;
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* key) {
    if (!status_.ok()) return nullptr;
    const auto found = json_.find(key);
    if (found != json_.end()) return &*found;
    Fail(absl::StrCat("the field ", key));
    return nullptr;
  }
  void Fail(const std::string& expected) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat(where_, ": expected ", expected));
  }

  const Json& json_;
  const std::string where_;
  absl::Status status_;
};

Json FactsToJson(const ManifestFacts& facts) {
  Json json;
  json["format_version"] = kManifestFormatVersion;
  json["job_id"] = facts.job_id;
  json["incarnation"] = absl::StrFormat("%016x", facts.incarnation.value());
  json["step"] = facts.key.step.value();
  json["generation"] = facts.key.generation.value();
  json["epoch"] = facts.key.epoch;
  json["counters"] = {{"samples_consumed", facts.counters.samples_consumed},
                      {"optimizer_steps", facts.counters.optimizer_steps}};
  json["model"] = {{"preset", facts.model.preset},
                   {"num_layers", facts.model.num_layers},
                   {"hidden_size", facts.model.hidden_size},
                   {"num_attention_heads", facts.model.num_attention_heads},
                   {"seq_length", facts.model.seq_length},
                   {"vocab_size", facts.model.vocab_size}};
  json["batch"] = {{"global_batch_size", facts.batch.global_batch_size},
                   {"micro_batch_size", facts.batch.micro_batch_size},
                   {"canonical_blocks", TreeBlocks(facts.fingerprint).value_or(kForOldReaders)},
                   {"seed", facts.batch.seed},
                   {"corpus_sha256", facts.batch.corpus_sha256}};
  json["numerics_fingerprint"] = Json::object();
  for (const FingerprintField& field : FieldsOf(facts.fingerprint)) {
    json["numerics_fingerprint"][field.key] = field.value;
  }
  return json;
}

Json TensorToJson(const ManifestTensor& tensor) {
  Json pieces = Json::array();
  for (const ManifestPiece& piece : tensor.pieces) {
    pieces.push_back({{"begin", piece.begin},
                      {"end", piece.end},
                      {"file", piece.file},
                      {"entry", piece.entry},
                      {"offset", piece.offset},
                      {"crc32c", absl::StrFormat("%08x", piece.crc32c)}});
  }
  return {{"name", tensor.name}, {"dtype", "F32"}, {"shape", tensor.shape}, {"pieces", pieces}};
}

// `batch`: where manifests from before exact sums say of how many blocks theirs are.
absl::StatusOr<NumericsFingerprint> ParseFingerprint(const Json& json, const Json& batch) {
  NumericsFingerprint out;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      return absl::DataLossError("numerics_fingerprint: expected a text as " + key);
    }
    RETURN_IF_ERROR(SetField(out, key, value.get<std::string>())) << "numerics_fingerprint";
  }
  // One text alone, as it was once; what is written otherwise stays as it is, and differs from
  // ours.
  if (json.size() == 1 && out.others.contains("kernels")) {
    out = ParseFingerprintText(out.others["kernels"]).value_or(out);
  }
  const auto blocks = batch.find("canonical_blocks");
  if (blocks == batch.end()) return out;
  if (!blocks->is_number_unsigned()) {
    return absl::DataLossError("batch: expected a whole number as canonical_blocks");
  }
  NumericsFingerprint tree = out;
  SetTreeSums(tree, absl::StrCat(blocks->get<int64_t>()));
  if (!out.sums.empty() && !TreeBlocks(out).has_value()) return out;
  if (!out.sums.empty() && out.sums != tree.sums) {
    return absl::DataLossError(absl::StrCat("numerics_fingerprint: expected the batch's \"",
                                            tree.sums, "\", got \"", out.sums, "\""));
  }
  return tree;
}

absl::StatusOr<ManifestFacts> ParseFacts(const Json& json) {
  ManifestFacts facts;
  Fields top(json, "manifest");
  int64_t version = 0;
  top.Int("format_version", &version);
  RETURN_IF_ERROR(top.status());
  if (version != kManifestFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the manifest has format version ", version, ", this program reads version ",
                     kManifestFormatVersion, "; use the version of dsrun that wrote it"));
  }
  uint64_t incarnation = 0;
  int64_t step = 0, generation = 0;
  top.Text("job_id", &facts.job_id);
  top.Hex("incarnation", &incarnation);
  top.Int("step", &step);
  top.Int("generation", &generation);
  top.Int("epoch", &facts.key.epoch);
  facts.incarnation = Incarnation(incarnation);
  facts.key.step = Step(step);
  facts.key.generation = Generation(generation);

  Fields counters(top.Child("counters"), "counters");
  counters.Int("samples_consumed", &facts.counters.samples_consumed);
  counters.Int("optimizer_steps", &facts.counters.optimizer_steps);
  Fields model(top.Child("model"), "model");
  model.Text("preset", &facts.model.preset);
  model.Int("num_layers", &facts.model.num_layers);
  model.Int("hidden_size", &facts.model.hidden_size);
  model.Int("num_attention_heads", &facts.model.num_attention_heads);
  model.Int("seq_length", &facts.model.seq_length);
  model.Int("vocab_size", &facts.model.vocab_size);
  Fields batch(top.Child("batch"), "batch");
  batch.Int("global_batch_size", &facts.batch.global_batch_size);
  batch.Int("micro_batch_size", &facts.batch.micro_batch_size);
  batch.Unsigned("seed", &facts.batch.seed);
  batch.Text("corpus_sha256", &facts.batch.corpus_sha256);
  const Json& fingerprint = top.Child("numerics_fingerprint");
  for (const Fields* fields : {&top, &counters, &model, &batch}) {
    RETURN_IF_ERROR(fields->status());
  }
  ASSIGN_OR_RETURN(facts.fingerprint, ParseFingerprint(fingerprint, top.Child("batch")));
  return facts;
}

absl::StatusOr<ManifestTensor> ParseTensor(const Json& json) {
  ManifestTensor tensor;
  Fields fields(json, "a tensor");
  std::string dtype;
  fields.Text("name", &tensor.name);
  fields.Text("dtype", &dtype);
  for (const Json& extent : fields.List("shape")) {
    if (!extent.is_number_unsigned()) return absl::DataLossError(tensor.name + ": bad shape");
    tensor.shape.push_back(extent.get<int64_t>());
  }
  for (const Json& item : fields.List("pieces")) {
    ManifestPiece piece;
    uint64_t crc32c = 0;
    Fields piece_fields(item, "a piece of " + tensor.name);
    piece_fields.Int("begin", &piece.begin);
    piece_fields.Int("end", &piece.end);
    piece_fields.Text("file", &piece.file);
    piece_fields.Text("entry", &piece.entry);
    piece_fields.Int("offset", &piece.offset);
    piece_fields.Hex("crc32c", &crc32c);
    RETURN_IF_ERROR(piece_fields.status());
    piece.crc32c = static_cast<uint32_t>(crc32c);
    tensor.pieces.push_back(std::move(piece));
  }
  RETURN_IF_ERROR(fields.status());
  if (dtype != "F32") {
    return absl::DataLossError(absl::StrCat(tensor.name, ": expected dtype F32, got ", dtype));
  }
  return tensor;
}

absl::StatusOr<std::string_view> CheckedBody(std::string_view text) {
  const size_t trailer = kTrailer.size() + kDigestChars + kEnd.size();
  if (text.size() < trailer || !text.ends_with(kEnd) ||
      text.substr(text.size() - trailer, kTrailer.size()) != kTrailer) {
    return absl::DataLossError(absl::StrCat(
        "torn: ", text.size(), " bytes that do not end in the manifest's own checksum"));
  }
  const std::string_view body = text.substr(0, text.size() - trailer);
  const std::string_view digest = text.substr(body.size() + kTrailer.size(), kDigestChars);
  const std::string computed = Sha256Hex(body);
  if (computed != digest) {
    return absl::DataLossError(absl::StrCat("altered: its own checksum says ", std::string(digest),
                                            ", its bytes give ", computed));
  }
  return body;
}

bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\0", 2)) == std::string::npos;
}

absl::Status CheckTensor(const Manifest& manifest, const ManifestTensor& tensor) {
  int64_t size = 1;
  for (const int64_t extent : tensor.shape) {
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size) ||
        size > std::numeric_limits<int64_t>::max() / 8) {
      return absl::DataLossError(tensor.name + ": its shape is too large");
    }
  }
  int64_t covered = 0;
  for (const ManifestPiece& piece : tensor.pieces) {
    if (piece.begin != covered || piece.end <= piece.begin || piece.end > size) {
      return absl::DataLossError(
          absl::StrCat(tensor.name, ": expected a piece from element ", covered, " of ", size,
                       " on, got [", piece.begin, ", ", piece.end, ") in ", piece.file,
                       "; the ranks that wrote it did not agree who owns what"));
    }
    covered = piece.end;
    const ManifestFile* file = manifest.FindFile(piece.file);
    const int64_t bytes = (piece.end - piece.begin) * static_cast<int64_t>(sizeof(float));
    if (file == nullptr || piece.offset < 0 || bytes > file->bytes ||
        piece.offset > file->bytes - bytes) {
      return absl::DataLossError(absl::StrCat(tensor.name, ": elements [", piece.begin, ", ",
                                              piece.end, ") lie outside ", piece.file));
    }
  }
  if (covered == size) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(tensor.name, ": elements from ", covered, " to ", size,
                                          " are in no file; a rank's shard is missing"));
}

template <typename Item>
absl::Status CheckNames(const std::vector<Item>& items, const char* what) {
  for (size_t i = 1; i < items.size(); ++i) {
    if (items[i - 1].name < items[i].name) continue;
    return absl::DataLossError(absl::StrCat(what, " are not in name order at ", items[i].name));
  }
  return absl::OkStatus();
}

template <typename Item>
const Item* FindByName(const std::vector<Item>& items, const std::string& name) {
  const auto found =
      std::lower_bound(items.begin(), items.end(), name,
                       [](const Item& a, const std::string& b) { return a.name < b; });
  return found != items.end() && found->name == name ? &*found : nullptr;
}

}  // namespace

std::string ManifestName(const ManifestKey& key) {
  return absl::StrFormat("manifest.step-%08d.gen-%04d.epoch-%04d.json", key.step.value(),
                         key.generation.value(), key.epoch);
}

std::optional<ManifestKey> ParseManifestName(std::string_view name) {
  int64_t step = 0, generation = 0;
  ManifestKey key;
  const bool whole = NameReader(name)
                         .Literal("manifest.step-")
                         .Number(&step)
                         .Literal(".gen-")
                         .Number(&generation)
                         .Literal(".epoch-")
                         .Number(&key.epoch)
                         .Literal(".json")
                         .Done();
  key.step = Step(step);
  key.generation = Generation(generation);
  if (!whole || ManifestName(key) != name) return std::nullopt;
  return key;
}

std::string ShardFileName(const ShardName& name) {
  return absl::StrFormat("step-%08d.gen-%04d.%016x.rank-%04d.safetensors", name.step.value(),
                         name.generation.value(), name.incarnation.value(), name.rank.value());
}

std::optional<ShardName> ParseShardFileName(std::string_view name) {
  int64_t step = 0, generation = 0;
  uint64_t incarnation = 0;
  int32_t rank = 0;
  const bool whole = NameReader(name)
                         .Literal("step-")
                         .Number(&step)
                         .Literal(".gen-")
                         .Number(&generation)
                         .Literal(".")
                         .Number(&incarnation, 16)
                         .Literal(".rank-")
                         .Number(&rank)
                         .Literal(".safetensors")
                         .Done();
  const ShardName parsed{Step(step), Generation(generation), Incarnation(incarnation), Rank(rank)};
  if (!whole || ShardFileName(parsed) != name) return std::nullopt;
  return parsed;
}

int64_t ManifestTensor::size() const {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return elements;
}

const ManifestTensor* Manifest::FindTensor(const std::string& name) const {
  return FindByName(tensors, name);
}

const ManifestFile* Manifest::FindFile(const std::string& name) const {
  return FindByName(files, name);
}

std::string EncodeManifest(const Manifest& manifest) {
  Json json = FactsToJson(manifest.facts);
  json["tensors"] = Json::array();
  for (const ManifestTensor& tensor : manifest.tensors) {
    json["tensors"].push_back(TensorToJson(tensor));
  }
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) {
    json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace);
  text.resize(text.size() - 2);  // without "\n}"
  const std::string digest = Sha256Hex(text);
  return absl::StrCat(text, std::string(kTrailer), digest, std::string(kEnd));
}

absl::StatusOr<Manifest> ParseManifest(std::string_view text) {
  ASSIGN_OR_RETURN(const std::string_view body, CheckedBody(text));
  const Json json =
      Json::parse(absl::StrCat(std::string(body), "\n}"), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError("it is no JSON object");
  Manifest manifest;
  ASSIGN_OR_RETURN(manifest.facts, ParseFacts(json));
  Fields top(json, "manifest");
  for (const Json& item : top.List("tensors")) {
    ASSIGN_OR_RETURN(ManifestTensor tensor, ParseTensor(item));
    manifest.tensors.push_back(std::move(tensor));
  }
  for (const Json& item : top.List("files")) {
    ManifestFile file;
    Fields fields(item, "a file");
    fields.Text("name", &file.name);
    fields.Int("bytes", &file.bytes);
    fields.Text("sha256", &file.sha256);
    RETURN_IF_ERROR(fields.status());
    manifest.files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(top.status());
  RETURN_IF_ERROR(CheckManifest(manifest));
  return manifest;
}

absl::Status CheckManifest(const Manifest& manifest) {
  RETURN_IF_ERROR(CheckNames(manifest.tensors, "tensors"));
  RETURN_IF_ERROR(CheckNames(manifest.files, "files"));
  for (const ManifestFile& file : manifest.files) {
    // A name with a slash could make a reader open anything.
    if (!IsPlainName(file.name)) {
      return absl::DataLossError(absl::StrCat("\"", file.name, "\" is no file of this folder"));
    }
  }
  for (const ManifestTensor& tensor : manifest.tensors) {
    RETURN_IF_ERROR(CheckTensor(manifest, tensor));
  }
  return absl::OkStatus();
}

}  // namespace dsrun
