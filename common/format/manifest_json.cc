// The manifest as text, written and read: one JSON object with its own checksum. One file although
// it is long: a field and both of its directions are changed together.

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/format/block_checksums.h"
#include "common/format/manifest.h"
#include "common/format/name_reader.h"
#include "common/format/tensor_names.h"
#include "common/model/spec_fields.h"

namespace dsrun {
namespace {

// A reader from before exact sums wants a number of canonical blocks. It then finds `sums` in the
// fingerprint, which it does not know, and says that it cannot go on with the same curve.
constexpr int64_t kForOldReaders = 1;

using Json = nlohmann::ordered_json;

constexpr std::string_view kTrailer = ",\n \"sha256_of_all_above\": \"";
constexpr std::string_view kEnd = "\"\n}\n";
constexpr size_t kDigestChars = 64;
constexpr int64_t kMostElements = int64_t{1} << 56;

// What an int64_t holds: the parser gives what is beyond it as unsigned.
bool IsInt64(const Json& json) {
  return json.is_number_integer() &&
         (!json.is_number_unsigned() ||
          json.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
}

// What is printed later, by itself: no writer of ours puts a line's end or an escape there.
bool IsPlainText(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char byte) {
    return static_cast<unsigned char>(byte) >= 0x20 && byte != 0x7f;
  });
}

// Reads fields of one JSON object; remembers the first that is missing or of another type.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) Fail("an object");
  }
  void Int(const char* key, int64_t* value) {
    if (const Json* field = Find(key)) {
      if (IsInt64(*field)) {
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
      if (!field->is_string()) return Fail(absl::StrCat("a text as ", key));
      *value = field->get<std::string>();
      if (!IsPlainText(*value)) Fail(absl::StrCat("a text without control bytes as ", key));
    }
  }
  void Real(const char* key, double* value) {
    if (const Json* field = Find(key)) {
      if (field->is_number()) {
        *value = field->get<double>();
      } else {
        Fail(absl::StrCat("a number as ", key));
      }
    }
  }
  void Flag(const char* key, bool* value) {
    if (const Json* field = Find(key)) {
      if (field->is_boolean()) {
        *value = field->get<bool>();
      } else {
        Fail(absl::StrCat("true or false as ", key));
      }
    }
  }
  // What is not there stays as it is.
  void Optional(const SpecField& field, ModelSpec* spec) {
    if (!json_.contains(field.key)) return;
    std::visit(
        [&](auto member) {
          using Value = std::remove_cvref_t<decltype(spec->*member)>;
          Value* const value = &(spec->*member);
          if constexpr (std::is_same_v<Value, std::string>) Text(field.key, value);
          if constexpr (std::is_same_v<Value, int64_t>) Int(field.key, value);
          if constexpr (std::is_same_v<Value, double>) Real(field.key, value);
          if constexpr (std::is_same_v<Value, bool>) Flag(field.key, value);
        },
        field.member);
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

Json FactsToJson(const ManifestFacts& facts, int64_t version) {
  Json json;
  json["format_version"] = version;
  json["job_id"] = facts.job_id;
  json["incarnation"] = absl::StrFormat("%016x", facts.incarnation.value());
  json["step"] = facts.key.step.value();
  json["generation"] = facts.key.generation.value();
  json["epoch"] = facts.key.epoch;
  json["counters"] = {{"samples_consumed", facts.counters.samples_consumed},
                      {"optimizer_steps", facts.counters.optimizer_steps}};
  if (!facts.counters.named.empty()) json["counters"]["named"] = facts.counters.named;
  json["model"] = {{"preset", facts.model.preset},
                   {"num_layers", facts.model.num_layers},
                   {"hidden_size", facts.model.hidden_size},
                   {"num_attention_heads", facts.model.num_attention_heads},
                   {"seq_length", facts.model.seq_length},
                   {"vocab_size", facts.model.vocab_size}};
  for (const SpecField& field : FamilyFields()) {
    if (SameValue(field, facts.model, ModelSpec{})) continue;
    json["model"][field.key] =
        std::visit([&](auto member) { return Json(facts.model.*member); }, field.member);
  }
  json["batch"] = {{"global_batch_size", facts.batch.global_batch_size},
                   {"micro_batch_size", facts.batch.micro_batch_size},
                   {"canonical_blocks", TreeBlocks(facts.fingerprint).value_or(kForOldReaders)},
                   {"seed", facts.batch.seed},
                   {"corpus_sha256", facts.batch.corpus_sha256}};
  json["numerics_fingerprint"] = Json::object();
  for (const FingerprintField& field : FieldsOf(facts.fingerprint)) {
    json["numerics_fingerprint"][field.key] = field.value;
  }
  // As before there were others.
  if (facts.optimizer == OptimizerFacts()) return json;
  json["optimizer"] = {{"name", facts.optimizer.name}, {"slots", facts.optimizer.slots}};
  if (!facts.optimizer.frozen.empty()) json["optimizer"]["frozen"] = facts.optimizer.frozen;
  return json;
}

Json LayoutToJson(const LayoutRecipe& recipe) {
  Json json = {{"rule", recipe.rule}, {"mesh", Json::array()}};
  for (const MeshAxis& axis : recipe.mesh) {
    json["mesh"].push_back({{"axis", axis.name}, {"size", axis.size}});
  }
  json["leaf"] = recipe.leaf;
  json["bucket"] = recipe.bucket;
  json["slots"] = recipe.slots;
  json["parameters"] = Json::array();
  for (const LayoutRecipe::Parameter& parameter : recipe.parameters) {
    Json one = {{"name", parameter.name}, {"shape", parameter.shape}};
    if (parameter.split >= 0) one["split"] = parameter.split;
    if (parameter.stage > 0) one["stage"] = parameter.stage;
    json["parameters"].push_back(std::move(one));
  }
  json["singles"] = Json::array();
  for (const LayoutRecipe::Single& single : recipe.singles) {
    json["singles"].push_back({{"name", single.name}, {"shape", single.shape}});
  }
  for (const auto& [name, type] : recipe.types)
    json["types"][name] = std::string(ElementTypeName(type));
  return json;
}

Json TensorToJson(const Manifest& manifest, const ManifestTensor& tensor) {
  Json json = {{"name", tensor.name},
               {"dtype", std::string(ElementTypeName(tensor.type))},
               {"shape", tensor.shape}};
  for (const Box& shard : tensor.shards) {
    json["shards"].push_back({{"offset", shard.offset}, {"extent", shard.extent}});
  }
  json["pieces"] = Json::array();
  for (const ManifestPiece& piece : tensor.pieces) {
    Json one = {{"begin", piece.begin},
                {"end", piece.end},
                {"file", manifest.FileOf(piece).name},
                {"offset", piece.offset}};
    if (!tensor.shards.empty()) one["shard"] = piece.shard;
    json["pieces"].push_back(std::move(one));
  }
  return json;
}

Json FileToJson(const ManifestFile& file) {
  Json json = {{"name", file.name}, {"bytes", file.bytes}};
  if (file.block_bytes > 0) {
    json["header_bytes"] = file.header_bytes;
    json["block_bytes"] = file.block_bytes;
    json["blocks"] = file.blocks;
  }
  json["sha256"] = file.sha256;
  return json;
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

absl::Status ParseNamedCounters(const Json& json, Counters& counters) {
  const auto named = json.find("named");
  if (named == json.end()) return absl::OkStatus();
  for (const auto& [name, value] : named->items()) {
    if (!value.is_string()) return absl::DataLossError("counters: expected a text as " + name);
    counters.named[name] = value.get<std::string>();
  }
  return absl::OkStatus();
}

absl::Status ParseTexts(const Json& list, const std::string& what, std::vector<std::string>& out) {
  for (const Json& item : list) {
    if (!item.is_string() || !IsPlainText(item.get<std::string>())) {
      return absl::DataLossError("expected texts without control bytes as " + what);
    }
    out.push_back(item.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ParseOptimizer(const Json& json, OptimizerFacts& optimizer) {
  const auto found = json.find("optimizer");
  if (found == json.end()) return absl::OkStatus();
  Fields fields(*found, "optimizer");
  RETURN_IF_ERROR(fields.status());
  optimizer.slots.clear();
  fields.Text("name", &optimizer.name);
  RETURN_IF_ERROR(ParseTexts(fields.List("slots"), "slots of the optimizer", optimizer.slots));
  if (found->contains("frozen")) {
    RETURN_IF_ERROR(ParseTexts(fields.List("frozen"), "frozen tensors", optimizer.frozen));
  }
  return fields.status();
}

absl::StatusOr<ManifestFacts> ParseFacts(const Json& json) {
  ManifestFacts facts;
  Fields top(json, "manifest");
  int64_t version = 0;
  top.Int("format_version", &version);
  RETURN_IF_ERROR(top.status());
  if (version < 1 || version > kManifestFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the manifest has format version ", version, ", this program reads versions 1 to ",
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
  RETURN_IF_ERROR(ParseNamedCounters(top.Child("counters"), facts.counters));
  Fields model(top.Child("model"), "model");
  model.Text("preset", &facts.model.preset);
  model.Int("num_layers", &facts.model.num_layers);
  model.Int("hidden_size", &facts.model.hidden_size);
  model.Int("num_attention_heads", &facts.model.num_attention_heads);
  model.Int("seq_length", &facts.model.seq_length);
  model.Int("vocab_size", &facts.model.vocab_size);
  for (const SpecField& field : FamilyFields()) model.Optional(field, &facts.model);
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
  RETURN_IF_ERROR(ParseOptimizer(json, facts.optimizer));
  return facts;
}

absl::Status ParseInts(const Json& list, const std::string& what, std::vector<int64_t>& out) {
  for (const Json& item : list) {
    if (!item.is_number_unsigned() || !IsInt64(item)) return absl::DataLossError("bad " + what);
    out.push_back(item.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::StatusOr<LayoutRecipe::Parameter> ParseParameter(const Json& json) {
  LayoutRecipe::Parameter parameter;
  Fields fields(json, "a parameter of the layout");
  fields.Text("name", &parameter.name);
  RETURN_IF_ERROR(ParseInts(fields.List("shape"), "shape of " + parameter.name, parameter.shape));
  if (json.contains("split")) fields.Int("split", &parameter.split);
  if (json.contains("stage")) fields.Int("stage", &parameter.stage);
  RETURN_IF_ERROR(fields.status());
  return parameter;
}

absl::Status ParseTypes(const Json& json, LayoutRecipe& recipe) {
  const auto types = json.find("types");
  if (types == json.end()) return absl::OkStatus();
  if (!types->is_object()) return absl::DataLossError("layout: expected an object as types");
  for (const auto& [name, value] : types->items()) {
    const auto type = value.is_string() ? ParseElementType(value.get<std::string>()) : std::nullopt;
    if (!type.has_value()) {
      return absl::DataLossError(
          absl::StrCat("layout: expected a type as that of ", name, ", got ", value.dump()));
    }
    recipe.types[name] = *type;
  }
  return absl::OkStatus();
}

absl::StatusOr<LayoutRecipe> ParseLayoutJson(const Json& json) {
  LayoutRecipe recipe;
  Fields fields(json, "layout");
  fields.Text("rule", &recipe.rule);
  for (const Json& item : fields.List("mesh")) {
    MeshAxis axis;
    Fields axis_fields(item, "an axis of the mesh");
    axis_fields.Text("axis", &axis.name);
    axis_fields.Int("size", &axis.size);
    RETURN_IF_ERROR(axis_fields.status());
    recipe.mesh.push_back(std::move(axis));
  }
  fields.Int("leaf", &recipe.leaf);
  fields.Int("bucket", &recipe.bucket);
  for (const Json& slot : fields.List("slots")) {
    if (!slot.is_string() || !IsPlainText(slot.get<std::string>())) {
      return absl::DataLossError("layout: expected a text without control bytes as a slot");
    }
    recipe.slots.push_back(slot.get<std::string>());
  }
  for (const Json& item : fields.List("parameters")) {
    ASSIGN_OR_RETURN(LayoutRecipe::Parameter parameter, ParseParameter(item));
    recipe.parameters.push_back(std::move(parameter));
  }
  for (const Json& item : fields.List("singles")) {
    ASSIGN_OR_RETURN(const LayoutRecipe::Parameter single, ParseParameter(item));
    recipe.singles.push_back({single.name, single.shape});
  }
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(ParseTypes(json, recipe));
  RETURN_IF_ERROR(CheckRecipe(recipe));
  return recipe;
}

using FileIndices = std::map<std::string, int32_t>;

absl::StatusOr<ManifestPiece> ParsePiece(const Json& json, const std::string& tensor,
                                         int64_t version, const FileIndices& files) {
  ManifestPiece piece;
  Fields fields(json, "a piece of " + tensor);
  std::string file;
  fields.Int("begin", &piece.begin);
  fields.Int("end", &piece.end);
  fields.Text("file", &file);
  fields.Int("offset", &piece.offset);
  uint64_t crc32c = 0;
  if (version == 1) fields.Hex("crc32c", &crc32c);
  int64_t shard = 0;
  if (json.contains("shard")) fields.Int("shard", &shard);
  RETURN_IF_ERROR(fields.status());
  if (piece.begin < 0 || piece.end < piece.begin || piece.end > kMostElements) {
    return absl::DataLossError(
        absl::StrCat(tensor, ": no elements [", piece.begin, ", ", piece.end, ")"));
  }
  piece.crc32c = static_cast<uint32_t>(crc32c);
  piece.shard = static_cast<int32_t>(std::clamp<int64_t>(shard, -1, 1 << 30));
  const auto found = files.find(file);
  if (found == files.end()) {
    return absl::DataLossError(absl::StrCat(tensor, ": elements [", piece.begin, ", ", piece.end,
                                            ") lie outside ", file, ", which is not listed"));
  }
  piece.file = found->second;
  return piece;
}

absl::StatusOr<ManifestTensor> ParseTensor(const Json& json, int64_t version,
                                           const FileIndices& files) {
  ManifestTensor tensor;
  Fields fields(json, "a tensor");
  std::string dtype;
  fields.Text("name", &tensor.name);
  fields.Text("dtype", &dtype);
  RETURN_IF_ERROR(ParseInts(fields.List("shape"), "shape of " + tensor.name, tensor.shape));
  RETURN_IF_ERROR(fields.status());
  const std::optional<ElementType> type = ParseElementType(dtype);
  if (!type.has_value() || (version == 1 && *type != ElementType::kF32)) {
    return absl::DataLossError(absl::StrCat(tensor.name, ": expected dtype ",
                                            version == 1 ? "F32" : "F32, BF16, ...", ", got ",
                                            dtype));
  }
  tensor.type = *type;
  for (const Json& item : fields.List("pieces")) {
    ASSIGN_OR_RETURN(ManifestPiece piece, ParsePiece(item, tensor.name, version, files));
    piece.type = tensor.type;
    tensor.pieces.push_back(piece);
  }
  if (json.contains("shards")) {
    for (const Json& item : fields.List("shards")) {
      Box shard;
      Fields box(item, "a shard of " + tensor.name);
      RETURN_IF_ERROR(ParseInts(box.List("offset"), "shard of " + tensor.name, shard.offset));
      RETURN_IF_ERROR(ParseInts(box.List("extent"), "shard of " + tensor.name, shard.extent));
      RETURN_IF_ERROR(box.status());
      tensor.shards.push_back(std::move(shard));
    }
  }
  RETURN_IF_ERROR(fields.status());
  if (version == 1) tensor.name = FromFormat1Name(tensor.name);
  return tensor;
}

absl::StatusOr<ManifestFile> ParseFile(const Json& json, int64_t version) {
  ManifestFile file;
  Fields fields(json, "a file");
  fields.Text("name", &file.name);
  fields.Int("bytes", &file.bytes);
  fields.Text("sha256", &file.sha256);
  if (version > 1) {
    fields.Int("header_bytes", &file.header_bytes);
    fields.Int("block_bytes", &file.block_bytes);
    fields.Int("blocks", &file.blocks);
  }
  RETURN_IF_ERROR(fields.status());
  if (version > 1 && file.block_bytes < 1) {
    return absl::DataLossError(
        absl::StrCat(file.name, ": expected block_bytes above 0, got ", file.block_bytes));
  }
  return file;
}

// Of listed pieces: the order of their bytes is that of their blocks. REQUIRES: CheckManifest.
void NumberBlocks(Manifest& manifest) {
  std::vector<std::vector<ManifestPiece*>> by_file(manifest.files.size());
  for (ManifestTensor& tensor : manifest.tensors) {
    for (ManifestPiece& piece : tensor.pieces) {
      by_file[static_cast<size_t>(piece.file)].push_back(&piece);
    }
  }
  for (size_t i = 0; i < by_file.size(); ++i) {
    std::sort(by_file[i].begin(), by_file[i].end(),
              [](const ManifestPiece* a, const ManifestPiece* b) { return a->offset < b->offset; });
    int64_t block = 0;
    for (ManifestPiece* const piece : by_file[i]) {
      piece->first_block = block;
      block += BlockCount(piece->bytes(), std::max<int64_t>(manifest.files[i].block_bytes, 1));
    }
  }
}

absl::Status ParsePieces(const Json& json, Fields& top, Manifest& manifest) {
  FileIndices files;
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    files[manifest.files[i].name] = static_cast<int32_t>(i);
  }
  if (manifest.version > 1 && !json.contains("tensors")) {
    ASSIGN_OR_RETURN(manifest.layout, ParseLayoutJson(top.Child("layout")));
    return ComputePieces(manifest);
  }
  for (const Json& item : top.List("tensors")) {
    ASSIGN_OR_RETURN(ManifestTensor tensor, ParseTensor(item, manifest.version, files));
    manifest.tensors.push_back(std::move(tensor));
  }
  if (manifest.version == 1) {
    // Its names were others.
    std::sort(manifest.tensors.begin(), manifest.tensors.end(),
              [](const ManifestTensor& a, const ManifestTensor& b) { return a.name < b.name; });
  }
  return absl::OkStatus();
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

}  // namespace

std::string EncodeLayout(const LayoutRecipe& recipe) {
  return LayoutToJson(recipe).dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<LayoutRecipe> ParseLayout(std::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  return ParseLayoutJson(json);
}

std::string EncodeManifest(const Manifest& manifest) {
  Json json = FactsToJson(manifest.facts, kManifestFormatVersion);
  if (manifest.layout.has_value()) {
    json["layout"] = LayoutToJson(*manifest.layout);
  } else {
    json["tensors"] = Json::array();
    for (const ManifestTensor& tensor : manifest.tensors) {
      json["tensors"].push_back(TensorToJson(manifest, tensor));
    }
  }
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) json["files"].push_back(FileToJson(file));
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace);
  text.resize(text.size() - 2);  // without "\n}"
  const std::string digest = Sha256Hex(text);
  return absl::StrCat(text, std::string(kTrailer), digest, std::string(kEnd));
}

std::string DescribeManifest(const Manifest& manifest) {
  Json json = FactsToJson(manifest.facts, manifest.version);
  if (manifest.layout.has_value()) json["layout"] = LayoutToJson(*manifest.layout);
  json["tensors"] = Json::array();
  for (const ManifestTensor& tensor : manifest.tensors) {
    json["tensors"].push_back(TensorToJson(manifest, tensor));
  }
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) json["files"].push_back(FileToJson(file));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<Manifest> ParseManifest(std::string_view text) {
  ASSIGN_OR_RETURN(const std::string_view body, CheckedBody(text));
  const Json json =
      Json::parse(absl::StrCat(std::string(body), "\n}"), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError("it is no JSON object");
  Manifest manifest;
  ASSIGN_OR_RETURN(manifest.facts, ParseFacts(json));
  Fields top(json, "manifest");
  top.Int("format_version", &manifest.version);
  for (const Json& item : top.List("files")) {
    ASSIGN_OR_RETURN(ManifestFile file, ParseFile(item, manifest.version));
    manifest.files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(ParsePieces(json, top, manifest));
  RETURN_IF_ERROR(top.status());
  RETURN_IF_ERROR(CheckManifest(manifest));
  if (!manifest.layout.has_value()) NumberBlocks(manifest);
  return manifest;
}

}  // namespace dsrun
