#include "common/format/model_tensors.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/format/element_values.h"
#include "common/format/tensor_names.h"
#include "common/model/model_plan.h"
#include "common/numerics/fingerprint.h"
#include "common/numerics/loss_scaler.h"
#include "common/numerics/precision.h"

namespace dsrun {
namespace {

constexpr std::string_view kMuon = "muon";
constexpr std::string_view kSecondMoment = "state/exp_avg_sq";

using Shape = std::vector<int64_t>;
using Shapes = std::map<std::string, Shape, std::less<>>;

absl::Status Bad(const std::string& what) {
  return absl::FailedPreconditionError(
      absl::StrCat("it contradicts the model that it names: ", what));
}

std::string Words(const Shape& shape) { return absl::StrCat("(", absl::StrJoin(shape, ", "), ")"); }

absl::Status CheckOne(const ManifestTensor& tensor, const Shape& expected) {
  if (tensor.shape != expected) {
    return Bad(absl::StrCat(tensor.name, ": expected shape ", Words(expected), ", got ",
                            Words(tensor.shape)));
  }
  if (IsExactAsF32(tensor.type)) return absl::OkStatus();
  return Bad(
      absl::StrCat(tensor.name, ": expected F32, BF16 or F16, got ", ElementTypeName(tensor.type)));
}

// Of the tensors in `slot` ("model", "state/exp_avg"), the parameter; empty: it is in none.
struct Place {
  std::string_view slot;
  std::string_view parameter;
};
Place PlaceOf(std::string_view name) {
  size_t slash = std::string_view::npos;
  if (name.starts_with(kModelPrefix)) slash = kModelPrefix.size() - 1;
  if (name.starts_with(kStatePrefix)) slash = name.find('/', kStatePrefix.size());
  if (slash == std::string_view::npos) return {};
  return {name.substr(0, slash), name.substr(slash + 1)};
}

// Of a family that is not planned here its own parameters are all that is known: the rest is held
// against them.
absl::StatusOr<Shapes> ShapesThatAreThere(const Manifest& manifest) {
  Shapes shapes;
  for (const ManifestTensor& tensor : manifest.tensors) {
    const Place place = PlaceOf(tensor.name);
    if (place.slot == "model") shapes.emplace(place.parameter, tensor.shape);
  }
  if (!shapes.empty()) return shapes;
  return Bad(absl::StrCat("expected parameters of a model of the family \"",
                          manifest.facts.model.family, "\", got none"));
}

absl::StatusOr<Shapes> ShapesOfModel(const Manifest& manifest) {
  const ModelSpec& spec = manifest.facts.model;
  if (!IsPlannedFamily(spec.family)) return ShapesThatAreThere(manifest);
  if (const absl::Status valid = Validate(spec); !valid.ok()) {
    return Bad(std::string(valid.message()));
  }
  // Every layer has tensors: what is not listed need not be computed.
  if (spec.num_layers > static_cast<int64_t>(manifest.tensors.size())) {
    return Bad(absl::StrCat("expected the tensors of ", spec.num_layers, " layers, got ",
                            manifest.tensors.size(), " tensors"));
  }
  Shapes shapes;
  for (const LogicalTensor& tensor : LogicalTensors(spec)) shapes[tensor.name] = tensor.shape;
  return shapes;
}

using Slots = std::map<std::string, std::set<std::string>>;

// Parameters that are not frozen: an optimizer keeps something for them, or nothing for any.
std::set<std::string> Trained(const OptimizerFacts& optimizer, const Shapes& shapes,
                              const Slots& slots) {
  std::set<std::string> trained;
  if (optimizer.slots.empty()) {
    for (const auto& [parameter, shape] : shapes) trained.insert(parameter);
    for (const std::string& parameter : optimizer.frozen) trained.erase(parameter);
  }
  for (const auto& [slot, parameters] : slots) {
    if (slot != "model") trained.insert(parameters.begin(), parameters.end());
  }
  return trained;
}

// Parameters that an optimizer keeps less for: of Muon the hidden matrices, of which it has the
// momentum alone (common/plan/slot_places.h says the same to who trains).
std::set<std::string> WithoutSecondMoment(const Manifest& manifest) {
  std::set<std::string> without;
  if (manifest.facts.optimizer.name != kMuon || !IsPlannedFamily(manifest.facts.model.family)) {
    return without;
  }
  for (const LogicalTensor& tensor : LogicalTensors(manifest.facts.model)) {
    if (tensor.hidden_matrix) without.insert(tensor.name);
  }
  return without;
}

// The optimizer that is named, and what it keeps. AdamW need not be named: then the tensors say it.
absl::Status CheckOptimizerFacts(const OptimizerFacts& optimizer, const Shapes& shapes,
                                 const Slots& slots, const std::set<std::string>& without_second) {
  for (const std::string& parameter : optimizer.frozen) {
    if (shapes.contains(parameter) && optimizer.slots.empty()) continue;
    return Bad(absl::StrCat("its optimizer ", optimizer.name, " has \"", parameter,
                            "\" as a frozen tensor, ",
                            optimizer.slots.empty() ? "which the model has not"
                                                    : "which the absence of slots says already"));
  }
  if (optimizer == OptimizerFacts()) return absl::OkStatus();
  std::set<std::string> expected, got;
  for (const std::string& slot : optimizer.slots) {
    expected.insert(absl::StrCat(std::string(kStatePrefix), slot));
  }
  for (const auto& [slot, parameters] : slots) {
    if (slot != "model") got.insert(slot);
  }
  // Nobody may have a second moment, where hidden matrices alone were trained.
  const bool second = std::any_of(slots.begin(), slots.end(), [&](const auto& slot) {
    return slot.first != "model" && !std::includes(without_second.begin(), without_second.end(),
                                                   slot.second.begin(), slot.second.end());
  });
  if (!second && !without_second.empty()) expected.erase(std::string(kSecondMoment));
  if (got == expected) return absl::OkStatus();
  return Bad(absl::StrCat("expected the slots of its optimizer ", optimizer.name, " (",
                          absl::StrJoin(expected, ", "), "), got (", absl::StrJoin(got, ", "),
                          ")"));
}

absl::Status CheckSlots(const Shapes& shapes, const Slots& slots,
                        const std::set<std::string>& trained,
                        const std::set<std::string>& without_second) {
  for (const auto& [parameter, shape] : shapes) {
    const auto model = slots.find("model");
    if (model == slots.end() || !model->second.contains(parameter)) {
      return Bad(absl::StrCat("model/", parameter, ": expected shape ", Words(shape),
                              ", got no such tensor"));
    }
  }
  for (const auto& [slot, parameters] : slots) {
    if (slot == "model") continue;
    const bool second = slot == kSecondMoment;
    for (const std::string& parameter : trained) {
      const bool none = second && without_second.contains(parameter);
      if (none && parameters.contains(parameter)) {
        return Bad(absl::StrCat(slot, "/", parameter,
                                ": expected no such tensor, as the optimizer ", std::string(kMuon),
                                " has none of a hidden matrix"));
      }
      if (none || parameters.contains(parameter)) continue;
      return Bad(absl::StrCat(slot, "/", parameter, ": expected shape ",
                              Words(shapes.find(parameter)->second), ", got no such tensor"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExponents(const Manifest& manifest, size_t parameters) {
  if (manifest.facts.fingerprint.sums != kExactSums) return absl::OkStatus();
  const std::string name(kSumExponents);
  const Shape expected = {static_cast<int64_t>(parameters)};
  const ManifestTensor* const found = manifest.FindTensor(name);
  if (found != nullptr) return CheckOne(*found, expected);
  return Bad(absl::StrCat(name, ": expected shape ", Words(expected), ", because its sums are \"",
                          std::string(kExactSums), "\", got no such tensor"));
}

absl::Status CheckLossScaleOf(const Manifest& manifest) {
  if (manifest.facts.fingerprint.precision != PrecisionName(DType::kF16)) return absl::OkStatus();
  const std::string name(kLossScale);
  const Shape expected = {kLossScaleValues};
  const ManifestTensor* const found = manifest.FindTensor(name);
  if (found != nullptr) return CheckOne(*found, expected);
  return Bad(absl::StrCat(name, ": expected shape ", Words(expected),
                          ", because it computes in fp16, got no such tensor"));
}

}  // namespace

absl::Status CheckModelTensors(const Manifest& manifest) {
  ASSIGN_OR_RETURN(const Shapes shapes, ShapesOfModel(manifest));
  Slots slots;
  for (const ManifestTensor& tensor : manifest.tensors) {
    const Place place = PlaceOf(tensor.name);
    if (place.slot.empty()) continue;
    const auto expected = shapes.find(place.parameter);
    if (expected == shapes.end()) {
      return Bad(absl::StrCat(tensor.name, ": expected no such tensor, got one of shape ",
                              Words(tensor.shape)));
    }
    RETURN_IF_ERROR(CheckOne(tensor, expected->second));
    slots[std::string(place.slot)].insert(std::string(place.parameter));
  }
  const OptimizerFacts& optimizer = manifest.facts.optimizer;
  const std::set<std::string> without_second = WithoutSecondMoment(manifest);
  RETURN_IF_ERROR(CheckOptimizerFacts(optimizer, shapes, slots, without_second));
  const std::set<std::string> trained = Trained(optimizer, shapes, slots);
  RETURN_IF_ERROR(CheckSlots(shapes, slots, trained, without_second));
  RETURN_IF_ERROR(CheckExponents(manifest, trained.size()));
  return CheckLossScaleOf(manifest);
}

}  // namespace dsrun
