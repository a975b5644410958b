#include "launcher/commands/checkpoint_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/in_parallel.h"
#include "common/base/status_macros.h"
#include "common/config/source_text.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/piece.h"
#include "common/format/tags.h"
#include "common/model/model_spec.h"
#include "launcher/commands/checkpoint_diff.h"
#include "launcher/commands/checkpoint_export.h"
#include "launcher/commands/checkpoint_place.h"
#include "launcher/commands/checkpoint_tags.h"
#include "launcher/commands/checkpoint_verify.h"
#include "launcher/commands/checkpoint_where.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kUsage =
    "dsrun checkpoint hash DIR [--job ID] [--json]     SHA-256 over everything a checkpoint holds\n"
    "dsrun checkpoint inspect DIR [--job ID] [--json]  tensors, shapes, shards, sizes, "
    "fingerprint, tags\n"
    "dsrun checkpoint verify DIR [--job ID] [--jobs N] [--json]  every byte of a folder: what is "
    "damaged\n"
    "dsrun checkpoint diff A B [--json]                which tensors differ, and by how much\n"
    "dsrun checkpoint tag DIR NAME [--step N] [--job ID]  keep a checkpoint until it is untagged\n"
    "dsrun checkpoint untag DIR NAME                   keep it no longer\n"
    "dsrun checkpoint export DIR FILE [--format safetensors] [--dtype f32|bf16|f16]\n"
    "    [--allow-overflow] [--force] [--job ID] [--jobs N]\n"
    "                                                  the model alone, as one file for others\n"
    "dsrun where --param NAME DIR [--job ID] [--json]  which ranks, files and bytes hold "
    "a parameter\n";
constexpr char kHelp[] =
    "  hash      SHA-256 over everything a checkpoint holds: tensors, optimizer state, counters,\n"
    "            data position; equal for equal training, whatever the number of ranks\n"
    "  inspect   tensors, shapes, shards, sizes, fingerprint, tags; every byte is checked\n"
    "  verify    reads every byte of all checkpoints of a folder and names what is damaged\n"
    "            (file, tensor, checksums), missing, left over or foreign\n"
    "  diff      compares two checkpoints bit for bit: tensors, counters, settings, fingerprint\n"
    "  tag       a name for a checkpoint, which is then never pruned; letters, digits, . _ -\n"
    "  untag     takes a name away\n"
    "  export    the model's tensors, whole, in one safetensors file that other programs read;\n"
    "            streamed, and there under its name when all of it is on the disk\n"
    "  where     (dsrun where) of a parameter and the optimizer's state for it: the ranks that "
    "wrote\n"
    "            its pieces, files, bytes, type and norm; of a run folder whose job has not ended\n"
    "            also the ranks that have it in memory now\n"
    "  DIR A B   a save folder, of which the newest whole checkpoint is taken (verify: all), a\n"
    "            run folder, which means its checkpoints/, or one manifest\n"
    "  --job ID  that job's checkpoints only; with one manifest, which must be that job's\n"
    "  --step N  the checkpoint of that step\n"
    "  --param NAME  as inspect lists it, with or without model/ or state/<slot>/ in front\n"
    "  --format F  of an export: safetensors, which it is without this flag\n"
    "  --dtype T   of an export: f32 (what is trained), bf16 or f16 (rounded to nearest, ties to\n"
    "              even); fp32 and fp16 are the same\n"
    "  --allow-overflow  values beyond what the type can hold become infinite; without it an "
    "export\n"
    "              that has any is refused, and says how many\n"
    "  --force     replace the file that is there\n"
    "  --jobs N    threads that read and hash; without it one for each processor, at most 8\n"
    "  --json    one JSON object on standard output\n"
    "Exit codes:\n"
    "  0   done; verify: all that is there is whole; diff: nothing differs\n"
    "  1   verify: a checkpoint is damaged, or a tag says nothing or names what is missing;\n"
    "      diff: something differs\n"
    "  2   no answer: something could not be read, or a tag not be written, and it says nothing "
    "of\n"
    "      damage; diff: also where one side turns out damaged while it is compared\n"
    "  90  there is no such checkpoint, or it is damaged (all but verify), or a flag, a name or\n"
    "      what a tag is asked for is wrong\n"
    "  96  stopped by Ctrl-C or another signal; 98 a limit of the system is too low to begin\n";

constexpr int kMostJobs = 64;

struct Verb {
  const char* name;
  size_t words;                         // after it
  const char* expected;                 // what they are
  std::vector<std::string_view> flags;  // that it has
};

