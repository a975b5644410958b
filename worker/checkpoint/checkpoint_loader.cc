#include "worker/checkpoint/checkpoint_loader.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/differences.h"
#include "common/base/status_macros.h"
#include "common/format/model_tensors.h"
#include "common/format/run_differences.h"
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
                               float* params, float* adam_m, float* adam_v,
                               const std::function<void()>& moved) {
  RETURN_IF_ERROR(CheckCompatible(checkpoint.manifest().facts, expectation));
  RETURN_IF_ERROR(CheckModelTensors(checkpoint.manifest())) << checkpoint.manifest_name();
  int64_t owned_elements = 0;
  for (const Range& range : owned) owned_elements += range.size();
  std::fill_n(params, layout.size(), 0.0f);
  std::fill_n(adam_m, owned_elements, 0.0f);
  std::fill_n(adam_v, owned_elements, 0.0f);
  const Range everything{0, layout.size()};
  const std::vector<TensorRange> model =
      CutAtTensors(layout, std::span(&everything, 1), Arena::kWhole);
  const std::vector<TensorRange> state = CutAtTensors(layout, owned, Arena::kCompact);
  // All at once, so that every file is opened once.
  std::vector<WantedPiece> wanted;
  RETURN_IF_ERROR(Want(checkpoint, kModelPrefix, model, params, wanted));
  RETURN_IF_ERROR(Want(checkpoint, kAdamMPrefix, state, adam_m, wanted));
  RETURN_IF_ERROR(Want(checkpoint, kAdamVPrefix, state, adam_v, wanted));
  return checkpoint.Read(wanted, moved);
}

absl::StatusOr<std::vector<float>> LoadSumExponents(Checkpoint& checkpoint) {
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
  return values;
}

}  // namespace dsrun::worker
