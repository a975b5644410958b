#include "common/model/layer_kinds.h"

#include <utility>

namespace dsrun {
namespace {

using Per = PlannedActivation::Per;

PlannedActivation OfRow(std::string name, int64_t elements, std::string formula) {
  return {.name = std::move(name), .elements = elements, .formula = std::move(formula)};
}

// Multiply-adds of a product with a (a, b) matrix, for each row.
double Product(int64_t a, int64_t b) { return 2 * static_cast<double>(a) * static_cast<double>(b); }

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
          .kept = {OfRow("mean", 1, "1"), OfRow("rstd", 1, "1"), OfRow("normed", width, "width"),
                   OfRow("qkv", 3 * width, "3 width"),
                   OfRow("log_sum_exp", spec.num_attention_heads, "heads"),
                   OfRow("context", width, "width")},
          .workspace = {OfRow("dnormed", width, "width"),
                        OfRow("dqkv", 3 * width, "3 width"),
                        {.name = "scratch",
                         .elements = AttentionScratch(width / spec.num_attention_heads),
                         .formula = "2 x " + std::to_string(kAttentionQueries) + " queries x (" +
                                    std::to_string(kAttentionKeys) + " keys + head size + 1)",
                         .per = Per::kThread}},
          .flops_of_token = Product(width, 3 * width) + Product(width, width) + scores};
}

LayerPlan MlpLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors) {
  const int64_t width = spec.hidden_size;
  return {.kind = LayerKind::kMlp,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {OfRow("mean", 1, "1"), OfRow("rstd", 1, "1"), OfRow("normed", width, "width"),
                   OfRow("slope", 4 * width, "4 width"), OfRow("activated", 4 * width, "4 width")},
          .workspace = {OfRow("dnormed", width, "width"), OfRow("dup", 4 * width, "4 width")},
          .flops_of_token = 2 * Product(width, 4 * width)};
}

LayerPlan HeadLayer(const ModelSpec& spec, std::string name, std::vector<size_t> tensors) {
  const int64_t width = spec.hidden_size;
  return {.kind = LayerKind::kHead,
          .name = std::move(name),
          .uses = std::move(tensors),
          .kept = {OfRow("mean", 1, "1"), OfRow("rstd", 1, "1"), OfRow("normed", width, "width")},
          .workspace = {OfRow("dnormed", width, "width"),
                        {.name = "logits",
                         .elements = LogitsStride(spec.vocab_size),
                         .formula = "(vocabulary, padded to 16)",
                         .per = Per::kHeadRow},
                        {.name = "losses",
                         .elements = 1,
                         .formula = "1",
                         .per = Per::kHeadRow,
                         .element_bytes = 8}},
          .flops_of_token = Product(width, spec.vocab_size)};
}

}  // namespace dsrun
