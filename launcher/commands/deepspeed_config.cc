#include "launcher/commands/deepspeed_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/config/nearest.h"
#include "launcher/commands/deepspeed_keys.h"
#include "launcher/commands/deepspeed_optimizer.h"
#include "launcher/commands/deepspeed_reader.h"

namespace dsrun::launcher {
namespace {

using Kind = DeepSpeedKey::Kind;
using Fate = DeepSpeedKey::Fate;

constexpr size_t kMostFindings = 100;
constexpr int64_t kBytesOfElement = 4;  // of a gradient, whatever the model computes in

class Reader {
 public:
  Reader(DeepSpeedReader& reader, const ConfigChoices& choices) : r_(reader), choices_(choices) {}

  void Read() {
    const JsonValue& root = r_.root();
    if (root.kind != JsonValue::Kind::kObject) {
      r_.Wrong(root.place,
               absl::StrCat("expected an object, got ", std::string(KindName(root.kind))));
      return;
    }
    Judge("", root);
    Batch();
    ReadOptimizer(r_);
    ReadScheduler(r_);
    Precision();
    Zero();
  }

 private:
  // ---- every key against the table

  static std::vector<std::string> Siblings(const std::string& prefix) {
    std::vector<std::string> names;
    for (const DeepSpeedKey& key : DeepSpeedKeys()) {
      if (!key.path.starts_with(prefix)) continue;
      const std::string_view rest = key.path.substr(prefix.size());
      if (rest.find('.') == std::string_view::npos) names.emplace_back(rest);
    }
    return names;
  }
  static bool HasInside(const std::string& path) {
    return std::ranges::any_of(
        DeepSpeedKeys(), [&](const DeepSpeedKey& key) { return key.path.starts_with(path + "."); });
  }

  void Judge(const std::string& prefix, const JsonValue& object) {
    for (const JsonMember& member : object.members) {
      if (r_.findings().all().size() >= kMostFindings) return;
      const std::string path = prefix + member.key;
      const DeepSpeedKey* const key = FindDeepSpeedKey(path);
      if (key == nullptr || member.key.find('.') != std::string::npos) {
        Unknown(prefix, member);
        continue;
      }
      const JsonValue& value = member.value;
      const bool said = !IsLeftOpen(value);
      if (said && !IsOfKind(value, key->kind)) {
        r_.NotA(path, key->kind, value);
        continue;
      }
      if (said && !AsksForNothing(value, key->off)) Fated(path, *key, member);
      if (value.kind == JsonValue::Kind::kObject && HasInside(path)) Judge(path + ".", value);
    }
  }

  void Unknown(const std::string& prefix, const JsonMember& member) {
    const std::string where = prefix.empty() ? "" : " in " + prefix.substr(0, prefix.size() - 1);
    const std::string what = absl::StrCat("DeepSpeed has no key ", Quoted(member.key), where,
                                          DidYouMean(member.key, Siblings(prefix)));
    if (choices_.unknown_keys_are_noted) {
      r_.Note(member.place, what + "; it does nothing");
    } else {
      r_.Wrong(member.place, what + " (--allow-unknown-config-keys passes over it)");
    }
  }

  void Fated(const std::string& path, const DeepSpeedKey& key, const JsonMember& member) {
    switch (key.fate) {
      case Fate::kRead:
      case Fate::kQuiet:
        return;
      case Fate::kFlag:
        if (key.kind == Kind::kInt) return (void)r_.ImplyWhole(path, std::string(key.words));
        return r_.Imply(std::string(key.words), member.value.text, path, member.value.place);
      case Fate::kNoted:
        return r_.Note(member.place,
                       absl::StrCat(path, " has no effect: ", std::string(key.words)));
      case Fate::kRefused:
        return r_.Wrong(member.value.place, absl::StrCat(path, ": ", Shown(member.value), ": ",
                                                         std::string(key.words)));
    }
  }

  // ---- what becomes flags

  void Batch() {
    if (r_.IsOn("elasticity.enabled")) return Elastic();
    const bool global = r_.ImplyWhole("train_batch_size", "global-batch-size");
    const bool micro = r_.ImplyWhole("train_micro_batch_size_per_gpu", "micro-batch-size");
    const bool steps = r_.ImplyWhole("gradient_accumulation_steps", "gradient-accumulation-steps");
    if (global != micro && !steps && !r_.IsSaid("gradient_accumulation_steps")) {
      r_.Imply("gradient-accumulation-steps", "1", "gradient_accumulation_steps");
    }
  }

