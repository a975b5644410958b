#include "launcher/commands/checkpoint_where.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/escaped.h"
#include "common/base/status_macros.h"
#include "common/format/element_values.h"
#include "common/format/tensor_names.h"
#include "launcher/commands/where_in_job.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kChunkElements = 1 << 18;
constexpr size_t kMostNamed = 8;

// Of "state/<slot>/<parameter>" and "model/<parameter>".
std::string_view ParameterOf(std::string_view tensor) {
  if (tensor.starts_with(kModelPrefix)) return tensor.substr(kModelPrefix.size());
  if (!tensor.starts_with(kStatePrefix)) return tensor;
  const size_t slash = tensor.find('/', kStatePrefix.size());
  return slash == std::string_view::npos ? tensor : tensor.substr(slash + 1);
}

absl::Status NoSuchParameter(const Manifest& manifest, const std::string& parameter) {
  std::vector<std::string> names;
  size_t all = 0;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (!tensor.name.starts_with(kModelPrefix)) continue;
    if (all++ < kMostNamed) names.emplace_back(ParameterOf(tensor.name));
  }
  return absl::NotFoundError(absl::StrCat("--param: no parameter ", parameter, " in ",
                                          ManifestName(manifest.facts.key), "; it holds ", all,
                                          ", such as ", absl::StrJoin(names, ", "),
                                          "; dsrun checkpoint inspect lists all of them"));
}

absl::StatusOr<double> SumOfSquares(Checkpoint& checkpoint, const std::string& tensor,
                                    const PlaceOfPiece& piece) {
  const ManifestTensor& stored = *checkpoint.manifest().FindTensor(tensor);
  double sum = 0;
  std::vector<std::byte> bytes;
  for (int64_t begin = piece.begin; begin < piece.end; begin += kChunkElements) {
    const int64_t end = std::min(piece.end, begin + kChunkElements);
    RETURN_IF_ERROR(checkpoint.ReadStored(tensor, piece.shard, begin, end, bytes));
    ForValues(stored.type, bytes, [&](double value) { sum += value * value; });
  }
  return sum;
}

absl::StatusOr<PlacesOfTensor> PlacesOf(Checkpoint& checkpoint, const ManifestTensor& tensor) {
  PlacesOfTensor places{tensor.name, tensor.shape, tensor.type, 0, {}};
  double sum = 0;
  for (const ManifestPiece& piece : tensor.pieces) {
    const std::string& file = checkpoint.manifest().FileOf(piece).name;
    const std::optional<ShardName> name = ParseShardFileName(file);
    PlaceOfPiece place{name.has_value() ? name->rank.value() : -1,
                       file,
                       piece.offset,
                       piece.offset + piece.bytes(),
                       tensor.ShardOf(piece),
                       piece.begin,
                       piece.end};
    ASSIGN_OR_RETURN(const double squares, SumOfSquares(checkpoint, tensor.name, place));
    place.norm = std::sqrt(squares);
    sum += squares;
    places.pieces.push_back(std::move(place));
  }
  places.norm = std::sqrt(sum);
  return places;
}

std::string BoxWords(const Box& box) {
  std::vector<std::string> ranges;
  for (size_t i = 0; i < box.offset.size(); ++i) {
    ranges.push_back(absl::StrCat(box.offset[i], ":", box.offset[i] + box.extent[i]));
  }
  return absl::StrCat("[", absl::StrJoin(ranges, ","), "]");
}

void PrintText(const Checkpoint& checkpoint, const std::vector<PlacesOfTensor>& found,
               std::ostream& out) {
  out << JoinPath(checkpoint.folder(), checkpoint.manifest_name()) << "\n";
  for (const PlacesOfTensor& tensor : found) {
    out << "\n"
        << tensor.name << "  (" << absl::StrJoin(tensor.shape, ", ") << ")  "
        << ElementTypeName(tensor.type) << "  norm " << absl::StreamFormat("%.9g", tensor.norm)
        << "\n";
    out << absl::StreamFormat("  %5s  %12s  %12s  %14s  %14s  %13s  file\n", "rank", "from element",
                              "to", "from byte", "to", "norm");
    for (const PlaceOfPiece& piece : tensor.pieces) {
      out << absl::StreamFormat("  %5d  %12d  %12d  %14d  %14d  %13.9g  %s", piece.rank,
                                piece.begin, piece.end, piece.first_byte, piece.past_byte,
                                piece.norm, piece.file);
      if (piece.shard != WholeBox(tensor.shape)) out << "  of shard " << BoxWords(piece.shard);
      out << "\n";
    }
  }
}

// JSON has no word for what is not finite.
Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

