#include "common/model/model_spec.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dsrun {
namespace {

// Beyond it plans of layouts would take longer than anybody waits.
constexpr double kMostParameters = 1e13;

}  // namespace

absl::Status Validate(const ModelSpec& spec) {
  std::vector<std::string> findings;
  const auto check = [&](const char* name, int64_t value, int64_t least, int64_t most) {
    if (value < least) {
      findings.push_back(absl::StrCat(name, " must be at least ", least, ", got ", value));
    } else if (value > most) {
      findings.push_back(absl::StrCat(name, " must be at most ", most, ", got ", value));
    }
  };
  check("num-layers", spec.num_layers, 1, 100'000);
  check("hidden-size", spec.hidden_size, 1, 1'000'000);
  check("num-attention-heads", spec.num_attention_heads, 1, 100'000);
  check("seq-length", spec.seq_length, 1, 10'000'000);
  check("vocab-size", spec.vocab_size, 2, 100'000'000);
  if (findings.empty() && spec.hidden_size % spec.num_attention_heads != 0) {
    findings.push_back(absl::StrCat("hidden-size ", spec.hidden_size,
                                    " is not a multiple of num-attention-heads ",
                                    spec.num_attention_heads));
  }
  const double width = static_cast<double>(spec.hidden_size);
  const double parameters = 12 * width * width * static_cast<double>(spec.num_layers) +
                            width * static_cast<double>(spec.vocab_size);
  if (findings.empty() && parameters > kMostParameters) {
    findings.push_back(absl::StrCat("num-layers ", spec.num_layers, " of hidden-size ",
                                    spec.hidden_size, " would have ", parameters,
                                    " parameters; at most ", kMostParameters, " are planned for"));
  }
  if (findings.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(findings, "; "));
}

}  // namespace dsrun
