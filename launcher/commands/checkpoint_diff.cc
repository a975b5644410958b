#include "launcher/commands/checkpoint_diff.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/escaped.h"
#include "common/base/status_macros.h"
#include "common/format/element_values.h"
#include "common/format/run_differences.h"
#include "launcher/commands/byte_progress.h"
#include "launcher/commands/checkpoint_place.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;
using Kind = TensorDifference::Kind;

constexpr int64_t kChunkElements = 1 << 18;

// Of elements whose bits differ.
void CompareElement(int64_t index, double a, double b, TensorDifference& found) {
  if (found.differing++ == 0) {
    found.first = index;
    found.first_a = a;
    found.first_b = b;
  }
  if (!std::isfinite(a) || !std::isfinite(b)) {
    ++found.not_finite;
    return;
  }
  const double absolute = std::abs(a - b);
  const double greater = std::max(std::abs(a), std::abs(b));
  found.greatest_absolute = std::max(found.greatest_absolute, absolute);
  if (greater > 0) found.greatest_relative = std::max(found.greatest_relative, absolute / greater);
}

absl::StatusOr<TensorDifference> CompareTensor(const ManifestTensor& tensor, Checkpoint& a,
                                               Checkpoint& b, ByteProgress& progress) {
  TensorDifference found;
  found.name = tensor.name;
  found.shape_a = found.shape_b = tensor.shape;
  found.elements = tensor.size();
  const auto element = static_cast<size_t>(ElementBytes(tensor.type));
  std::vector<std::byte> of_a, of_b;
  for (int64_t begin = 0; begin < found.elements; begin += kChunkElements) {
    const int64_t end = std::min(found.elements, begin + kChunkElements);
    RETURN_IF_ERROR(a.ReadStored(tensor.name, Box(), begin, end, of_a));
    RETURN_IF_ERROR(b.ReadStored(tensor.name, Box(), begin, end, of_b));
    for (size_t at = 0; at < of_a.size(); at += element) {
      if (std::memcmp(&of_a[at], &of_b[at], element) == 0) continue;
      CompareElement(begin + static_cast<int64_t>(at / element), ValueOf(tensor.type, &of_a[at]),
                     ValueOf(tensor.type, &of_b[at]), found);
    }
    progress.Add(static_cast<int64_t>(of_a.size()));
  }
  return found;
}

TensorDifference OnlyIn(Kind kind, const ManifestTensor& tensor) {
  TensorDifference found;
  found.name = tensor.name;
  found.kind = kind;
  (kind == Kind::kOnlyInA ? found.shape_a : found.shape_b) = tensor.shape;
  return found;
}

std::vector<Difference> CompareFacts(const ManifestFacts& a, const ManifestFacts& b) {
  std::vector<Difference> found;
  const auto compare = [&](const char* name, int64_t of_a, int64_t of_b) {
    if (of_a != of_b) found.push_back({name, absl::StrCat(of_a), absl::StrCat(of_b)});
  };
  compare("step", a.key.step.value(), b.key.step.value());
  compare("optimizer steps", a.counters.optimizer_steps, b.counters.optimizer_steps);
  compare("samples consumed", a.counters.samples_consumed, b.counters.samples_consumed);
  if (a.optimizer.name != b.optimizer.name) {
    found.push_back({"optimizer", a.optimizer.name, b.optimizer.name});
  }
  RunDifferences runs = CompareRuns(a, b.model, b.batch, b.fingerprint, OurFields::kAll);
  for (auto* list : {&runs.model, &runs.curve}) {
    found.insert(found.end(), list->begin(), list->end());
  }
  return found;
}

std::string Shape(const std::vector<int64_t>& shape) {
  return absl::StrCat("(", absl::StrJoin(shape, ", "), ")");
}

// Of a row-major index.
std::string Place(int64_t index, const std::vector<int64_t>& shape) {
  std::vector<int64_t> place(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    place[i] = index % shape[i];
    index /= shape[i];
  }
  return Shape(place);
}

std::string Words(const TensorDifference& tensor) {
  switch (tensor.kind) {
    case Kind::kOnlyInA:
      return "only in A, " + Shape(tensor.shape_a);
    case Kind::kOnlyInB:
      return "only in B, " + Shape(tensor.shape_b);
    case Kind::kShapes:
      if (tensor.type_a != tensor.type_b) {
        return absl::StrCat(ElementTypeName(tensor.type_a), " ", Shape(tensor.shape_a), " in A, ",
                            ElementTypeName(tensor.type_b), " ", Shape(tensor.shape_b), " in B");
      }
      return "shape " + Shape(tensor.shape_a) + " in A, " + Shape(tensor.shape_b) + " in B";
    case Kind::kValues:
      break;
  }
  std::string text = absl::StrFormat(
      "%d of %d elements, by at most %.3g (%.3g relative), first at %s: %.9g, %.9g",
      tensor.differing, tensor.elements, tensor.greatest_absolute, tensor.greatest_relative,
      Place(tensor.first, tensor.shape_a), tensor.first_a, tensor.first_b);
  if (tensor.not_finite > 0) {
    absl::StrAppend(&text, "; ", tensor.not_finite, " of them not finite");
  }
  return text;
}

std::string Title(const Checkpoint& checkpoint) {
  const ManifestFacts& facts = checkpoint.manifest().facts;
  return absl::StrCat(JoinPath(checkpoint.folder(), checkpoint.manifest_name()), " (job ",
                      facts.job_id, ", step ", facts.key.step.value(), ")");
}

