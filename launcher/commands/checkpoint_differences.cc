#include "launcher/commands/checkpoint_differences.h"

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {
namespace {

template <typename T>
void Compare(const char* name, const T& there, const T& here, std::string& list) {
  if (there == here) return;
  absl::StrAppend(&list, list.empty() ? "" : ", ", name, " ", there, " there, ", here, " here");
}

}  // namespace

CheckpointDifferences CompareWithCheckpoint(const ManifestFacts& facts,
                                            const proto::TrainSpec& train) {
  CheckpointDifferences out;
  const auto model = [&](const char* name, int64_t there, int64_t here) {
    Compare(name, there, here, out.model);
  };
  model("num-layers", facts.model.num_layers, train.model().num_layers());
  model("hidden-size", facts.model.hidden_size, train.model().hidden_size());
  model("num-attention-heads", facts.model.num_attention_heads,
        train.model().num_attention_heads());
  model("seq-length", facts.model.seq_length, train.model().seq_length());
  model("vocab-size", facts.model.vocab_size, train.model().vocab_size());

  const auto curve = [&](const char* name, auto there, auto here) {
    Compare<decltype(there)>(name, there, here, out.curve);
  };
  curve("global-batch-size", facts.batch.global_batch_size, train.global_batch_size());
  curve("micro-batch-size", facts.batch.micro_batch_size, train.micro_batch_size());
  curve("canonical-blocks", facts.batch.canonical_blocks, train.canonical_blocks());
  curve("seed", facts.batch.seed, train.seed());
  return out;
}

}  // namespace dsrun::launcher
