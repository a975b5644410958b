#include "launcher/commands/checkpoint_command.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitBadInput = 90;  // docs/errors.md
constexpr char kUsage[] =
    "usage: dsrun checkpoint hash DIR [--job ID] [--json]\n"
    "       dsrun checkpoint inspect DIR [--job ID] [--json]\n";
constexpr char kHelp[] =
    "  hash      SHA-256 over everything a checkpoint holds: tensors, optimizer state, counters,\n"
    "            data position; equal for equal training, whatever the number of ranks\n"
    "  inspect   tensors, shapes, shards, sizes, fingerprint; every byte is checked\n"
    "  DIR       a save folder, of which the newest whole checkpoint is taken, or one manifest\n"
    "  --job ID  that job's checkpoints only\n"
    "  --json    one JSON object on standard output\n"
    "Exit codes: 0, and 90 when there is no whole checkpoint or a flag is wrong.\n";

struct Request {
  std::string verb;
  std::string path;
  std::string job_id;
  bool json = false;
  bool help = false;
};

absl::StatusOr<Request> ParseArgs(std::span<const std::string> args) {
  Request request;
  std::vector<std::string> words;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      request.help = true;
      return request;
    }
    if (arg == "--json") {
      request.json = true;
    } else if (arg == "--job") {
      if (++i == args.size()) return absl::InvalidArgumentError("--job needs a job id");
      request.job_id = args[i];
    } else if (arg.starts_with("--job=")) {
      request.job_id = arg.substr(6);
    } else if (arg.starts_with("-")) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag ", arg, "; known are --json and --job"));
    } else {
      words.push_back(arg);
    }
  }
  if (words.empty() || (words[0] != "hash" && words[0] != "inspect")) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected hash or inspect, got ",
                     words.empty() ? "nothing" : absl::StrCat("\"", words[0], "\"")));
  }
  if (words.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat("expected one folder, got ", words.size() - 1));
  }
  request.verb = words[0];
  request.path = words[1];
  return request;
}

absl::StatusOr<Checkpoint> Find(FileSystem& fs, const Request& request, std::ostream& err) {
  const size_t slash = request.path.rfind('/');
  const std::string name =
      slash == std::string::npos ? request.path : request.path.substr(slash + 1);
  if (ParseManifestName(name).has_value()) {
    return OpenCheckpoint(fs, FolderOf(request.path), name, Verify::kFull);
  }
  FindOptions options;
  options.job_id = request.job_id;
  std::vector<std::string> rejected;
  absl::StatusOr<Checkpoint> found = FindNewestCheckpoint(fs, request.path, options, &rejected);
  if (found.ok()) {  // otherwise the error lists them
    for (const std::string& line : rejected) err << "warning: not usable: " << line << "\n";
  }
  return found;
}

int64_t Elements(const Manifest& manifest) {
  int64_t elements = 0;
  for (const ManifestTensor& tensor : manifest.tensors) elements += tensor.size();
  return elements;
}

int64_t Bytes(const Manifest& manifest) {
  int64_t bytes = 0;
  for (const ManifestFile& file : manifest.files) bytes += file.bytes;
  return bytes;
}

int PrintHash(Checkpoint& checkpoint, bool json, std::ostream& out, std::ostream& err) {
  const absl::StatusOr<std::string> hash = ContentHash(checkpoint);
  if (!hash.ok()) {
    err << "dsrun checkpoint: " << std::string(hash.status().message()) << "\n";
    return kExitBadInput;
  }
  const ManifestFacts& facts = checkpoint.manifest().facts;
  if (json) {
    out << Json({{"hash", *hash},
                 {"step", facts.key.step.value()},
                 {"samples_consumed", facts.counters.samples_consumed},
                 {"job_id", facts.job_id},
                 {"manifest", checkpoint.manifest_name()}})
               .dump(-1, ' ', false, Json::error_handler_t::replace)
        << "\n";
    return 0;
  }
  out << *hash << "\n";
  err << "step " << facts.key.step << ", "
      << JoinPath(checkpoint.folder(), checkpoint.manifest_name()) << "\n";
  return 0;
}

std::string Shape(const ManifestTensor& tensor) {
  return absl::StrCat("(", absl::StrJoin(tensor.shape, ", "), ")");
}

// The shards that hold a tensor, by their ranks: "0-3", "2", "0,2".
std::string Shards(const ManifestTensor& tensor, const Manifest& manifest) {
  std::set<int64_t> numbers;
  for (const ManifestPiece& piece : tensor.pieces) {
    numbers.insert(manifest.FindFile(piece.file) - manifest.files.data());
  }
  std::vector<std::string> parts;
  for (auto first = numbers.begin(); first != numbers.end();) {
    auto last = first;
    auto next = std::next(first);
    while (next != numbers.end() && *next == *last + 1) last = next++;
    parts.push_back(first == last ? absl::StrCat(*first) : absl::StrCat(*first, "-", *last));
    first = next;
  }
  return absl::StrJoin(parts, ",");
}