  void Elastic() {
    ElasticRequest request;
    r_.config().elastic_place = r_.Find("elasticity.enabled")->place;
    for (const char* const key : {"max_train_batch_size", "micro_batch_sizes"}) {
      if (r_.Find(std::string("elasticity.") + key) != nullptr) continue;
      r_.Wrong(r_.config().elastic_place, absl::StrCat("elasticity: expected ", key));
    }
    const auto whole = [&](const char* key, int64_t& to) {
      if (const JsonValue* const value = r_.Find(std::string("elasticity.") + key)) {
        to = *value->AsInteger();
      }
    };
    whole("max_train_batch_size", request.max_batch);
    whole("min_gpus", request.min_ranks);
    whole("max_gpus", request.max_ranks);
    whole("num_gpus_per_node", request.ranks_per_node);
    whole("model_parallel_size", request.model_parallel);
    if (request.model_parallel > 1) {
      r_.Wrong(r_.Find("elasticity.model_parallel_size")->place,
               "elasticity.model_parallel_size: ranks are data parallel only; leave it out");
    }
    if (const JsonValue* const larger = r_.Find("elasticity.prefer_larger_batch")) {
      request.prefer_larger = larger->flag;
    }
    if (const JsonValue* const version = r_.Find("elasticity.version")) {
      if (version->number != 0.1 && version->number != 0.2) {
        r_.Wrong(version->place,
                 absl::StrCat("elasticity.version: expected 0.1 or 0.2, got ", version->text));
      }
      request.by_node = version->number != 0.1;
    }
    if (const JsonValue* const micros = r_.Find("elasticity.micro_batch_sizes")) {
      request.micro_batches.clear();
      for (const JsonValue& micro : micros->elements) {
        const std::optional<int64_t> size = micro.AsInteger();
        if (!size) {
          r_.Wrong(micro.place,
                   absl::StrCat("elasticity.micro_batch_sizes: expected whole numbers, got ",
                                Shown(micro)));
        } else {
          request.micro_batches.push_back(*size);
        }
      }
    }
    if (!r_.IsOn("elasticity.ignore_non_elastic_batch_info")) {
      for (const char* const key :
           {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}) {
        if (const JsonValue* const value = r_.Find(key)) {
          r_.Wrong(value->place, absl::StrCat(key,
                                              ": elasticity says the batch; leave it out, or set "
                                              "elasticity.ignore_non_elastic_batch_info"));
        }
      }
    }
    r_.config().elastic = std::move(request);
  }

  void Precision() {
    const bool half = r_.IsOn("fp16.enabled");
    const std::string bf16 = r_.IsOn("bf16.enabled") ? "bf16.enabled" : "bfloat16.enabled";
    const bool brain = r_.IsOn(bf16);
    if (half && brain) {
      return r_.Wrong(r_.Find(bf16)->place, bf16 + ": fp16 is enabled, too; leave one of them out");
    }
    if (brain) r_.Imply("precision", "bf16", bf16, r_.Find(bf16)->place);
    // "auto": a flag says it.
    if (!half && !(r_.IsSaid("fp16.enabled") && r_.Find("fp16.enabled") == nullptr)) return;
    if (half) r_.Imply("precision", "fp16", "fp16.enabled", r_.Find("fp16.enabled")->place);
    const JsonValue* const scale = r_.Find("fp16.loss_scale");
    if (scale != nullptr && scale->number != 0) {
      return r_.Imply("loss-scale", scale->text, "fp16.loss_scale", scale->place);
    }
    r_.ImplyWhole("fp16.initial_scale_power", "initial-scale-power");
    r_.ImplyWhole("fp16.loss_scale_window", "loss-scale-window");
    r_.ImplyWhole("fp16.hysteresis", "hysteresis");
    LeastScale();
    r_.ImplySwitch("fp16.consecutive_hysteresis", "consecutive-hysteresis");
  }

  // Ours are powers of two, so that no gradient loses a bit to them.
  void LeastScale() {
    const char* const path = "fp16.min_loss_scale";
    const JsonValue* const value = r_.Find(path);
    if (value == nullptr) return;
    int exponent = 0;
    if (value->number <= 0 || std::frexp(value->number, &exponent) == 0.5) {
      return r_.Imply("min-loss-scale", value->text, path, value->place);
    }
    const std::string power = absl::StrFormat("%.17g", std::ldexp(1.0, exponent - 1));
    r_.Note(value->place, absl::StrCat(path, ": the power of two below it is taken, ", power));
    r_.Imply("min-loss-scale", power, path, value->place);
  }

  void Zero() {
    const JsonValue* const block = r_.Find("zero_optimization");
    if (block != nullptr && block->kind == JsonValue::Kind::kBool) {
      return r_.Imply("zero-stage", block->flag ? "1" : "0", "zero_optimization", block->place);
    }
    if (block != nullptr && block->kind != JsonValue::Kind::kObject) {
      return r_.Wrong(block->place, absl::StrCat("zero_optimization: expected {\"stage\": N}, got ",
                                                 Shown(*block)));
    }
    if (!r_.ImplyWhole("zero_optimization.stage", "zero-stage") &&
        !r_.IsSaid("zero_optimization.stage")) {
      r_.Imply("zero-stage", "0", "zero_optimization.stage");
    }
    r_.ImplyWhole("zero_optimization.reduce_bucket_size", "bucket-bytes", kBytesOfElement);
    r_.ImplySwitch("zero_optimization.overlap_comm", "overlap");
    static constexpr std::pair<const char*, const char*> kOfStage3[] = {
        {"stage3_prefetch_bucket_size", "zero3-prefetch"},
        {"stage3_param_persistence_threshold", "zero3-persistence-threshold"},
        {"stage3_max_live_parameters", "zero3-max-live-parameters"},
        {"stage3_max_reuse_distance", "zero3-max-reuse-distance"},
        {"sub_group_size", "zero3-sub-group-size"},
        // The fields' own names, which DeepSpeed takes as well.
        {"prefetch_bucket_size", "zero3-prefetch"},
        {"param_persistence_threshold", "zero3-persistence-threshold"},
        {"max_live_parameters", "zero3-max-live-parameters"},
        {"max_reuse_distance", "zero3-max-reuse-distance"},
    };
    for (const auto& [key, flag] : kOfStage3)
      r_.ImplyWhole(std::string("zero_optimization.") + key, flag);
  }

  DeepSpeedReader& r_;
  const ConfigChoices& choices_;
};

}  // namespace

std::optional<DeepSpeedConfig> ReadDeepSpeedConfig(const SourceText& text,
                                                   const ConfigChoices& choices,
                                                   Findings& findings) {
  const std::optional<JsonValue> root = ParseJsonText(text, findings);
  if (!root) return std::nullopt;
  DeepSpeedReader reader(text, *root, findings);
  Reader(reader, choices).Read();
  return std::move(reader.config());
}

}  // namespace dsrun::launcher
