#include "worker/checkpoint/checkpoint_loader.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/differences.h"
#include "common/base/status_macros.h"
#include "common/format/frozen_in.h"
#include "common/format/model_tensors.h"
#include "common/format/run_differences.h"
#include "common/format/tensor_names.h"
#include "common/plan/slot_places.h"
#include "worker/checkpoint/slices.h"

namespace dsrun::worker {
namespace {

std::string Table(const std::vector<Difference>& differences) {
  return DifferenceTable(differences, "checkpoint", "this run");
}

absl::Status Want(const Checkpoint& checkpoint, std::string_view prefix,
                  const std::vector<TensorRange>& parts, float* arena,
                  std::vector<WantedPiece>& wanted) {
  for (const TensorRange& part : parts) {
    const std::string name = std::string(prefix) + part.tensor->name;
    const ManifestTensor* stored = checkpoint.manifest().FindTensor(name);
    if (stored == nullptr || stored->shape != part.tensor->shape) {
      return absl::FailedPreconditionError(absl::StrCat(
          name, ": expected shape [", absl::StrJoin(part.tensor->shape, ", "), "], ",
          checkpoint.manifest_name(), " has ",
          stored == nullptr ? std::string("no such tensor")
                            : absl::StrCat("[", absl::StrJoin(stored->shape, ", "), "]")));
    }
    wanted.push_back({name, part.begin, part.end, arena + part.arena_offset});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCompatible(const ManifestFacts& facts, const LoadExpectation& expectation) {
  const std::string name = ManifestName(facts.key);
  const RunDifferences found = CompareRuns(facts, expectation.model, expectation.batch,
                                           expectation.fingerprint, OurFields::kAll);
  if (!found.model.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is a checkpoint of another model:", Table(found.model),
                     "\n  give the checkpoint's sizes, or another folder to load from"));
  }
  if (found.curve.empty() || expectation.accept_differences) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(name, " cannot be continued bit for bit:", Table(found.curve),
                   "\n  restore them, or give --accept-fingerprint to go on with another curve"));
}

absl::Status LoadModelAndState(Checkpoint& checkpoint, const LoadExpectation& expectation,
                               const FlatLayout& layout, std::span<const Range> owned,
                               float* params, const OptimizerPlan& optimizer,
                               std::span<float* const> slots, const std::function<void()>& moved,
                               const std::vector<Range>* stored) {
  RETURN_IF_ERROR(CheckCompatible(checkpoint.manifest().facts, expectation));
  RETURN_IF_ERROR(CheckOptimizer(checkpoint.manifest().facts.optimizer, std::string(optimizer.name),
                                 SlotNames(optimizer)))
      << checkpoint.manifest_name();
  RETURN_IF_ERROR(CheckModelTensors(checkpoint.manifest())) << checkpoint.manifest_name();
  const std::vector<Range> whole = {{0, layout.size()}};
  const std::vector<Range>& kept = stored != nullptr ? *stored : whole;
  int64_t kept_elements = 0;
  for (const Range& range : kept) kept_elements += range.size();
  std::fill_n(params, kept_elements, 0.0f);
  const std::vector<TensorRange> model = CutAtTensors(layout, kept, Arena::kCompact);
  const std::set<std::string> frozen = FrozenIn(checkpoint.manifest());
  // All at once, so that every file is opened once.
  std::vector<WantedPiece> wanted;
  RETURN_IF_ERROR(Want(checkpoint, kModelPrefix, model, params, wanted));
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    const std::string prefix =
        absl::StrCat(std::string(kStatePrefix), std::string(optimizer.slots[slot].name), "/");
    const std::vector<Range> with_slot = PartsWithSlot(
        layout, optimizer.slots[slot], std::vector<Range>(owned.begin(), owned.end()));
    int64_t elements = 0;
    for (const Range& range : with_slot) elements += range.size();
    std::fill_n(slots[slot], elements, 0.0f);
    std::vector<TensorRange> trained;  // in the checkpoint, too
    for (const TensorRange& part : CutAtTensors(layout, with_slot, Arena::kCompact)) {
      if (!frozen.contains(part.tensor->name)) trained.push_back(part);
    }
    RETURN_IF_ERROR(Want(checkpoint, prefix, trained, slots[slot], wanted));
  }
  return checkpoint.Read(wanted, moved);
}

absl::StatusOr<std::vector<float>> LoadSumExponents(Checkpoint& checkpoint,
                                                    const std::vector<LogicalTensor>& tensors,
                                                    const FlatLayout& layout, float new_value) {
  const std::string name(kSumExponents);
  const ManifestTensor* const stored = checkpoint.manifest().FindTensor(name);
  if (stored == nullptr) return std::vector<float>();
  if (stored->shape.size() != 1) {
    return absl::FailedPreconditionError(absl::StrCat(name, ": expected a list, ",
                                                      checkpoint.manifest_name(), " has ",
                                                      stored->shape.size(), " dimensions"));
  }
  std::vector<float> values(static_cast<size_t>(stored->size()));
  RETURN_IF_ERROR(checkpoint.ReadRange(name, 0, stored->size(), values.data()));
  const std::set<std::string> frozen = FrozenIn(checkpoint.manifest());
  std::map<std::string, size_t> places;  // of those that were trained, in the model's order
  for (const LogicalTensor& tensor : tensors) {
    if (frozen.contains(tensor.name)) continue;
    places.emplace(tensor.name, places.size());
  }
  if (places.size() != values.size()) {
    return absl::FailedPreconditionError(absl::StrCat(name, ": expected ", places.size(),
                                                      " numbers, ", checkpoint.manifest_name(),
                                                      " has ", values.size()));
  }
  std::vector<float> wanted;
  for (size_t index = 0; index < layout.trainable_count(); ++index) {
    const auto place = places.find(layout.entries()[index].tensor.name);
    wanted.push_back(place == places.end() ? new_value : values[place->second]);
  }
  return wanted;
}

}  // namespace dsrun::worker
