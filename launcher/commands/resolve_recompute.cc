// Which layers a job computes again in backward: --recompute.

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/escaped.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "common/plan/recompute_plan.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr char kExpected[] = "expected none, all, every=K (layers) or budget=BYTES, got ";

// A whole number of at least 1.
std::optional<int64_t> Number(std::string_view text) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 1) return std::nullopt;
  return value;
}

std::optional<Recompute> Parse(std::string_view text) {
  constexpr std::string_view kEvery = "every=";
  constexpr std::string_view kBudget = "budget=";
  if (text == "none") return Recompute{};
  if (text == "all") return Recompute{.every = 1};
  if (text.starts_with(kEvery)) {
    const auto number = Number(text.substr(kEvery.size()));
    return number ? std::optional<Recompute>({.every = *number}) : std::nullopt;
  }
  if (text.starts_with(kBudget)) {
    const auto number = Number(text.substr(kBudget.size()));
    return number ? std::optional<Recompute>({.budget_bytes = *number}) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

void ResolveRecompute(ResolveContext& context, const ModelSpec& model) {
  const auto text = context.values.Text("recompute");
  if (!text) return;
  const std::optional<Recompute> recompute = Parse(*text);
  if (!recompute) {
    context.findings.AddFlag("--recompute", kExpected + Quoted(*text));
    return;
  }
  if (!recompute->any()) return;
  proto::TrainSpec& train = *context.resolved.job.mutable_train();
  if (!CheckPlannable(MemoryInputFromProto(train)).ok()) return;  // CheckMemory says why
  const int64_t rows = train.micro_batch_size() * model.seq_length;
  const absl::Status fits = CheckRecompute(
      PlanModel(model, {}, MemoryInputFromProto(train).precision), rows, /*slots=*/1, *recompute);
  if (!fits.ok()) {
    context.findings.AddFlag("--recompute", std::string(fits.message()));
    return;
  }
  train.mutable_recompute()->set_every(recompute->every);
  train.mutable_recompute()->set_budget_bytes(recompute->budget_bytes);
}

}  // namespace dsrun::launcher