void AddJson(const Checkpoint& checkpoint, const std::vector<PlacesOfTensor>& found, Json& json) {
  json["manifest"] = checkpoint.manifest_name();
  json["folder"] = checkpoint.folder();
  json["tensors"] = Json::array();
  for (const PlacesOfTensor& tensor : found) {
    Json one = {{"name", tensor.name},
                {"shape", tensor.shape},
                {"dtype", std::string(ElementTypeName(tensor.type))},
                {"norm", Number(tensor.norm)},
                {"pieces", Json::array()}};
    for (const PlaceOfPiece& piece : tensor.pieces) {
      one["pieces"].push_back({{"rank", piece.rank},
                               {"file", piece.file},
                               {"first_byte", piece.first_byte},
                               {"past_byte", piece.past_byte},
                               {"shard_offset", piece.shard.offset},
                               {"shard_extent", piece.shard.extent},
                               {"begin", piece.begin},
                               {"end", piece.end},
                               {"dtype", std::string(ElementTypeName(tensor.type))},
                               {"norm", Number(piece.norm)}});
    }
    json["tensors"].push_back(std::move(one));
  }
}

// Of a run folder whose job has not ended. A journal that cannot be read hides no checkpoint.
absl::StatusOr<std::optional<JobThen>> LiveJob(const WhereRequest& request, std::ostream& err) {
  absl::StatusOr<std::optional<JobThen>> job = ReadJobOf(request.path);
  if (!job.ok()) {
    err << "warning: what runs in this folder is not known: "
        << Escaped(std::string(job.status().message()), "\t") << "\n";
    return std::nullopt;
  }
  if (!job->has_value() || (*job)->core.state() == Coordinator::State::kEnded) return std::nullopt;
  const std::string& id = (*job)->core.config().job_id;
  if (!request.job_id.empty() && request.job_id != id) {
    return absl::InvalidArgumentError(absl::StrCat("--job: expected ", request.job_id, ", but ",
                                                   request.path, " is the run folder of job ", id));
  }
  return job;
}

// Prints what is in memory, or puts it into `json`. Returns whether there was anything.
absl::StatusOr<bool> TellMemory(const WhereRequest& request, Json& json, std::ostream& text,
                                std::ostream& err) {
  ASSIGN_OR_RETURN(const std::optional<JobThen> job, LiveJob(request, err));
  if (!job.has_value()) return false;
  const absl::StatusOr<JobPlaces> places = WhereInJob(job->core, request.parameter);
  if (absl::IsFailedPrecondition(places.status())) {  // nothing is in memory yet
    err << "dsrun: " << Escaped(std::string(places.status().message()), "\t") << "\n";
    return false;
  }
  RETURN_IF_ERROR(places.status());
  if (job->behind) {
    err << "warning: the job's journal is behind: it may have another generation by now\n";
  }
  PrintText(*places, *job, text);
  json["job"] = ToJson(*places, *job);
  return true;
}

absl::Status TellCheckpoint(FileSystem& fs, const WhereRequest& request, Json& json,
                            std::ostream& text, std::ostream& err) {
  // What is read is compared with its checksum then.
  ASSIGN_OR_RETURN(Checkpoint checkpoint,
                   OpenAt(fs, request.place, request.job_id, Verify::kSizes, err));
  ASSIGN_OR_RETURN(const std::vector<PlacesOfTensor> found, WhereIs(checkpoint, request.parameter));
  PrintText(checkpoint, found, text);
  AddJson(checkpoint, found, json);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<PlacesOfTensor>> WhereIs(Checkpoint& checkpoint,
                                                    const std::string& parameter) {
  std::vector<PlacesOfTensor> found;
  for (const ManifestTensor& tensor : checkpoint.manifest().tensors) {
    if (tensor.name != parameter && ParameterOf(tensor.name) != parameter) continue;
    ASSIGN_OR_RETURN(PlacesOfTensor places, PlacesOf(checkpoint, tensor));
    found.push_back(std::move(places));
  }
  if (found.empty()) return NoSuchParameter(checkpoint.manifest(), parameter);
  return found;
}

int WhereCommand(FileSystem& fs, const WhereRequest& request, std::ostream& out,
                 std::ostream& err) {
  Json json = {{"param", request.parameter}};
  std::ostringstream text;  // the names in it came from files
  const absl::StatusOr<bool> in_memory = TellMemory(request, json, text, err);
  if (!in_memory.ok()) return PrintCheckpointError(in_memory.status(), err);
  if (*in_memory) text << "\n";
  if (const absl::Status told = TellCheckpoint(fs, request, json, text, err); !told.ok()) {
    if (!*in_memory || !absl::IsNotFound(told)) {
      const int code = PrintCheckpointError(told, err);
      if (absl::IsNotFound(told)) {
        err << "dsrun checkpoint: of a job that saved elsewhere (--save) name that folder\n";
      }
      return code;
    }
    text << "no checkpoint in " << request.path
         << " yet, so no norm; of one that was saved elsewhere (--save) name its folder\n";
  }
  if (request.json) {
    out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    out << Escaped(text.str(), "\n\t");
  }
  return kCheckpointGood;
}

}  // namespace dsrun::launcher
