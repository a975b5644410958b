#include "common/model/llama.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "common/model/layer_kinds.h"

namespace dsrun {
namespace {

constexpr double kStandardDeviation = 0.02;

class LlamaPlanner {
 public:
  explicit LlamaPlanner(const ModelSpec& spec)
      : spec_(spec), plan_{.spec = spec, .tensors = {}, .layers = {}} {}

  ModelPlan Plan() {
    const int64_t width = spec_.hidden_size;
    const size_t tokens = Matrix("model.embed_tokens", spec_.vocab_size, width);
    plan_.layers.push_back(TokenEmbeddingLayer(spec_, "embedding", {tokens}));
    for (int64_t block = 0; block < spec_.num_layers; ++block) {
      const std::string name = "model.layers." + std::to_string(block) + ".";
      Attention(name);
      Mlp(name);
    }
    const size_t norm = Norm("model.norm", width);
    const size_t table = spec_.untied_output ? Matrix("lm_head", spec_.vocab_size, width) : tokens;
    plan_.layers.push_back(RmsHeadLayer(spec_, "head", {norm, table}));
    plan_.tables = RotaryTables(spec_);
    return std::move(plan_);
  }

 private:
  void Attention(const std::string& name) {
    const int64_t width = spec_.hidden_size;
    const int64_t queries = spec_.num_attention_heads * spec_.head_size();
    const int64_t keys = spec_.heads_of_keys() * spec_.head_size();
    const std::string at = name + "self_attn.";
    const std::vector<size_t> always = {
        Norm(name + "input_layernorm", width), Matrix(at + "q_proj", queries, width),
        Matrix(at + "k_proj", keys, width), Matrix(at + "v_proj", keys, width),
        Matrix(at + "o_proj", width, queries)};
    const bool biased = spec_.qkv_bias;
    const bool normed = spec_.qk_norm;
    const std::vector<std::optional<size_t>> optional = {
        Bias(at + "q_proj", queries, biased),
        Bias(at + "k_proj", keys, biased),
        Bias(at + "v_proj", keys, biased),
        Bias(at + "o_proj", width, spec_.attention_out_bias),
        normed ? std::optional(Norm(at + "q_norm", spec_.head_size())) : std::nullopt,
        normed ? std::optional(Norm(at + "k_norm", spec_.head_size())) : std::nullopt};
    plan_.layers.push_back(GroupedAttentionLayer(spec_, name + "self_attn", always, optional));
  }

  void Mlp(const std::string& name) {
    const int64_t width = spec_.hidden_size;
    const int64_t inner = spec_.ffn_hidden_size;
    const std::string at = name + "mlp.";
    const std::vector<size_t> always = {
        Norm(name + "post_attention_layernorm", width), Matrix(at + "gate_proj", inner, width),
        Matrix(at + "up_proj", inner, width), Matrix(at + "down_proj", width, inner)};
    const std::vector<std::optional<size_t>> optional = {
        Bias(at + "gate_proj", inner, spec_.mlp_bias), Bias(at + "up_proj", inner, spec_.mlp_bias),
        Bias(at + "down_proj", width, spec_.mlp_bias)};
    plan_.layers.push_back(GatedMlpLayer(spec_, name + "mlp", always, optional));
  }

  // Tensors, by their names without ".weight" and ".bias".
  size_t Matrix(const std::string& name, int64_t rows, int64_t columns) {
    plan_.tensors.push_back({name + ".weight",
                             {rows, columns},
                             Init::kNormal,
                             kStandardDeviation,
                             /*weight_decay=*/true});
    return plan_.tensors.size() - 1;
  }
  size_t Norm(const std::string& name, int64_t size) {
    plan_.tensors.push_back({name + ".weight", {size}, Init::kOnes, 0, /*weight_decay=*/false});
    return plan_.tensors.size() - 1;
  }
  std::optional<size_t> Bias(const std::string& name, int64_t size, bool there) {
    if (!there) return std::nullopt;
    plan_.tensors.push_back({name + ".bias", {size}, Init::kZeros, 0, /*weight_decay=*/false});
    return plan_.tensors.size() - 1;
  }

  const ModelSpec& spec_;
  ModelPlan plan_;
};

ModelSpec Shape(std::string name, int64_t layers, int64_t width, int64_t heads, int64_t groups,
                int64_t inner, int64_t length, int64_t vocabulary) {
  ModelSpec spec{std::move(name), layers, width, heads, length, vocabulary};
  spec.family = "llama";
  spec.query_groups = groups;
  spec.ffn_hidden_size = inner;
  spec.norm_epsilon = 1e-5;
  spec.rope_base = 10000;
  return Canonical(spec);
}

}  // namespace

ModelPlan PlanLlama(const ModelSpec& spec) { return LlamaPlanner(spec).Plan(); }

std::vector<Preset> LlamaPresets() {
  const ModelSpec nano = Shape("llama-nano", 4, 192, 6, 2, 512, 128, 256);
  ModelSpec of_135m = Shape("llama-135m", 30, 576, 9, 3, 1536, 2048, 49152);
  of_135m.rope_base = 100000;
  ModelSpec of_1b = Shape("llama-1b", 16, 2048, 32, 8, 8192, 8192, 128256);
  of_1b.rope_base = 500000;
  of_1b.rope_scaling = "llama3";
  of_1b.rope_factor = 32;
  of_1b.rope_low_turns = 1;
  of_1b.rope_high_turns = 4;
  of_1b.rope_original_length = 8192;
  ModelSpec of_7b = Shape("llama-7b", 32, 4096, 32, 32, 11008, 4096, 32000);
  of_7b.untied_output = true;
  ModelSpec of_70b = Shape("llama-70b", 80, 8192, 64, 8, 28672, 4096, 32000);
  of_70b.untied_output = true;
  return {
      {nano, {32, 4, 2e-3}},    {of_135m, {512, 4, 3e-3}},   {of_1b, {512, 1, 5e-4}},
      {of_7b, {1024, 1, 3e-4}}, {of_70b, {1024, 1, 1.5e-4}},
  };
}

}  // namespace dsrun
