#include "common/model/layer_kinds.h"

#include <algorithm>
#include <utility>

namespace dsrun {
namespace {

using Per = PlannedActivation::Per;

PlannedActivation OfRow(std::string name, int64_t elements, std::string formula) {
  return {.name = std::move(name), .elements = elements, .formula = std::move(formula)};
}
// What is fp32 whatever the model computes in.
PlannedActivation Statistic(std::string name, int64_t elements, std::string formula) {
  return {.name = std::move(name),
          .elements = elements,
          .formula = std::move(formula),
          .dtype = DType::kF32};
}

// Multiply-adds of a product with a (a, b) matrix, for each row.
double Product(int64_t a, int64_t b) { return 2 * static_cast<double>(a) * static_cast<double>(b); }

PlannedActivation ScratchOfAttention(int64_t head_size, int64_t seq_length) {
  return {.name = "scratch",
          .elements = AttentionScratch(head_size),
          .formula = "2 x " + std::to_string(kAttentionQueries) + " queries x (" +
                     std::to_string(kAttentionKeys) + " keys + head size + 1)",
          .per = Per::kThread,
          .dtype = DType::kF32,
          .more_in_16_bits = HalfAttentionScratch(head_size, seq_length)};
}

// By head_layer::Work.
std::vector<PlannedActivation> HeadWorkspace(const ModelSpec& spec) {
  return {OfRow("dnormed", spec.hidden_size, "width"),
          {.name = "logits",
           .elements = LogitsStride(spec.vocab_size),
           .formula = "(vocabulary, padded to 16)",
           .per = Per::kHeadRow,
           .dtype = DType::kF32},
          {.name = "losses",
           .elements = 1,
           .formula = "1",
           .per = Per::kHeadRow,
           .dtype = DType::kF64}};
}

std::vector<size_t> WithOptional(std::vector<size_t> uses,
                                 const std::vector<std::optional<size_t>>& optional) {
  for (const std::optional<size_t>& tensor : optional) {
    if (tensor.has_value()) uses.push_back(*tensor);
  }
  return uses;
}

// How many keys a query sees, on average over a full sequence.
double KeysOfQuery(const ModelSpec& spec) {
  const double length = static_cast<double>(spec.seq_length);
  const double window =
      spec.window > 0 && spec.window < spec.seq_length ? static_cast<double>(spec.window) : length;
  return window * (1 - window / (2 * length));
}

}  // namespace

LayerPlan EmbeddingLayer(const ModelSpec&, std::string name, std::vector<size_t> tensors) {
  return {.kind = LayerKind::kEmbedding,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {},
          .workspace = {},
          .flops_of_token = 0};
}

LayerPlan AttentionLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors) {
  const int64_t width = spec.hidden_size;
  // Two products with half of the sequence on average.
  const double scores = 2 * Product(width, spec.seq_length) / 2;
  return {.kind = LayerKind::kAttention,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {Statistic("mean", 1, "1"), Statistic("rstd", 1, "1"),
                   OfRow("normed", width, "width"), OfRow("qkv", 3 * width, "3 width"),
                   Statistic("log_sum_exp", spec.num_attention_heads, "heads"),
                   OfRow("context", width, "width")},
          .workspace = {OfRow("dnormed", width, "width"), OfRow("dqkv", 3 * width, "3 width"),
                        ScratchOfAttention(width / spec.num_attention_heads, spec.seq_length)},
          .flops_of_token = Product(width, 3 * width) + Product(width, width) + scores};
}

LayerPlan MlpLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors) {
  const int64_t width = spec.hidden_size;
  return {.kind = LayerKind::kMlp,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {Statistic("mean", 1, "1"), Statistic("rstd", 1, "1"),
                   OfRow("normed", width, "width"), OfRow("slope", 4 * width, "4 width"),
                   OfRow("activated", 4 * width, "4 width")},
          .workspace = {OfRow("dnormed", width, "width"), OfRow("dup", 4 * width, "4 width")},
          .flops_of_token = 2 * Product(width, 4 * width)};
}

