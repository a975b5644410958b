// How much of a model is dropped in training: --hidden-dropout, --attention-dropout.

#include <optional>
#include <string>

#include "common/numerics/dropout.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

// What was given, else the checkpoint's.
double Rate(ResolveContext& context, const std::string& flag, const std::string& before) {
  if (const auto given = context.values.Real(flag, 0, 1, /*below=*/true)) {
    if (IsDropoutRate(*given)) return *given;
    context.findings.AddFlag("--" + flag, std::string(kDropoutRateWords) + ", got " +
                                              context.values.Text(flag).value_or(""));
    return 0;
  }
  const std::optional<double> rate = DropoutOfWord(before);
  if (!rate && !context.values.Has(flag)) {
    context.findings.AddFlag("--load", "its checkpoint was trained with a --" + flag + " of \"" +
                                           before + "\", which is no rate; give the flag");
  }
  return rate.value_or(0);
}

}  // namespace

void ResolveDropout(ResolveContext& context, const Manifest* manifest) {
  proto::TrainSpec& train = *context.resolved.job.mutable_train();
  NumericsFingerprint before;
  if (manifest != nullptr) before = manifest->facts.fingerprint;
  train.set_hidden_dropout(Rate(context, "hidden-dropout", before.hidden_dropout));
  train.set_attention_dropout(Rate(context, "attention-dropout", before.attention_dropout));
}

}  // namespace dsrun::launcher
