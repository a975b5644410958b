#include "common/model/model_spec.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dsrun {

absl::Status Validate(const ModelSpec& spec) {
  std::vector<std::string> findings;
  const auto at_least = [&](int64_t least, const char* name, int64_t value) {
    if (value >= least) return;
    findings.push_back(absl::StrCat(name, " must be at least ", least, ", got ", value));
  };
  at_least(1, "num-layers", spec.num_layers);
  at_least(1, "hidden-size", spec.hidden_size);
  at_least(1, "num-attention-heads", spec.num_attention_heads);
  at_least(1, "seq-length", spec.seq_length);
  at_least(2, "vocab-size", spec.vocab_size);
  if (findings.empty() && spec.hidden_size % spec.num_attention_heads != 0) {
    findings.push_back(absl::StrCat("hidden-size ", spec.hidden_size,
                                    " is not a multiple of num-attention-heads ",
                                    spec.num_attention_heads));
  }
  if (findings.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(findings, "; "));
}

}  // namespace dsrun