void PrintText(const CheckpointDiff& diff, const Checkpoint& a, const Checkpoint& b,
               std::ostream& out) {
  out << "A " << Title(a) << "\nB " << Title(b) << "\n";
  if (!diff.facts.empty()) {
    out << "counters and settings:" << DifferenceTable(diff.facts, "A", "B") << "\n";
  }
  size_t width = 0;
  for (const TensorDifference& tensor : diff.tensors) width = std::max(width, tensor.name.size());
  if (!diff.tensors.empty()) out << "tensors:\n";
  for (const TensorDifference& tensor : diff.tensors) {
    out << "    " << tensor.name << std::string(width - tensor.name.size() + 2, ' ')
        << Words(tensor) << "\n";
  }
  const int64_t all = diff.same_tensors + static_cast<int64_t>(diff.tensors.size());
  out << (diff.empty() ? "the same: " : "different: ") << diff.tensors.size() << " of " << all
      << " tensors differ\n";
}

// JSON has no word for what is not finite.
Json Number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

Json TensorJson(const TensorDifference& tensor) {
  Json json = {{"name", tensor.name}};
  switch (tensor.kind) {
    case Kind::kOnlyInA:
      json["kind"] = "only in A";
      break;
    case Kind::kOnlyInB:
      json["kind"] = "only in B";
      break;
    case Kind::kShapes:
      json["kind"] = "shapes";
      json["dtype_a"] = std::string(ElementTypeName(tensor.type_a));
      json["dtype_b"] = std::string(ElementTypeName(tensor.type_b));
      break;
    case Kind::kValues:
      json["kind"] = "values";
      json["elements"] = tensor.elements;
      json["differing"] = tensor.differing;
      json["not_finite"] = tensor.not_finite;
      json["greatest_absolute"] = tensor.greatest_absolute;
      json["greatest_relative"] = tensor.greatest_relative;
      json["first"] = tensor.first;
      json["first_a"] = Number(tensor.first_a);
      json["first_b"] = Number(tensor.first_b);
      break;
  }
  json["shape_a"] = tensor.shape_a;
  json["shape_b"] = tensor.shape_b;
  return json;
}

void PrintJson(const CheckpointDiff& diff, const Checkpoint& a, const Checkpoint& b,
               std::ostream& out) {
  Json json = {{"a", JoinPath(a.folder(), a.manifest_name())},
               {"b", JoinPath(b.folder(), b.manifest_name())},
               {"same", diff.empty()},
               {"same_tensors", diff.same_tensors},
               {"facts", Json::array()},
               {"tensors", Json::array()}};
  for (const Difference& fact : diff.facts) {
    json["facts"].push_back({{"name", fact.name}, {"a", fact.theirs}, {"b", fact.ours}});
  }
  for (const TensorDifference& tensor : diff.tensors) json["tensors"].push_back(TensorJson(tensor));
  out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace

absl::StatusOr<CheckpointDiff> DiffCheckpoints(Checkpoint& a, Checkpoint& b,
                                               std::ostream* terminal) {
  CheckpointDiff diff;
  diff.facts = CompareFacts(a.manifest().facts, b.manifest().facts);
  int64_t total = 0;
  for (const ManifestTensor& tensor : a.manifest().tensors) {
    total += ElementBytes(tensor.type) * tensor.size();
  }
  ByteProgress progress(terminal, "comparing", total);
  for (const ManifestTensor& tensor : a.manifest().tensors) {
    const ManifestTensor* const other = b.manifest().FindTensor(tensor.name);
    if (other == nullptr) {
      diff.tensors.push_back(OnlyIn(Kind::kOnlyInA, tensor));
    } else if (other->shape != tensor.shape || other->type != tensor.type) {
      diff.tensors.push_back(OnlyIn(Kind::kOnlyInA, tensor));
      diff.tensors.back().kind = Kind::kShapes;
      diff.tensors.back().shape_b = other->shape;
      diff.tensors.back().type_a = tensor.type;
      diff.tensors.back().type_b = other->type;
    } else {
      ASSIGN_OR_RETURN(TensorDifference found, CompareTensor(tensor, a, b, progress));
      if (found.differing == 0) {
        ++diff.same_tensors;
      } else {
        diff.tensors.push_back(std::move(found));
      }
    }
  }
  for (const ManifestTensor& tensor : b.manifest().tensors) {
    if (a.manifest().FindTensor(tensor.name) != nullptr) continue;
    diff.tensors.push_back(OnlyIn(Kind::kOnlyInB, tensor));
  }
  std::sort(diff.tensors.begin(), diff.tensors.end(),
            [](const auto& x, const auto& y) { return x.name < y.name; });
  return diff;
}

int DiffCommand(Checkpoint& a, Checkpoint& b, bool json, std::ostream* terminal, std::ostream& out,
                std::ostream& err) {
  const absl::StatusOr<CheckpointDiff> diff = DiffCheckpoints(a, b, terminal);
  if (!diff.ok()) {
    err << "dsrun checkpoint: the comparison could not be finished: "
        << Escaped(std::string(diff.status().message()), "\n\t") << "\n";
    return kCheckpointUnreadable;
  }
  if (json) {
    PrintJson(*diff, a, b, out);
  } else {
    std::ostringstream text;  // the names in it came from files
    PrintText(*diff, a, b, text);
    out << Escaped(text.str(), "\n\t");
  }
  return diff->empty() ? kCheckpointGood : kCheckpointDamaged;
}

}  // namespace dsrun::launcher
