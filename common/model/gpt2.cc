#include "common/model/gpt2.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "common/model/layer_kinds.h"

namespace dsrun {
namespace {

constexpr double kStandardDeviation = 0.02;

}  // namespace

ModelPlan PlanGpt2(const ModelSpec& spec) {
  const int64_t width = spec.hidden_size;
  // Of projections that end in the residual stream.
  const double residual =
      kStandardDeviation / std::sqrt(2.0 * static_cast<double>(spec.num_layers));
  ModelPlan plan{.spec = spec, .tensors = {}, .layers = {}};
  const auto matrix = [&](std::string name, int64_t rows, int64_t columns,
                          double stddev = kStandardDeviation) {
    plan.tensors.push_back(
        {std::move(name), {rows, columns}, Init::kNormal, stddev, /*weight_decay=*/true});
    return plan.tensors.size() - 1;
  };
  const auto vector = [&](std::string name, int64_t size, Init init = Init::kZeros) {
    plan.tensors.push_back({std::move(name), {size}, init, 0, /*weight_decay=*/false});
    return plan.tensors.size() - 1;
  };

  const size_t wte = matrix("wte.weight", spec.vocab_size, width);
  const size_t wpe = matrix("wpe.weight", spec.seq_length, width);
  plan.layers.push_back(EmbeddingLayer(spec, "embedding", {wte, wpe}));
  for (int64_t block = 0; block < spec.num_layers; ++block) {
    const std::string h = "h." + std::to_string(block) + ".";
    plan.layers.push_back(AttentionLayer(
        spec, h + "attn",
        {vector(h + "ln_1.weight", width, Init::kOnes), vector(h + "ln_1.bias", width),
         matrix(h + "attn.c_attn.weight", width, 3 * width),
         vector(h + "attn.c_attn.bias", 3 * width),
         matrix(h + "attn.c_proj.weight", width, width, residual),
         vector(h + "attn.c_proj.bias", width)}));
    plan.layers.push_back(MlpLayer(
        spec, h + "mlp",
        {vector(h + "ln_2.weight", width, Init::kOnes), vector(h + "ln_2.bias", width),
         matrix(h + "mlp.c_fc.weight", width, 4 * width), vector(h + "mlp.c_fc.bias", 4 * width),
         matrix(h + "mlp.c_proj.weight", 4 * width, width, residual),
         vector(h + "mlp.c_proj.bias", width)}));
  }
  plan.layers.push_back(HeadLayer(
      spec, "head", {vector("ln_f.weight", width, Init::kOnes), vector("ln_f.bias", width), wte}));
  return plan;
}

std::vector<Preset> Gpt2Presets() {
  return {
      {{"gpt2-nano", 4, 192, 6, 128, 256}, {32, 4, 2e-3}},
      {{"gpt2-124m", 12, 768, 12, 1024, 50257}, {512, 4, 6e-4}},
      {{"gpt2-350m", 24, 1024, 16, 1024, 50257}, {512, 4, 3e-4}},
      {{"gpt2-774m", 36, 1280, 20, 1024, 50257}, {512, 2, 2.5e-4}},
      {{"gpt2-1558m", 48, 1600, 25, 1024, 50257}, {512, 1, 2e-4}},
      // Brown et al. (2020), table 2.1, without its sparse attention: every layer's is dense. Its
      // batch of 3.2 million tokens is 1,562.5 sequences.
      {{"gpt3-175b", 96, 12288, 96, 2048, 50257}, {1536, 1, 6e-5}},
  };
}

}  // namespace dsrun