const std::vector<Verb>& Verbs() {
  static const auto* const verbs = new std::vector<Verb>{
      {"hash", 1, "one folder", {"--job", "--json"}},
      {"inspect", 1, "one folder", {"--job", "--json"}},
      {"verify", 1, "one folder", {"--job", "--jobs", "--json"}},
      {"diff", 2, "two checkpoints", {"--json"}},
      {"tag", 2, "a folder and a name", {"--job", "--step"}},
      {"untag", 2, "a folder and a name", {}},
      {"export",
       2,
       "a folder and a file",
       {"--job", "--jobs", "--format", "--dtype", "--allow-overflow", "--force"}},
      {"where", 1, "one folder", {"--job", "--json", "--param"}},
  };
  return *verbs;
}

struct Request {
  const Verb* verb = nullptr;  // nullptr: help
  std::vector<std::string> words;
  std::string job_id;
  std::optional<int64_t> step;
  std::string param;
  ElementType type = ElementType::kF32;
  bool force = false;
  bool allow_overflow = false;
  int jobs = UsualJobs();
  bool json = false;
};

absl::StatusOr<const Verb*> FindVerb(const std::vector<std::string>& words) {
  std::vector<std::string> names;
  for (const Verb& verb : Verbs()) {
    if (!words.empty() && words[0] == verb.name) return &verb;
    names.push_back(verb.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("expected one of ", absl::StrJoin(names, ", "),
                                                 ", got ",
                                                 words.empty() ? "nothing" : Quoted(words[0])));
}

// Flags in any place; a value behind "=" or as the next word.
class ArgumentReader {
 public:
  explicit ArgumentReader(std::span<const std::string> args) : args_(args) {}

  absl::StatusOr<Request> Read() {
    std::vector<std::string> words;
    std::vector<std::string> flags;
    for (; at_ < args_.size(); ++at_) {
      const std::string& arg = args_[at_];
      if (arg == "--help" || arg == "-h") return Request();
      if (!arg.starts_with("-")) {
        words.push_back(arg);
        continue;
      }
      flags.push_back(arg.substr(0, arg.find('=')));
      RETURN_IF_ERROR(ReadFlag(arg, flags.back()));
    }
    ASSIGN_OR_RETURN(request_.verb, FindVerb(words));
    for (const std::string& flag : flags) RETURN_IF_ERROR(CheckFlag(flag));
    request_.words.assign(words.begin() + 1, words.end());
    if (request_.words.size() != request_.verb->words) {
      return absl::InvalidArgumentError(absl::StrCat(request_.verb->name, ": expected ",
                                                     request_.verb->expected, ", got ",
                                                     Counted(request_.words.size(), "word")));
    }
    if (request_.verb->name == std::string_view("where") && request_.param.empty()) {
      return absl::InvalidArgumentError("where: expected --param NAME, got none");
    }
    return std::move(request_);
  }

 private:
  absl::Status ReadFlag(const std::string& arg, const std::string& flag) {
    if (arg == "--json") {
      request_.json = true;
      return absl::OkStatus();
    }
    if (arg == "--force") {
      request_.force = true;
      return absl::OkStatus();
    }
    if (arg == "--allow-overflow") {
      request_.allow_overflow = true;
      return absl::OkStatus();
    }
    static const std::set<std::string_view> valued = {"--job",   "--jobs",   "--step",
                                                      "--param", "--format", "--dtype"};
    if (!valued.contains(flag)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown flag ", Quoted(arg),
          "; known are --job, --jobs, --step, --param, --format, --dtype, --allow-overflow, "
          "--force and --json"));
    }
    std::string value;
    if (flag.size() < arg.size()) {
      value = arg.substr(flag.size() + 1);
    } else if (++at_ < args_.size()) {
      value = args_[at_];
    } else {
      return absl::InvalidArgumentError(absl::StrCat(flag, " needs a value"));
    }
    return SetValue(flag, value);
  }

  absl::Status SetValue(const std::string& flag, const std::string& value) {
    if (flag == "--job") {
      request_.job_id = value;
    } else if (flag == "--param") {
      request_.param = value;
    } else if (flag == "--format") {
      if (value != "safetensors") {
        return absl::InvalidArgumentError(
            absl::StrCat("--format: expected safetensors, got ", Quoted(value)));
      }
    } else if (flag == "--dtype") {
      static const std::map<std::string, ElementType> types = {{"f32", ElementType::kF32},
                                                               {"fp32", ElementType::kF32},
                                                               {"bf16", ElementType::kBF16},
                                                               {"f16", ElementType::kF16},
                                                               {"fp16", ElementType::kF16}};
      const auto found = types.find(value);
      if (found == types.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("--dtype: expected f32, bf16 or f16, got ", Quoted(value)));
      }
      request_.type = found->second;
    } else if (flag == "--jobs") {
      if (!absl::SimpleAtoi(value, &request_.jobs) || request_.jobs < 1 ||
          request_.jobs > kMostJobs) {
        return absl::InvalidArgumentError(absl::StrCat("--jobs: expected a number from 1 to ",
                                                       kMostJobs, ", got ", Quoted(value)));
      }
    } else {
      int64_t step = 0;
      if (!absl::SimpleAtoi(value, &step) || step < 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("--step: expected a whole number from 0 on, got ", Quoted(value)));
      }
      request_.step = step;
    }
    return absl::OkStatus();
  }

  absl::Status CheckFlag(const std::string& flag) const {
    const Verb& verb = *request_.verb;
    if (std::find(verb.flags.begin(), verb.flags.end(), flag) != verb.flags.end()) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(verb.name, " has no flag ", flag));
  }

  std::span<const std::string> args_;
  size_t at_ = 0;
  Request request_;
};

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
    return PrintCheckpointError(hash.status(), err);
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
std::string Shards(const ManifestTensor& tensor) {
  std::set<int64_t> numbers;
  for (const ManifestPiece& piece : tensor.pieces) {
    numbers.insert(piece.file);
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

// The tags of this checkpoint, and of the others of its folder.
absl::StatusOr<std::vector<std::string>> TagsOf(FileSystem& fs, const Checkpoint& checkpoint,
                                                std::vector<std::string>* of_others) {
  ASSIGN_OR_RETURN(const auto tags, ReadTags(fs, checkpoint.folder()));
  std::vector<std::string> mine;
  for (const auto& [tag, manifest] : tags) {
    if (manifest == checkpoint.manifest_name()) {
      mine.push_back(tag);
    } else {
      of_others->push_back(absl::StrCat(tag, " (", manifest, ")"));
    }
  }
  return mine;
}

// A tag that cannot be read is no reason not to show the checkpoint.
void PrintTags(FileSystem& fs, const Checkpoint& checkpoint, std::ostream& out) {
  std::vector<std::string> of_others;
  const auto mine = TagsOf(fs, checkpoint, &of_others);
  if (!mine.ok()) {
    out << "tags        not known: " << std::string(mine.status().message()) << "\n";
    return;
  }
  if (!mine->empty()) out << "tags        " << absl::StrJoin(*mine, ", ") << "\n";
  if (!of_others.empty()) out << "other tags  " << absl::StrJoin(of_others, ", ") << "\n";
}

// Of a family that is not planned here, what all models have.
std::string ModelWords(const ModelSpec& model) {
  std::string words = absl::StrCat(model.preset, ": ", Counted(model.num_layers, "layer"),
                                   ", width ", model.hidden_size, ", ");
  if (!IsPlannedFamily(model.family)) {
    return absl::StrCat(words, "family \"", model.family, "\", ", Counted(model.seq_length, "row"),
                        " a sample, ", Counted(model.vocab_size, "output"));
  }
  return absl::StrCat(words, Counted(model.num_attention_heads, "head"), ", sequence ",
                      model.seq_length, ", vocabulary ", model.vocab_size);
}

void PrintTable(FileSystem& fs, const Checkpoint& checkpoint, std::ostream& out) {
  const Manifest& manifest = checkpoint.manifest();
  const ManifestFacts& facts = manifest.facts;
  out << "checkpoint  " << JoinPath(checkpoint.folder(), checkpoint.manifest_name()) << "\n"
      << "job         " << facts.job_id << ", generation " << facts.key.generation << ", commit "
      << facts.key.epoch << " of it\n"
      << "step        " << facts.key.step << " ("
      << Counted(facts.counters.optimizer_steps, "optimizer step") << ", "
      << Counted(facts.counters.samples_consumed, "sample") << ")\n"
      << "model       " << ModelWords(facts.model) << "\n"
      << "optimizer   " << facts.optimizer.name << ", state: "
      << (facts.optimizer.slots.empty() ? "none" : absl::StrJoin(facts.optimizer.slots, ", "))
      << "\n"
      << "batch       global " << facts.batch.global_batch_size << ", micro "
      << facts.batch.micro_batch_size << ", seed " << facts.batch.seed << "\n";
  if (!facts.batch.corpus_sha256.empty()) {
    out << "text        SHA-256 " << facts.batch.corpus_sha256 << "\n";
  }
  PrintTags(fs, checkpoint, out);
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
    out << absl::StreamFormat("  %-*s  %-*s  %-4s  %12d  %6d  %s\n", name_columns, tensor.name,
                              shape_columns, Shape(tensor), ElementTypeName(tensor.type),
                              tensor.size(), tensor.pieces.size(), Shards(tensor));
  }
}

void PrintJson(FileSystem& fs, const Checkpoint& checkpoint, std::ostream& out) {
  const Manifest& manifest = checkpoint.manifest();
  Json json = Json::parse(DescribeManifest(manifest), nullptr, /*allow_exceptions=*/false);
  json["manifest"] = checkpoint.manifest_name();
  json["folder"] = checkpoint.folder();
  json["elements"] = Elements(manifest);
  json["bytes"] = Bytes(manifest);
  std::vector<std::string> of_others;
  const auto tags = TagsOf(fs, checkpoint, &of_others);
  json["tags"] = tags.ok() ? Json(*tags) : Json();  // null: not known
  // The folder's name is bytes.
  out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

int ShowOne(FileSystem& fs, const Request& request, const CheckpointPlace& place, std::ostream& out,
            std::ostream& err) {
  absl::StatusOr<Checkpoint> checkpoint = OpenAt(fs, place, request.job_id, Verify::kFull, err);
  if (!checkpoint.ok()) return PrintCheckpointError(checkpoint.status(), err);
  if (request.verb->name == std::string_view("hash")) {
    return PrintHash(*checkpoint, request.json, out, err);
  }
  if (request.json) {
    PrintJson(fs, *checkpoint, out);
  } else {
    std::ostringstream table;  // the names in it came from files
    PrintTable(fs, *checkpoint, table);
    out << Escaped(table.str(), "\n\t");
  }
  return kCheckpointGood;
}

int ShowDifferences(FileSystem& fs, const Request& request, std::ostream& out, std::ostream& err,
                    std::ostream* terminal) {
  std::vector<Checkpoint> both;
  for (const std::string& path : request.words) {
    const absl::StatusOr<CheckpointPlace> place = LocateCheckpoints(fs, path);
    if (!place.ok()) return PrintCheckpointError(place.status(), err);
    // Every piece is compared with its checksum when it is read.
    absl::StatusOr<Checkpoint> found = OpenAt(fs, *place, "", Verify::kSizes, err);
    if (!found.ok()) return PrintCheckpointError(found.status(), err);
    both.push_back(*std::move(found));
  }
  return DiffCommand(both[0], both[1], request.json, terminal, out, err);
}

int Export(FileSystem& fs, const Request& request, const CheckpointPlace& place, std::ostream& out,
           std::ostream& err, std::ostream* terminal, StopFlag* stop) {
  // What is read is compared with its checksum then.
  absl::StatusOr<Checkpoint> found = OpenAt(fs, place, request.job_id, Verify::kSizes, err);
  if (!found.ok()) return PrintCheckpointError(found.status(), err);
  return ExportCommand(fs, *found,
                       {request.words[1], request.type, request.force, request.allow_overflow,
                        request.jobs, terminal, stop},
                       out, err);
}

}  // namespace

std::string_view CheckpointUsage() { return kUsage; }

int CheckpointCommand(std::span<const std::string> args, StopFlag& stop) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  return CheckpointCommand(args, FileSystem::Real(), std::cout, std::cerr,
                           terminal ? &std::cerr : nullptr, &stop);
}