void PrintTable(const Checkpoint& checkpoint, std::ostream& out) {
  const Manifest& manifest = checkpoint.manifest();
  const ManifestFacts& facts = manifest.facts;
  out << "checkpoint  " << JoinPath(checkpoint.folder(), checkpoint.manifest_name()) << "\n"
      << "job         " << facts.job_id << ", generation " << facts.key.generation << ", commit "
      << facts.key.epoch << " of it\n"
      << "step        " << facts.key.step << " ("
      << Counted(facts.counters.optimizer_steps, "optimizer step") << ", "
      << Counted(facts.counters.samples_consumed, "sample") << ")\n"
      << "model       " << facts.model.preset << ": " << Counted(facts.model.num_layers, "layer")
      << ", width " << facts.model.hidden_size << ", "
      << Counted(facts.model.num_attention_heads, "head") << ", sequence " << facts.model.seq_length
      << ", vocabulary " << facts.model.vocab_size << "\n"
      << "batch       global " << facts.batch.global_batch_size << ", micro "
      << facts.batch.micro_batch_size << ", "
      << Counted(facts.fingerprint.canonical_blocks, "canonical block") << ", seed "
      << facts.batch.seed << "\n";
  if (!facts.batch.corpus_sha256.empty()) {
    out << "text        SHA-256 " << facts.batch.corpus_sha256 << "\n";
  }
  out << "numerics\n";
  for (const FingerprintField& field : FieldsOf(facts.fingerprint)) {
    out << "  " << field.label << ": " << field.value << "\n";
  }
  out << "\nshards      " << manifest.files.size() << ", " << Bytes(manifest)
      << " bytes, all checked\n";
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    const ManifestFile& file = manifest.files[i];
    out << absl::StreamFormat("  %3d  %12d  %s  sha256 %s\n", i, file.bytes, file.name,
                              file.sha256);
  }
  size_t name_width = 4, shape_width = 5;
  for (const ManifestTensor& tensor : manifest.tensors) {
    name_width = std::max(name_width, tensor.name.size());
    shape_width = std::max(shape_width, Shape(tensor).size());
  }
  out << "\ntensors     " << manifest.tensors.size() << ", " << Elements(manifest) << " elements\n";
  const int name_columns = static_cast<int>(name_width);
  const int shape_columns = static_cast<int>(shape_width);
  out << absl::StreamFormat("  %-*s  %-*s  type  %12s  %6s  shards\n", name_columns, "name",
                            shape_columns, "shape", "elements", "pieces");
  for (const ManifestTensor& tensor : manifest.tensors) {
    out << absl::StreamFormat("  %-*s  %-*s  F32   %12d  %6d  %s\n", name_columns, tensor.name,
                              shape_columns, Shape(tensor), tensor.size(), tensor.pieces.size(),
                              Shards(tensor, manifest));
  }
}

void PrintJson(const Checkpoint& checkpoint, std::ostream& out) {
  const Manifest& manifest = checkpoint.manifest();
  // The manifest is the machine's form of it already.
  Json json = Json::parse(EncodeManifest(manifest), nullptr, /*allow_exceptions=*/false);
  json["manifest"] = checkpoint.manifest_name();
  json["folder"] = checkpoint.folder();
  json["elements"] = Elements(manifest);
  json["bytes"] = Bytes(manifest);
  // The folder's name is bytes.
  out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace

int CheckpointCommand(std::span<const std::string> args) {
  return CheckpointCommand(args, FileSystem::Real(), std::cout, std::cerr);
}

int CheckpointCommand(std::span<const std::string> args, FileSystem& fs, std::ostream& out,
                      std::ostream& err) {
  const absl::StatusOr<Request> request = ParseArgs(args);
  if (!request.ok()) {
    err << "dsrun checkpoint: " << std::string(request.status().message()) << "\n" << kUsage;
    return kExitBadInput;
  }
  if (request->help) {
    out << kUsage << kHelp;
    return 0;
  }
  absl::StatusOr<Checkpoint> checkpoint = Find(fs, *request, err);
  if (!checkpoint.ok()) {
    err << "dsrun checkpoint: " << std::string(checkpoint.status().message()) << "\n";
    return kExitBadInput;
  }
  if (request->verb == "hash") return PrintHash(*checkpoint, request->json, out, err);
  if (request->json) {
    PrintJson(*checkpoint, out);
  } else {
    PrintTable(*checkpoint, out);
  }
  return 0;
}

}  // namespace dsrun::launcher
