#include "common/plan/activation_plan.h"

#include <string>

namespace dsrun {
namespace {

constexpr int64_t kAlignBytes = 64;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

int64_t LogitsStride(const ModelSpec& spec) {
  return RoundUp(spec.vocab_size, kAlignBytes / static_cast<int64_t>(sizeof(float)));
}

std::vector<PlannedBuffer> PlanActivations(const ModelSpec& spec, int64_t micro_batch_size,
                                           int64_t threads) {
  const int64_t layers = spec.num_layers;
  const int64_t width = spec.hidden_size;
  const int64_t rows = micro_batch_size * spec.seq_length;
  std::vector<PlannedBuffer> buffers;
  const auto add = [&buffers](const std::string& group, const std::string& name, int64_t elements,
                              const std::string& formula, int64_t bytes = sizeof(float)) {
    const int64_t unit = kAlignBytes / bytes;
    buffers.push_back({group + "." + name, group, RoundUp(elements, unit), bytes, formula});
  };
  // A layer's buffers begin on 64 bytes each.
  const auto per_layer = [&](const std::string& name, int64_t elements,
                             const std::string& formula) {
    add("activations", name, layers * RoundUp(elements, 16), "layers x " + formula);
  };
  add("activations", "tokens", 2 * RoundUp(rows, 16), "2 x batch x seq", sizeof(int32_t));
  add("activations", "embedded", rows * width, "batch x seq x width");
  per_layer("ln_1_mean", rows, "batch x seq");
  per_layer("ln_1_rstd", rows, "batch x seq");
  per_layer("ln_1_out", rows * width, "batch x seq x width");
  per_layer("qkv", rows * 3 * width, "batch x seq x 3 width");
  per_layer("attention_lse", rows * spec.num_attention_heads, "batch x heads x seq");
  per_layer("attention_out", rows * width, "batch x seq x width");
  per_layer("residual_mid", rows * width, "batch x seq x width");
  per_layer("ln_2_mean", rows, "batch x seq");
  per_layer("ln_2_rstd", rows, "batch x seq");
  per_layer("ln_2_out", rows * width, "batch x seq x width");
  per_layer("fc_slope", rows * 4 * width, "batch x seq x 4 width");
  per_layer("fc_gelu", rows * 4 * width, "batch x seq x 4 width");
  per_layer("residual_out", rows * width, "batch x seq x width");
  add("activations", "ln_f_mean", rows, "batch x seq");
  add("activations", "ln_f_rstd", rows, "batch x seq");
  add("activations", "ln_f_out", rows * width, "batch x seq x width");
  add("activations", "logits", rows * LogitsStride(spec), "batch x seq x (vocab, padded to 16)");
  add("activations", "losses", rows, "batch x seq", sizeof(double));
  add("workspace", "dresidual", rows * width, "batch x seq x width");
  add("workspace", "dbranch", rows * width, "batch x seq x width");
  add("workspace", "dqkv", rows * 3 * width, "batch x seq x 3 width");
  add("workspace", "dfc", rows * 4 * width, "batch x seq x 4 width");
  add("workspace", "attention", threads * AttentionScratch(width / spec.num_attention_heads),
      "threads x 2 x " + std::to_string(kAttentionQueries) + " queries x (" +
          std::to_string(kAttentionKeys) + " keys + head size + 1)");
  return buffers;
}

}  // namespace dsrun