int CheckpointCommand(std::span<const std::string> args, FileSystem& fs, std::ostream& out,
                      std::ostream& err, std::ostream* terminal, StopFlag* stop) {
  const absl::StatusOr<Request> request = ArgumentReader(args).Read();
  if (!request.ok()) {
    err << "dsrun checkpoint: " << Escaped(std::string(request.status().message()), "\n\t") << "\n"
        << kUsage;
    return kCheckpointBadInput;
  }
  if (request->verb == nullptr) {
    out << kUsage << kHelp;
    return kCheckpointGood;
  }
  const std::string_view verb = request->verb->name;
  if (verb == "diff") return ShowDifferences(fs, *request, out, err, terminal);
  const absl::StatusOr<CheckpointPlace> place = LocateCheckpoints(fs, request->words[0]);
  if (!place.ok()) return PrintCheckpointError(place.status(), err);
  if (verb == "verify") {
    return VerifyCommand(fs, {*place, request->job_id, request->json, request->jobs, terminal}, out,
                         err);
  }
  if (verb == "tag") {
    return TagCommand(fs, *place, request->job_id, request->step, request->words[1], out, err);
  }
  if (verb == "where") {
    const std::string& path = request->words[0];
    return WhereCommand(fs, {path, *place, request->job_id, request->param, request->json}, out,
                        err);
  }
  if (verb == "export") return Export(fs, *request, *place, out, err, terminal, stop);
  if (verb == "untag") return UntagCommand(fs, *place, request->words[1], out, err);
  return ShowOne(fs, *request, *place, out, err);
}

}  // namespace dsrun::launcher
