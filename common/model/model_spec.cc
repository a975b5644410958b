#include "common/model/model_spec.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dsrun {
namespace {

struct Preset {
  ModelSpec spec;
  PresetDefaults defaults;
};

// gpt2-nano is ours: a byte-level model that learns on two cores in a minute. The others have the
// shapes published with GPT-2 (124M, 350M, 774M and 1558M parameters).
const std::vector<Preset>& Presets() {
  static const auto* const presets = new std::vector<Preset>{
      {{"gpt2-nano", 4, 192, 6, 128, 256}, {32, 4, 2e-3}},
      {{"gpt2-124m", 12, 768, 12, 1024, 50257}, {512, 4, 6e-4}},
      {{"gpt2-350m", 24, 1024, 16, 1024, 50257}, {512, 4, 3e-4}},
      {{"gpt2-774m", 36, 1280, 20, 1024, 50257}, {512, 2, 2.5e-4}},
      {{"gpt2-1558m", 48, 1600, 25, 1024, 50257}, {512, 1, 2e-4}},
  };
  return *presets;
}

absl::StatusOr<const Preset*> Find(const std::string& name) {
  for (const Preset& preset : Presets()) {
    if (preset.spec.preset == name) return &preset;
  }
  return absl::NotFoundError(absl::StrCat("no model preset \"", name, "\"; there are ",
                                          absl::StrJoin(PresetNames(), ", ")));
}

std::string BlockName(int64_t layer, const char* rest) {
  return absl::StrCat("h.", layer, ".", rest);
}

}  // namespace

int64_t LogicalTensor::size() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : Presets()) names.push_back(preset.spec.preset);
  return names;
}

absl::StatusOr<ModelSpec> FindPreset(const std::string& name) {
  const absl::StatusOr<const Preset*> preset = Find(name);
  if (!preset.ok()) return preset.status();
  return (*preset)->spec;
}

absl::StatusOr<PresetDefaults> FindPresetDefaults(const std::string& name) {
  const absl::StatusOr<const Preset*> preset = Find(name);
  if (!preset.ok()) return preset.status();
  return (*preset)->defaults;
}

absl::Status Validate(const ModelSpec& spec) {
  std::vector<std::string> findings;
  const auto at_least_one = [&](const char* name, int64_t value) {
    if (value < 1) findings.push_back(absl::StrCat(name, " must be at least 1, got ", value));
  };
  at_least_one("num-layers", spec.num_layers);
  at_least_one("hidden-size", spec.hidden_size);
  at_least_one("num-attention-heads", spec.num_attention_heads);
  at_least_one("seq-length", spec.seq_length);
  at_least_one("vocab-size", spec.vocab_size);
  if (findings.empty() && spec.hidden_size % spec.num_attention_heads != 0) {
    findings.push_back(absl::StrCat("hidden-size ", spec.hidden_size,
                                    " is not a multiple of num-attention-heads ",
                                    spec.num_attention_heads));
  }
  if (spec.vocab_size >= 1 && spec.vocab_size < 256) {
    findings.push_back(
        absl::StrCat("vocab-size must be at least 256 for byte-level text, got ", spec.vocab_size));
  }
  if (findings.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(findings, "; "));
}

std::vector<LogicalTensor> LogicalTensors(const ModelSpec& spec) {
  const int64_t c = spec.hidden_size;
  std::vector<LogicalTensor> tensors;
  const auto matrix = [&](std::string name, int64_t rows, int64_t columns, Init init) {
    tensors.push_back({std::move(name), {rows, columns}, init, /*weight_decay=*/true});
  };
  const auto vector = [&](std::string name, int64_t size, Init init) {
    tensors.push_back({std::move(name), {size}, init, /*weight_decay=*/false});
  };
  matrix("wte.weight", spec.vocab_size, c, Init::kNormal);
  matrix("wpe.weight", spec.seq_length, c, Init::kNormal);
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    vector(BlockName(layer, "ln_1.weight"), c, Init::kOnes);
    vector(BlockName(layer, "ln_1.bias"), c, Init::kZeros);
    matrix(BlockName(layer, "attn.c_attn.weight"), c, 3 * c, Init::kNormal);
    vector(BlockName(layer, "attn.c_attn.bias"), 3 * c, Init::kZeros);
    matrix(BlockName(layer, "attn.c_proj.weight"), c, c, Init::kNormalResidual);
    vector(BlockName(layer, "attn.c_proj.bias"), c, Init::kZeros);
    vector(BlockName(layer, "ln_2.weight"), c, Init::kOnes);
    vector(BlockName(layer, "ln_2.bias"), c, Init::kZeros);
    matrix(BlockName(layer, "mlp.c_fc.weight"), c, 4 * c, Init::kNormal);
    vector(BlockName(layer, "mlp.c_fc.bias"), 4 * c, Init::kZeros);
    matrix(BlockName(layer, "mlp.c_proj.weight"), 4 * c, c, Init::kNormalResidual);
    vector(BlockName(layer, "mlp.c_proj.bias"), c, Init::kZeros);
  }
  vector("ln_f.weight", c, Init::kOnes);
  vector("ln_f.bias", c, Init::kZeros);
  return tensors;
}

int64_t ParameterCount(const ModelSpec& spec) {
  int64_t count = 0;
  for (const LogicalTensor& tensor : LogicalTensors(spec)) count += tensor.size();
  return count;
}

double TrainFlops(const ModelSpec& spec, int64_t tokens) {
  const double c = static_cast<double>(spec.hidden_size);
  const double layers = static_cast<double>(spec.num_layers);
  // Matrix products per token: 12 C^2 a layer and the head; attention: two products over half of T
  // on average.
  const double weights = layers * 12 * c * c + static_cast<double>(spec.vocab_size) * c;
  const double attention = layers * 2 * c * static_cast<double>(spec.seq_length) / 2;
  return 3 * 2 * (weights + attention) * static_cast<double>(tokens);
}

}  // namespace dsrun