LayerPlan HeadLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors) {
  const int64_t width = spec.hidden_size;
  return {.kind = LayerKind::kHead,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {Statistic("mean", 1, "1"), Statistic("rstd", 1, "1"),
                   OfRow("normed", width, "width")},
          .workspace = HeadWorkspace(spec),
          .flops_of_token = Product(width, spec.vocab_size)};
}

LayerPlan TokenEmbeddingLayer(const ModelSpec&, std::string name, std::vector<size_t> tensors) {
  return {.kind = LayerKind::kTokenEmbedding,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {},
          .workspace = {},
          .flops_of_token = 0};
}

LayerPlan GroupedAttentionLayer(const ModelSpec& spec, std::string name,
                                std::vector<size_t> tensors,
                                const std::vector<std::optional<size_t>>& optional) {
  const int64_t width = spec.hidden_size;
  const int64_t heads = spec.num_attention_heads;
  const int64_t size = spec.head_size();
  const int64_t queries = heads * size;
  const int64_t keys = spec.heads_of_keys() * size;
  const char* const of_keys = "heads of keys x head size";
  const char* const of_queries = "heads x head size";
  LayerPlan plan{.kind = LayerKind::kGroupedAttention,
                 .name = std::move(name),
                 .uses = WithOptional(std::move(tensors), optional),
                 .kept = {Statistic("rstd", 1, "1"), OfRow("normed", width, "width"),
                          OfRow("query", queries, of_queries), OfRow("key", keys, of_keys),
                          OfRow("value", keys, of_keys), Statistic("log_sum_exp", heads, "heads"),
                          OfRow("context", queries, of_queries)},
                 .workspace = {OfRow("dnormed", std::max(width, queries), "width or the heads'"),
                               // It also holds the gradient that dropout leaves of the stream's.
                               OfRow("dquery", std::max(width, queries), "width or the heads'"),
                               OfRow("dkey", keys, of_keys), OfRow("dvalue", keys, of_keys),
                               ScratchOfAttention(size, spec.seq_length)},
                 .flops_of_token = 2 * Product(width, queries) + 2 * Product(width, keys) +
                                   2 * Product(queries, 1) * KeysOfQuery(spec)};
  if (spec.qk_norm) {
    plan.kept.push_back(OfRow("raw_query", queries, of_queries));
    plan.kept.push_back(OfRow("raw_key", keys, of_keys));
    plan.kept.push_back(Statistic("query_rstd", heads, "heads"));
    plan.kept.push_back(Statistic("key_rstd", spec.heads_of_keys(), "heads of keys"));
  }
  return plan;
}

LayerPlan GatedMlpLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors,
                        const std::vector<std::optional<size_t>>& optional) {
  const int64_t width = spec.hidden_size;
  const int64_t inner = spec.ffn_hidden_size;
  return {.kind = LayerKind::kGatedMlp,
          .name = std::move(name),
          .uses = WithOptional(std::move(tensors), optional),
          .kept = {Statistic("rstd", 1, "1"), OfRow("normed", width, "width"),
                   OfRow("gate", inner, "inner width"), OfRow("up", inner, "inner width")},
          .workspace = {OfRow("dnormed", width, "width"), OfRow("activated", inner, "inner width"),
                        OfRow("dactivated", inner, "inner width")},
          .flops_of_token = 3 * Product(width, inner)};
}

LayerPlan RmsHeadLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors) {
  const int64_t width = spec.hidden_size;
  return {.kind = LayerKind::kRmsHead,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {Statistic("rstd", 1, "1"), OfRow("normed", width, "width")},
          .workspace = HeadWorkspace(spec),
          .flops_of_token = Product(width, spec.vocab_size)};
}

std::vector<PlannedActivation> RotaryTables(const ModelSpec& spec) {
  const auto table = [&](std::string name) {
    return PlannedActivation{.name = std::move(name),
                             .elements = spec.head_size() / 2,
                             .formula = "head size / 2",
                             .per = Per::kPosition,
                             .dtype = DType::kF32};
  };
  return {table("cosines"), table("sines")};
}

}  // namespace dsrun
