#include "common/format/run_differences.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/model/spec_fields.h"

namespace dsrun {
namespace {

template <typename T>
void Compare(const char* name, const T& theirs, const T& ours, std::vector<Difference>& found) {
  if (theirs != ours) found.push_back({name, std::to_string(theirs), std::to_string(ours)});
}

// "sgd with state momentum_buffer", "sgd without state".
std::string Named(const std::string& name, const std::vector<std::string>& slots) {
  return absl::StrCat(name, slots.empty()
                                ? " without state"
                                : absl::StrCat(" with state ", absl::StrJoin(slots, ", ")));
}

}  // namespace

RunDifferences CompareRuns(const ManifestFacts& theirs, const ModelSpec& model,
                           const BatchFacts& batch, const NumericsFingerprint& fingerprint,
                           OurFields known) {
  RunDifferences out;
  Compare("num-layers", theirs.model.num_layers, model.num_layers, out.model);
  Compare("hidden-size", theirs.model.hidden_size, model.hidden_size, out.model);
  Compare("num-attention-heads", theirs.model.num_attention_heads, model.num_attention_heads,
          out.model);
  Compare("seq-length", theirs.model.seq_length, model.seq_length, out.model);
  Compare("vocab-size", theirs.model.vocab_size, model.vocab_size, out.model);

  // Of a family that is not planned here sizes say little: its name stands for what it is made of.
  if (!IsPlannedFamily(model.family) && theirs.model.preset != model.preset) {
    out.model.push_back({"name", theirs.model.preset, model.preset});
  }
  for (const SpecField& field : FamilyFields()) {
    if (SameValue(field, theirs.model, model)) continue;
    out.model.push_back({DashedName(field), TextOf(field, theirs.model), TextOf(field, model)});
  }

  Compare("global-batch-size", theirs.batch.global_batch_size, batch.global_batch_size, out.curve);
  Compare("micro-batch-size", theirs.batch.micro_batch_size, batch.micro_batch_size, out.curve);
  Compare("seed", theirs.batch.seed, batch.seed, out.curve);
  const std::string &their_text = theirs.batch.corpus_sha256, &text = batch.corpus_sha256;
  if (!their_text.empty() && !text.empty() && their_text != text) {
    out.curve.push_back({"SHA-256 of the text (--data)", their_text, text});
  }
  for (Difference& difference : CompareFingerprints(theirs.fingerprint, fingerprint, known)) {
    out.curve.push_back(std::move(difference));
  }
  return out;
}

absl::Status CheckOptimizer(const OptimizerFacts& theirs, const std::string& name,
                            const std::vector<std::string>& slots) {
  if (theirs.name == name && theirs.slots == slots) return absl::OkStatus();
  const bool same = theirs.name == name;
  return absl::FailedPreconditionError(
      absl::StrCat("it holds the state of another optimizer: expected ", Named(name, slots),
                   " (this run), got ", Named(theirs.name, theirs.slots), "; give ",
                   same ? "the parameters that it was trained with (--optimizer-param)"
                        : absl::StrCat("--optimizer ", theirs.name)));
}

}  // namespace dsrun
