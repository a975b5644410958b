#include "tests/worker/checkpoint/training_state.h"

#include <algorithm>
#include <cstring>

#include "common/base/philox.h"
#include "common/base/status_macros.h"
#include "common/format/save_folder.h"
#include "common/model/model_plan.h"

namespace dsrun::worker {
namespace {

ModelSpec SmallModel() {
  ModelSpec model;
  model.preset = "small";
  model.num_layers = 1;
  model.hidden_size = 32;
  model.num_attention_heads = 2;
  model.seq_length = 16;
  model.vocab_size = 100;
  return model;
}

std::vector<float> OwnedOf(const std::vector<float>& arena, const std::vector<Range>& owned) {
  std::vector<float> compact;
  for (const Range& range : owned) {
    compact.insert(compact.end(), arena.begin() + range.begin, arena.begin() + range.end);
  }
  return compact;
}

}  // namespace

TrainingState::TrainingState() : TrainingState(SmallModel()) {}

TrainingState::TrainingState(const ModelSpec& model)
    : model_(model), layout_(LogicalTensors(model_)) {}

const std::vector<float>& TrainingState::Arena(std::string_view prefix, Step step) const {
  std::vector<float>& arena = arenas_[{std::string(prefix), step}];
  if (!arena.empty()) return arena;
  arena.resize(static_cast<size_t>(layout_.size()), 0.0f);
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    for (int64_t i = 0; i < entry.tensor.size(); ++i) {
      // Any bits but those of NaN, which no comparison would find equal.
      const uint64_t index = static_cast<uint64_t>(entry.offset + i);
      const PhiloxBlock bits =
          RandomAt(static_cast<uint64_t>(step.value()), RandomPurpose::kInitialisation,
                   static_cast<uint32_t>(prefix.size()), index);
      arena[static_cast<size_t>(entry.offset + i)] = RandomUnitFloat(bits[0]) - 0.5f;
    }
  }
  return arena;
}

ManifestFacts TrainingState::Facts(const std::string& job_id, Step step,
                                   Generation generation) const {
  ManifestFacts facts;
  facts.job_id = job_id;
  facts.incarnation = Incarnation(7);
  facts.key.step = step;
  facts.key.generation = generation;
  facts.counters = {step.value() * 8, step.value()};
  facts.model = model_;
  facts.batch = {8, 2, 1234, ""};
  facts.fingerprint.library = "oneDNN";
  facts.fingerprint.library_version = "2.6.3";
  facts.fingerprint.isa = "avx2";
  facts.fingerprint.sums = std::string(kFastSums);  // the state has no exponents
  facts.fingerprint.micro_batches_per_atom = 1;
  return facts;
}

LoadExpectation TrainingState::Expectation() const {
  const ManifestFacts facts = Facts("any", Step(0), Generation(0));
  return {facts.model, facts.batch, facts.fingerprint, /*accept_differences=*/false};
}

absl::Status BeginJob(FileSystem& fs, const std::string& folder, const std::string& job_id) {
  if (CheckSaveFolder(fs, folder, job_id).ok()) return absl::OkStatus();
  RETURN_IF_ERROR(fs.CreateFolder(folder));
  return AdoptSaveFolder(fs, folder, job_id);
}

std::vector<Slice> SlicesOfRank(const TrainingState& state, const SaveOptions& options,
                                int64_t rank, std::vector<std::vector<float>>& memory) {
  const ShardPlan plan(state.layout(), options.width, options.bucket_bytes);
  const std::vector<Range>& owned = plan.Owned(rank);
  std::vector<Slice> slices;
  for (const std::string_view prefix : {kModelPrefix, kExpAvgPrefix, kExpAvgSqPrefix}) {
    memory.push_back(OwnedOf(state.Arena(prefix, options.step), owned));
    const std::vector<Slice> more =
        SlicesOf(state.layout(), owned, prefix, Arena::kCompact, memory.back().data());
    slices.insert(slices.end(), more.begin(), more.end());
  }
  return slices;
}

absl::StatusOr<ShardRecord> SaveRank(FileSystem& fs, const std::string& folder,
                                     const TrainingState& state, const SaveOptions& options,
                                     int64_t rank) {
  if (!options.has_begun) {
    RETURN_IF_ERROR(BeginJob(fs, folder, options.job_id));
  }
  std::vector<std::vector<float>> memory;
  const std::vector<Slice> slices = SlicesOfRank(state, options, rank, memory);
  const ShardId id{options.job_id,
                   {options.step, options.generation,
                    Incarnation(options.first_incarnation + static_cast<uint64_t>(rank)),
                    Rank(static_cast<int32_t>(rank))}};
  LayoutRecipe recipe = RecipeOf(state.layout(), kAdamW, options.width, options.bucket_bytes);
  recipe.singles.clear();  // this state has none
  return WriteShard(fs, folder, id, slices, options.listed ? nullptr : &recipe);
}

absl::StatusOr<std::string> Save(FileSystem& fs, const std::string& folder,
                                 const TrainingState& state, const SaveOptions& options) {
  std::vector<ShardRecord> records;
  absl::Status failure;
  for (int64_t rank = 0; rank < options.width; ++rank) {
    absl::StatusOr<ShardRecord> record = SaveRank(fs, folder, state, options, rank);
    if (!record.ok()) {
      failure.Update(record.status());
      continue;
    }
    // Over the wire and back.
    ASSIGN_OR_RETURN(ShardRecord received, ShardRecord::Parse(record->Serialize()));
    records.push_back(std::move(received));
  }
  absl::StatusOr<std::string> manifest =
      failure.ok()
          ? CommitManifest(fs, folder,
                           state.Facts(options.job_id, options.step, options.generation), records)
          : failure;
  if (!MayBeCommitted(manifest.status())) {
    for (const ShardRecord& record : records) RemoveShard(fs, folder, record).IgnoreError();
  }
  return manifest;
}

}  // namespace dsrun::worker
