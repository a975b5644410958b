#include "worker/checkpoint/checkpoint_loader.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/slices.h"

namespace dsrun::worker {
namespace {

// Collects "name: the checkpoint has A, this run B".
class Differences {
 public:
  template <typename T>
  void Compare(const std::string& name, const T& theirs, const T& ours) {
    if (theirs == ours) return;
    lines_.push_back(absl::StrCat(name, ": the checkpoint has ", theirs, ", this run ", ours));
  }
  bool empty() const { return lines_.empty(); }
  std::string Text() const { return absl::StrJoin(lines_, "; "); }

 private:
  std::vector<std::string> lines_;
};

Differences CompareModels(const ModelSpec& theirs, const ModelSpec& ours) {
  Differences found;
  found.Compare("num_layers", theirs.num_layers, ours.num_layers);
  found.Compare("hidden_size", theirs.hidden_size, ours.hidden_size);
  found.Compare("num_attention_heads", theirs.num_attention_heads, ours.num_attention_heads);
  found.Compare("seq_length", theirs.seq_length, ours.seq_length);
  found.Compare("vocab_size", theirs.vocab_size, ours.vocab_size);
  return found;
}

Differences CompareCurves(const ManifestFacts& facts, const LoadExpectation& expectation) {
  Differences found;
  const BatchFacts& theirs = facts.batch;
  const BatchFacts& ours = expectation.batch;
  found.Compare("global batch", theirs.global_batch_size, ours.global_batch_size);
  found.Compare("micro batch", theirs.micro_batch_size, ours.micro_batch_size);
  found.Compare("canonical blocks", theirs.canonical_blocks, ours.canonical_blocks);
  found.Compare("seed", theirs.seed, ours.seed);
  if (!theirs.corpus_sha256.empty() && !ours.corpus_sha256.empty()) {
    found.Compare("SHA-256 of the training text", theirs.corpus_sha256, ours.corpus_sha256);
  }
  std::set<std::string> keys;
  for (const auto& [key, value] : facts.fingerprint) keys.insert(key);
  for (const auto& [key, value] : expectation.fingerprint) keys.insert(key);
  const auto quoted = [](const NumericsFingerprint& map, const std::string& key) -> std::string {
    const auto at = map.find(key);
    return at == map.end() ? "nothing" : absl::StrCat("\"", at->second, "\"");
  };
  for (const std::string& key : keys) {
    found.Compare(absl::StrCat("numerics fingerprint, ", key), quoted(facts.fingerprint, key),
                  quoted(expectation.fingerprint, key));
  }
  return found;
}

absl::Status ReadParts(Checkpoint& checkpoint, std::string_view prefix,
                       const std::vector<TensorRange>& parts, float* arena) {
  for (const TensorRange& part : parts) {
    const std::string name = std::string(prefix) + part.tensor->name;
    const ManifestTensor* stored = checkpoint.manifest().FindTensor(name);
    if (stored != nullptr && stored->shape != part.tensor->shape) {
      return absl::DataLossError(absl::StrCat(
          name, ": expected shape [", absl::StrJoin(part.tensor->shape, ", "), "], ",
          checkpoint.manifest_name(), " has [", absl::StrJoin(stored->shape, ", "), "]"));
    }
    RETURN_IF_ERROR(checkpoint.ReadRange(name, part.begin, part.end, arena + part.arena_offset));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCompatible(const ManifestFacts& facts, const LoadExpectation& expectation) {
  const std::string name = ManifestName(facts.key);
  const Differences model = CompareModels(facts.model, expectation.model);
  if (!model.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is a checkpoint of another model: ", model.Text(),
                     "; give the checkpoint's sizes, or another folder to load from"));
  }
  const Differences curve = CompareCurves(facts, expectation);
  if (curve.empty() || expectation.accept_differences) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(name, " cannot be continued bit for bit: ", curve.Text(),
                   "; restore them, or give --accept-fingerprint to go on with another curve"));
}

absl::Status LoadModelAndState(Checkpoint& checkpoint, const LoadExpectation& expectation,
                               const FlatLayout& layout, std::span<const Range> owned,
                               float* params, float* adam_m, float* adam_v) {
  RETURN_IF_ERROR(CheckCompatible(checkpoint.manifest().facts, expectation));
  int64_t owned_elements = 0;
  for (const Range& range : owned) owned_elements += range.size();
  std::fill_n(params, layout.size(), 0.0f);
  std::fill_n(adam_m, owned_elements, 0.0f);
  std::fill_n(adam_v, owned_elements, 0.0f);
  const Range everything{0, layout.size()};
  RETURN_IF_ERROR(ReadParts(checkpoint, kModelPrefix,
                            CutAtTensors(layout, std::span(&everything, 1), Arena::kWhole),
                            params));
  const std::vector<TensorRange> state = CutAtTensors(layout, owned, Arena::kCompact);
  RETURN_IF_ERROR(ReadParts(checkpoint, kAdamMPrefix, state, adam_m));
  return ReadParts(checkpoint, kAdamVPrefix, state, adam_v);
}

}  // namespace dsrun::worker
