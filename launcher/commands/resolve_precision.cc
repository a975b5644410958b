// What a model computes in, and of fp16 its loss scale: --precision, --loss-scale and its company.

#include <cstdint>
#include <string>

#include "absl/strings/numbers.h"
#include "common/numerics/precision.h"
#include "common/plan/loss_scale_of_spec.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr const char* kOfLossScale[] = {"loss-scale",        "initial-scale-power",
                                        "loss-scale-window", "hysteresis",
                                        "min-loss-scale",    "consecutive-hysteresis"};
constexpr const char* kOfDynamic[] = {"initial-scale-power", "loss-scale-window", "hysteresis",
                                      "min-loss-scale", "consecutive-hysteresis"};

void Fixed(ResolveContext& context, const std::string& text, proto::LossScale& out) {
  double scale = 0;
  if (!absl::SimpleAtod(text, &scale)) {
    context.findings.AddFlag("--loss-scale", "expected dynamic or a power of two, got " + text);
    return;
  }
  for (const char* const flag : kOfDynamic) {
    if (!context.values.Has(flag)) continue;
    context.findings.AddFlag(std::string("--") + flag,
                             "it is a setting of a dynamic loss scale, and --loss-scale " + text +
                                 " is fixed; leave one of the two out");
  }
  out.set_fixed(scale);
}

}  // namespace

void ResolvePrecision(ResolveContext& context, const Manifest* manifest) {
  proto::TrainSpec& train = *context.resolved.job.mutable_train();
  FlagValues& values = context.values;
  std::string before;
  if (manifest != nullptr) before = manifest->facts.fingerprint.precision;
  if (before.empty()) before = "fp32";
  if (!PrecisionNamed(before)) {
    context.findings.AddFlag("--load",
                             "its checkpoint was trained in \"" + before +
                                 "\", which this version does not know; give --precision");
    before = "fp32";
  }
  train.set_precision(values.OneOf("precision", {"fp32", "bf16", "fp16"}).value_or(before));
  if (train.precision() != "fp16") {
    for (const char* const flag : kOfLossScale) {
      if (!values.Has(flag)) continue;
      context.findings.AddFlag(std::string("--") + flag,
                               "gradients of " + train.precision() +
                                   " are not scaled; give --precision fp16, or leave it out");
    }
    return;
  }
  proto::LossScale scale;
  if (const auto text = values.Text("loss-scale"); text && *text != "dynamic") {
    Fixed(context, *text, scale);
  }
  using Policy = LossScalePolicy;
  const auto set = [&](const char* flag, int64_t least, int64_t most, auto setter) {
    if (const auto value = values.Int(flag, least, most)) (scale.*setter)(*value);
  };
  set("initial-scale-power", Policy::kLeastPower, Policy::kMostPower,
      &proto::LossScale::set_initial_power);
  set("loss-scale-window", 1, Policy::kMostSteps, &proto::LossScale::set_window);
  set("hysteresis", 1, Policy::kMostSteps, &proto::LossScale::set_hysteresis);
  if (const auto min = values.Real("min-loss-scale", 0)) scale.set_min(*min);
  if (values.Switch("consecutive-hysteresis")) scale.set_consecutive_hysteresis(true);
  if (const auto policy = FromProto(scale); !policy.ok()) {
    context.findings.AddFlag(scale.has_fixed() ? "--loss-scale" : "--min-loss-scale",
                             std::string(policy.status().message()));
    return;
  }
  *train.mutable_loss_scale() = scale;
}

}  // namespace dsrun::launcher
