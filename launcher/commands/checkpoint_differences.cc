#include "launcher/commands/checkpoint_differences.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/numerics/kernels_version.h"

namespace dsrun::launcher {
namespace {

template <typename T>
void Compare(const char* name, const T& there, const T& here, std::string& list) {
  if (there == here) return;
  absl::StrAppend(&list, list.empty() ? "" : ", ", name, " ", there, " there, ", here, " here");
}

// The matrix library's own words for an --isa-cap, where they differ.
constexpr char kBaseline[] = "baseline";
constexpr char kLibraryBaseline[] = "sse41";

// The number that the fingerprint ends with; empty: it does not, and only a worker can judge it.
std::string KernelsVersionOfCheckpoint(const ManifestFacts& facts) {
  const auto kernels = facts.fingerprint.find("kernels");
  if (kernels == facts.fingerprint.end()) return "";
  const size_t at = kernels->second.rfind(kKernelsVersionWords);
  return at == std::string::npos ? ""
                                 : kernels->second.substr(at + std::strlen(kKernelsVersionWords));
}

}  // namespace

std::string IsaCapOfCheckpoint(const ManifestFacts& facts) {
  const auto kernels = facts.fingerprint.find("kernels");
  if (kernels == facts.fingerprint.end()) return "";
  const std::string library = kernels->second.substr(0, kernels->second.find(';'));
  const size_t version = library.find(' ');
  if (library.substr(0, version) != "oneDNN") return "";
  const size_t at = library.find(' ', version + 1);
  if (at == std::string::npos) return "";
  const std::string isa = library.substr(at + 1);
  return isa == kLibraryBaseline ? kBaseline : isa;
}

CheckpointDifferences CompareWithCheckpoint(const ManifestFacts& facts,
                                            const proto::TrainSpec& train,
                                            const std::string& corpus_sha256) {
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
  if (!facts.batch.corpus_sha256.empty() && !corpus_sha256.empty()) {
    curve("SHA-256 of the text (--data)", facts.batch.corpus_sha256, corpus_sha256);
  }
  if (const std::string isa = IsaCapOfCheckpoint(facts); !isa.empty()) {
    curve("instruction set of the matrix library (--isa-cap)", isa, train.isa_cap());
  }
  if (const std::string version = KernelsVersionOfCheckpoint(facts); !version.empty()) {
    curve("version of dsrun's kernels", version, std::to_string(kCpuKernelsVersion));
  }
  return out;
}

}  // namespace dsrun::launcher
