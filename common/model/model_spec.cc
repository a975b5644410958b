#include "common/model/model_spec.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/model/spec_fields.h"

namespace dsrun {
namespace {

// Beyond it plans of layouts would take longer than anybody waits.
constexpr double kMostParameters = 1e13;
constexpr double kMostActivations = 1e16;

class Checker {
 public:
  explicit Checker(const ModelSpec& spec) : spec_(spec) {}

  absl::Status Check() {
    Sizes();
    if (spec_.family == "gpt2") {
      NothingOfOthers();
    } else if (spec_.family == "llama") {
      Rotating();
    } else {
      Add(absl::StrCat("there is no family \"", spec_.family, "\" of models",
                       spec_.family == kOwnFamily
                           ? ": a model of one's own is trained by the program that declares it"
                           : ""));
    }
    if (findings_.empty()) Total();
    if (findings_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(findings_, "; "));
  }

 private:
  void Add(std::string finding) { findings_.push_back(std::move(finding)); }
  void Size(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value < least) {
      Add(absl::StrCat(name, " must be at least ", least, ", got ", value));
    } else if (value > most) {
      Add(absl::StrCat(name, " must be at most ", most, ", got ", value));
    }
  }
  // (least, most].
  void Real(const char* name, double value, double least, double most) {
    if (!(value > least && value <= most)) {
      Add(absl::StrCat(name, " must be above ", least, " and at most ", most, ", got ", value));
    }
  }
  void Sizes();
  void NothingOfOthers();
  void Rotating();
  void Scaling();
  void Total();

  const ModelSpec& spec_;
  std::vector<std::string> findings_;
};

void Checker::Sizes() {
  Size("num-layers", spec_.num_layers, 1, 10'000);
  Size("hidden-size", spec_.hidden_size, 1, 1'000'000);
  Size("num-attention-heads", spec_.num_attention_heads, 1, 100'000);
  Size("seq-length", spec_.seq_length, 1, 10'000'000);
  Size("vocab-size", spec_.vocab_size, 2, 100'000'000);
  if (findings_.empty() && spec_.head_channels == 0 &&
      spec_.hidden_size % spec_.num_attention_heads != 0) {
    Add(absl::StrCat("hidden-size ", spec_.hidden_size,
                     " is not a multiple of num-attention-heads ", spec_.num_attention_heads));
  }
}

void Checker::NothingOfOthers() {
  ModelSpec plain;
  plain.family = spec_.family;
  for (const SpecField& field : FamilyFields()) {
    if (SameValue(field, spec_, plain)) continue;
    Add(absl::StrCat("models of the family ", spec_.family, " have no ", DashedName(field),
                     ", got ", TextOf(field, spec_)));
  }
}

void Checker::Rotating() {
  Size("num-query-groups", spec_.query_groups, 0, 100'000);
  Size("kv-channels", spec_.head_channels, 0, 100'000);
  Size("ffn-hidden-size", spec_.ffn_hidden_size, 1, 10'000'000);
  Size("window-size", spec_.window, 0, 10'000'000);
  Real("norm-epsilon", spec_.norm_epsilon, 1e-30, 1);  // below, it is 0 in fp32
  Real("rotary-base", spec_.rope_base, 1, 1e15);
  if (findings_.empty() && spec_.num_attention_heads % spec_.heads_of_keys() != 0) {
    Add(absl::StrCat("num-attention-heads ", spec_.num_attention_heads,
                     " is not a multiple of num-query-groups ", spec_.query_groups));
  }
  if (findings_.empty() && spec_.head_size() % 2 != 0) {
    Add(absl::StrCat("a head must have an even width to be rotated, got ", spec_.head_size(),
                     " (kv-channels)"));
  }
  Scaling();
}

void Checker::Scaling() {
  const bool by_turns = spec_.rope_scaling == "llama3" || spec_.rope_scaling == "yarn";
  if (!by_turns && spec_.rope_scaling != "linear" && !spec_.rope_scaling.empty()) {
    Add(absl::StrCat("rope-scaling must be linear, llama3 or yarn, got \"", spec_.rope_scaling,
                     "\""));
    return;
  }
  if (spec_.rope_scaling.empty() != (spec_.rope_factor == 0)) {
    Add(absl::StrCat("rope-scaling and rope-scaling-factor belong together, got \"",
                     spec_.rope_scaling, "\" and ", spec_.rope_factor));
  } else if (!spec_.rope_scaling.empty()) {
    if (!(spec_.rope_factor >= 1 && spec_.rope_factor <= 1e6)) {
      Add(absl::StrCat("rope-scaling-factor must be at least 1 and at most 1e6, got ",
                       spec_.rope_factor));
    }
  }
  if (by_turns) {
    Size("rope-original-length", spec_.rope_original_length, 1, 10'000'000);
    Real("rope-low-turns", spec_.rope_low_turns, 0, 1e6);
    Real("rope-high-turns", spec_.rope_high_turns, spec_.rope_low_turns, 1e6);
  } else if (spec_.rope_original_length != 0 || spec_.rope_low_turns != 0 ||
             spec_.rope_high_turns != 0) {
    Add("rope-original-length, rope-low-turns and rope-high-turns belong to the rope-scaling "
        "llama3 and yarn alone");
  }
  if (spec_.rope_magnitude != 0 && spec_.rope_scaling != "yarn") {
    Add("rope-magnitude belongs to the rope-scaling yarn alone");
  } else if (spec_.rope_magnitude != 0) {
    Real("rope-magnitude", spec_.rope_magnitude, 0, 1e6);
  }
}

// About, and the same for all families where they have the same sizes.
void Checker::Total() {
  const double width = static_cast<double>(spec_.hidden_size);
  double block = 12 * width * width;
  double row = 16 * width;  // of activations, in one block
  if (spec_.ffn_hidden_size > 0) {
    const double heads = 2 *
                         static_cast<double>(spec_.num_attention_heads + spec_.heads_of_keys()) *
                         static_cast<double>(spec_.head_size());
    block = width * (heads + 3 * static_cast<double>(spec_.ffn_hidden_size));
    row += 2 * heads + 6 * static_cast<double>(spec_.ffn_hidden_size);
  }
  const double parameters =
      block * static_cast<double>(spec_.num_layers) + width * static_cast<double>(spec_.vocab_size);
  if (parameters > kMostParameters) {
    Add(absl::StrCat("num-layers ", spec_.num_layers, " of hidden-size ", spec_.hidden_size,
                     " would have ", parameters, " parameters; at most ", kMostParameters,
                     " are planned for"));
  }
  // One sequence's: what plans count in bytes stays far inside of 64 bits.
  const double activations =
      row * static_cast<double>(spec_.num_layers) * static_cast<double>(spec_.seq_length);
  if (activations > kMostActivations) {
    Add(absl::StrCat("seq-length ", spec_.seq_length, " in num-layers ", spec_.num_layers,
                     " would keep ", activations, " numbers of one sequence; at most ",
                     kMostActivations, " are planned for"));
  }
}

}  // namespace

bool IsPlannedFamily(const std::string& family) { return family == "gpt2" || family == "llama"; }

ModelSpec Canonical(ModelSpec spec) {
  if (spec.query_groups == spec.num_attention_heads) spec.query_groups = 0;
  if (spec.num_attention_heads > 0 &&
      spec.head_channels * spec.num_attention_heads == spec.hidden_size) {
    spec.head_channels = 0;
  }
  return spec;
}

absl::Status Validate(const ModelSpec& spec) { return Checker(spec).Check(); }

}  // namespace dsrun
