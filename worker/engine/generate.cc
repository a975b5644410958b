#include "worker/engine/generate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/base/philox.h"
#include "common/base/status_macros.h"
#include "worker/data/token_ids.h"

namespace dsrun::worker {

int32_t SampleByte(std::span<const float> logits, double temperature, double uniform) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<double> weights;
  double sum = 0;
  for (const float logit : logits) {
    weights.push_back(std::exp((static_cast<double>(logit) - *best) / temperature));
    sum += weights.back();
  }
  double left = uniform * sum;
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(best - logits.begin());  // rounding ate the last bit of `left`
}

absl::StatusOr<std::string> Generate(Model& model, ParameterStore& parameters,
                                     const std::string& prompt, const GenerateOptions& options) {
  const ModelSpec& spec = model.plan().spec;
  // A larger vocabulary has entries that no byte stands for.
  const auto bytes = static_cast<size_t>(std::min<int64_t>(spec.vocab_size, 256));
  std::vector<int32_t> text;
  for (const char c : prompt) text.push_back(static_cast<unsigned char>(c));
  if (text.empty())
    text.push_back(static_cast<int32_t>(std::min<int64_t>('\n', spec.vocab_size - 1)));
  RETURN_IF_ERROR(CheckTokens(text, {}, spec.vocab_size)) << "the prompt";
  std::vector<float> logits(static_cast<size_t>(spec.vocab_size));
  std::string continuation;
  for (int64_t i = 0; i < options.length; ++i) {
    ASSIGN_OR_RETURN(const bool stopped, options.stopped());
    if (stopped) break;
    const int64_t length = std::min<int64_t>(spec.seq_length, static_cast<int64_t>(text.size()));
    RETURN_IF_ERROR(model.NextTokenLogits(text.data() + text.size() - static_cast<size_t>(length),
                                          length, parameters, logits.data()));
    const PhiloxBlock bits =
        RandomAt(options.seed, RandomPurpose::kSampling, 0, static_cast<uint64_t>(i));
    const double uniform = static_cast<double>(RandomU64(bits) >> 11) * 0x1p-53;
    text.push_back(SampleByte(std::span(logits).first(bytes), options.temperature, uniform));
    continuation.push_back(static_cast<char>(text.back()));
    options.on_byte();
  }
  return continuation;
}

}  // namespace dsrun::worker
