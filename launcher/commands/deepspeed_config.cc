#include "launcher/commands/deepspeed_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config/nearest.h"
#include "common/plan/optimizer_settings.h"
#include "common/schedule/lr_schedule.h"
#include "launcher/commands/deepspeed_keys.h"

namespace dsrun::launcher {
namespace {

using Kind = DeepSpeedKey::Kind;
using Fate = DeepSpeedKey::Fate;

constexpr size_t kMostFindings = 100;
constexpr size_t kMostShown = 40;
constexpr int64_t kBytesOfElement = 4;  // of a gradient, whatever the model computes in

std::string_view KindWords(Kind kind) {
  switch (kind) {
    case Kind::kBool:
      return "true or false";
    case Kind::kInt:
      return "a whole number";
    case Kind::kReal:
      return "a number";
    case Kind::kText:
      return "a text";
    case Kind::kList:
      return "a list";
    case Kind::kObject:
      return "an object";
    case Kind::kAny:
      break;
  }
  return "a value";
}

bool IsOfKind(const JsonValue& value, Kind kind) {
  using Json = JsonValue::Kind;
  switch (kind) {
    case Kind::kBool:
      return value.kind == Json::kBool;
    case Kind::kInt:
      return value.AsInteger().has_value();
    case Kind::kReal:
      return value.kind == Json::kNumber && std::isfinite(value.number);
    case Kind::kText:
      return value.kind == Json::kString;
    case Kind::kList:
      return value.kind == Json::kArray;
    case Kind::kObject:
      return value.kind == Json::kObject;
    case Kind::kAny:
      return true;
  }
  return false;
}

// Hugging Face's placeholder: the one who reads the file says it.
bool IsAuto(const JsonValue& value) {
  return value.kind == JsonValue::Kind::kString && value.text == "auto";
}

// As a person would show it: at most one line, and no object's inside.
std::string Shown(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return "null";
    case JsonValue::Kind::kBool:
      return value.flag ? "true" : "false";
    case JsonValue::Kind::kNumber:
      return value.text.size() > kMostShown ? value.text.substr(0, kMostShown) + "..." : value.text;
    case JsonValue::Kind::kString:
      return Quoted(value.text);
    case JsonValue::Kind::kArray:
      return "[...]";
    case JsonValue::Kind::kObject:
      return "{...}";
  }
  return "";
}

// `off`: one value, or several with | between them.
bool AsksForNothing(const JsonValue& value, std::string_view off) {
  if (value.kind == JsonValue::Kind::kNull || IsAuto(value)) return true;
  const std::optional<int64_t> whole = value.AsInteger();
  const std::string said = whole ? absl::StrCat(*whole) : absl::AsciiStrToLower(Shown(value));
  const std::vector<std::string> values = absl::StrSplit(std::string(off), '|');
  if (std::ranges::find(values, said) != values.end()) return true;
  if (value.kind != JsonValue::Kind::kObject) return false;
  const JsonValue* const enabled = value.Find("enabled");
  return value.members.empty() ||
         (enabled != nullptr && enabled->kind == JsonValue::Kind::kBool && !enabled->flag);
}

class Reader {
 public:
  Reader(const SourceText& text, const ConfigChoices& choices, Findings& findings)
      : text_(text), choices_(choices), findings_(findings) {}

  DeepSpeedConfig Read(const JsonValue& root) {
    if (root.kind != JsonValue::Kind::kObject) {
      Wrong(root.place, absl::StrCat("expected an object, got ", std::string(KindName(root.kind))));
      return {};
    }
    root_ = &root;
    Judge("", root);
    Batch();
    Optimizer();
    Scheduler();
    Precision();
    Zero();
    return std::move(config_);
  }

 private:
  void Wrong(TextPlace place, std::string message) {
    findings_.Add(At(text_, place, std::move(message)));
  }
  void Note(TextPlace place, const std::string& what) {
    config_.notes.push_back(At(text_, place, what).Headline());
  }

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
      if (findings_.all().size() >= kMostFindings) return;
      const std::string path = prefix + member.key;
      const DeepSpeedKey* const key = FindDeepSpeedKey(path);
      if (key == nullptr || member.key.find('.') != std::string::npos) {
        Unknown(prefix, member);
        continue;
      }
      const JsonValue& value = member.value;
      const bool said = value.kind != JsonValue::Kind::kNull && !IsAuto(value);
      if (said && !IsOfKind(value, key->kind)) {
        Wrong(value.place, absl::StrCat(path, ": expected ", std::string(KindWords(key->kind)),
                                        ", got ", Shown(value)));
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
      Note(member.place, what + "; it does nothing");
    } else {
      Wrong(member.place, what + " (--allow-unknown-config-keys passes over it)");
    }
  }

  void Fated(const std::string& path, const DeepSpeedKey& key, const JsonMember& member) {
    switch (key.fate) {
      case Fate::kRead:
      case Fate::kQuiet:
        return;
      case Fate::kFlag:
        if (key.kind == Kind::kInt) return (void)ImplyWhole(path, std::string(key.words));
        return Imply(std::string(key.words), member.value.text, path, member.value.place);
      case Fate::kNoted:
        return Note(member.place, absl::StrCat(path, " has no effect: ", std::string(key.words)));
      case Fate::kRefused:
        return Wrong(member.value.place,
                     absl::StrCat(path, ": ", Shown(member.value), ": ", std::string(key.words)));
    }
  }

  // ---- what becomes flags

  // Of a right kind; null, "auto" and what is wrong are as if it were left out.
  const JsonValue* Find(const std::string& path) const {
    const JsonValue* value = root_;
    size_t begin = 0;
    while (value != nullptr && begin <= path.size()) {
      const size_t end = std::min(path.find('.', begin), path.size());
      value = value->Find(path.substr(begin, end - begin));
      begin = end + 1;
    }
    if (value == nullptr || value->kind == JsonValue::Kind::kNull || IsAuto(*value)) return nullptr;
    const DeepSpeedKey* const key = FindDeepSpeedKey(path);
    return key == nullptr || IsOfKind(*value, key->kind) ? value : nullptr;
  }
  // It is there, even if only as "auto".
  bool IsSaid(const std::string& path) const {
    const JsonValue* value = root_;
    const std::vector<std::string> parts = absl::StrSplit(path, '.');
    for (const std::string& part : parts) {
      if (value != nullptr) value = value->Find(part);
    }
    return value != nullptr && value->kind != JsonValue::Kind::kNull;
  }
  bool IsOn(const std::string& path) const {
    const JsonValue* const value = Find(path);
    return value != nullptr && value->flag;
  }

  void Imply(std::string flag, std::string value, std::string key,
             std::optional<TextPlace> place = std::nullopt) {
    config_.flags.push_back(
        {std::move(flag), std::move(value), /*negated=*/false, std::move(key), place});
  }
  bool ImplyWhole(const std::string& path, const std::string& flag, int64_t factor = 1) {
    const JsonValue* const value = Find(path);
    if (value == nullptr) return false;
    const int64_t whole = *value->AsInteger();
    if (whole > std::numeric_limits<int64_t>::max() / factor ||
        whole < -(int64_t{1} << 62) / factor) {
      Wrong(value->place,
            absl::StrCat(path, ": expected a number that 64 bits hold, got ", value->text));
      return true;
    }
    Imply(flag, std::to_string(whole * factor), path, value->place);
    return true;
  }

  void Batch() {
    if (IsOn("elasticity.enabled")) return Elastic();
    const bool global = ImplyWhole("train_batch_size", "global-batch-size");
    const bool micro = ImplyWhole("train_micro_batch_size_per_gpu", "micro-batch-size");
    const bool steps = ImplyWhole("gradient_accumulation_steps", "gradient-accumulation-steps");
    if (global != micro && !steps && !IsSaid("gradient_accumulation_steps")) {
      Imply("gradient-accumulation-steps", "1", "gradient_accumulation_steps");
    }
  }

  void Elastic() {
    ElasticRequest request;
    config_.elastic_place = Find("elasticity.enabled")->place;
    for (const char* const key : {"max_train_batch_size", "micro_batch_sizes"}) {
      if (Find(std::string("elasticity.") + key) != nullptr) continue;
      Wrong(config_.elastic_place, absl::StrCat("elasticity: expected ", key));
    }
    const auto whole = [&](const char* key, int64_t& to) {
      if (const JsonValue* const value = Find(std::string("elasticity.") + key)) {
        to = *value->AsInteger();
      }
    };
    whole("max_train_batch_size", request.max_batch);
    whole("min_gpus", request.min_ranks);
    whole("max_gpus", request.max_ranks);
    whole("num_gpus_per_node", request.ranks_per_node);
    whole("model_parallel_size", request.model_parallel);
    if (request.model_parallel > 1) {
      Wrong(Find("elasticity.model_parallel_size")->place,
            "elasticity.model_parallel_size: ranks are data parallel only; leave it out");
    }
    if (const JsonValue* const larger = Find("elasticity.prefer_larger_batch")) {
      request.prefer_larger = larger->flag;
    }
    if (const JsonValue* const version = Find("elasticity.version")) {
      if (version->number != 0.1 && version->number != 0.2) {
        Wrong(version->place,
              absl::StrCat("elasticity.version: expected 0.1 or 0.2, got ", version->text));
      }
      request.by_node = version->number != 0.1;
    }
    if (const JsonValue* const micros = Find("elasticity.micro_batch_sizes")) {
      request.micro_batches.clear();
      for (const JsonValue& micro : micros->elements) {
        const std::optional<int64_t> size = micro.AsInteger();
        if (!size) {
          Wrong(micro.place,
                absl::StrCat("elasticity.micro_batch_sizes: expected whole numbers, got ",
                             Shown(micro)));
        } else {
          request.micro_batches.push_back(*size);
        }
      }
    }
    if (!IsOn("elasticity.ignore_non_elastic_batch_info")) {
      for (const char* const key :
           {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}) {
        if (const JsonValue* const value = Find(key)) {
          Wrong(value->place, absl::StrCat(key,
                                           ": elasticity says the batch; leave it out, or set "
                                           "elasticity.ignore_non_elastic_batch_info"));
        }
      }
    }
    config_.elastic = std::move(request);
  }

  // DeepSpeed's names are ours in small letters, but for what its Adam is.
  std::string OptimizerName(const JsonValue& type) const {
    const std::string name = absl::AsciiStrToLower(type.text);
    if (name != "adam") return name;
    const JsonValue* const decoupled = Find("optimizer.params.adam_w_mode");
    return decoupled != nullptr && decoupled->kind == JsonValue::Kind::kBool && !decoupled->flag
               ? "adam"
               : "adamw";
  }

  void Optimizer() {
    const JsonValue* const type = Find("optimizer.type");
    if (type == nullptr) {
      if (const JsonValue* const params = Find("optimizer.params")) {
        Wrong(params->place, "optimizer: expected a \"type\" beside \"params\"");
      }
      return;
    }
    const std::string name = OptimizerName(*type);
    const OptimizerForm* const form = FindOptimizer(name);
    if (form == nullptr) {
      std::vector<std::string> names;
      for (const OptimizerForm& one : OptimizerForms()) names.emplace_back(one.name);
      const bool was_there = name.starts_with("onebit") || name.starts_with("zeroone");
      return Wrong(type->place, absl::StrCat("optimizer.type: expected one of ",
                                             absl::StrJoin(names, ", "), ", got ", Shown(*type),
                                             was_there ? " (which DeepSpeed removed after 0.19.6)"
                                                       : DidYouMean(type->text, names)));
    }
    Imply("optimizer", name, "optimizer.type", type->place);
    const JsonValue* const params = Find("optimizer.params");
    if (params != nullptr) {
      for (const JsonMember& member : params->members) OptimizerParameter(*form, member);
    }
    OptimizerDefaults(*form, params);
  }

  void OptimizerParameter(const OptimizerForm& form, const JsonMember& member) {
    const JsonValue& value = member.value;
    const std::string path = "optimizer.params." + member.key;
    if (value.kind == JsonValue::Kind::kNull || IsAuto(value)) return;
    if (member.key == "betas") return Betas(form, path, value);
    if (member.key == "lr" || member.key == "weight_decay") {
      if (!IsOfKind(value, Kind::kReal)) return NotA(path, Kind::kReal, value);
      const bool rate = member.key == "lr";
      return Imply(rate ? "lr" : "weight-decay", value.text, path, value.place);
    }
    const OptimizerParam* const param = form.Find(member.key);
    if (param != nullptr && !member.key.starts_with("beta")) return Given(*param, path, member);
    // What it asks for where it is not this.
    static constexpr std::pair<const char*, const char*> kOthers[] = {
        {"adam_w_mode", "true"},
        {"bias_correction", "true"},
        {"amsgrad", "false"},
        {"torch_adam", ""},
        {"fp32_optimizer_states", "true"},
        {"eps_inside_sqrt", "false"},
        {"fused", ""},
        {"foreach", ""},
        {"capturable", ""},
        {"maximize", "false"},
        {"differentiable", "false"},
        {"set_grad_none", ""},
        {"dampening", "0"},
        {"per_head_muon", "false"},
    };
    for (const auto& [key, only] : kOthers) {
      if (member.key != key) continue;
      if (*only == '\0' || AsksForNothing(value, only)) return;
      if (member.key == "adam_w_mode" && form.name == "adam") return;
      if (member.key == "adam_w_mode" && form.name == "adamw") {
        return Note(member.place, path + " has no effect: AdamW's decay is always decoupled");
      }
      return Wrong(value.place, absl::StrCat(path, ": expected ", only, ", got ", Shown(value),
                                             "; dsrun has nothing else"));
    }
    if (member.key == "max_grad_norm") {
      return Wrong(member.place, path + ": write gradient_clipping, beside the optimizer");
    }
    std::vector<std::string> names = {"lr", "weight_decay", "betas"};
    for (const OptimizerParam& param : form.params) names.emplace_back(param.key);
    Wrong(member.place,
          absl::StrCat("optimizer.params: ", std::string(form.name), " has no parameter ",
                       Quoted(member.key), DidYouMean(member.key, names)));
  }

  void Given(const OptimizerParam& param, const std::string& path, const JsonMember& member) {
    const JsonValue& value = member.value;
    std::string text = value.text;
    bool good = IsOfKind(value, Kind::kReal);
    if (param.is_flag && value.kind == JsonValue::Kind::kBool) {
      good = true;
      text = value.flag ? "1" : "0";
    }
    if (!param.words.empty()) {
      good = value.kind == JsonValue::Kind::kString && text.find(',') == std::string::npos;
    }
    if (!good) return NotA(path, param.words.empty() ? Kind::kReal : Kind::kText, value);
    Imply("optimizer-param", member.key + "=" + text, path, value.place);
  }

  void NotA(const std::string& path, Kind kind, const JsonValue& value) {
    Wrong(value.place,
          absl::StrCat(path, ": expected ", std::string(KindWords(kind)), ", got ", Shown(value)));
  }

  void Betas(const OptimizerForm& form, const std::string& path, const JsonValue& value) {
    const bool two = value.kind == JsonValue::Kind::kArray && value.elements.size() == 2 &&
                     std::ranges::all_of(value.elements, [](const JsonValue& beta) {
                       return IsOfKind(beta, Kind::kReal);
                     });
    if (!two) {
      return Wrong(value.place,
                   absl::StrCat(path, ": expected a list of two numbers, got ", Shown(value)));
    }
    if (form.Find("beta1") == nullptr) {
      return Wrong(value.place,
                   absl::StrCat(path, ": ", std::string(form.name), " has none; leave it out"));
    }
    for (size_t i = 0; i < 2; ++i) {
      Imply("optimizer-param", absl::StrCat("beta", i + 1, "=", value.elements[i].text), path,
            value.elements[i].place);
    }
  }

  // Where DeepSpeed's own differ from ours.
  void OptimizerDefaults(const OptimizerForm& form, const JsonValue* params) {
    const auto given = [&](const char* key) {
      const JsonValue* const value = params == nullptr ? nullptr : params->Find(key);
      return value != nullptr && value->kind != JsonValue::Kind::kNull;
    };
    const bool muon = form.rule == OptimizerForm::Rule::kMuon;
    if (!given("lr")) {
      const char* const rate = muon ? "0.02" : form.name == "adagrad" ? "0.01" : "0.001";
      Imply("lr", rate, "optimizer.params.lr");
      if (muon && !given("adam_lr")) {
        Imply("optimizer-param", "adam_lr=0.0003", "optimizer.params.adam_lr");
      }
    }
    if (!given("weight_decay")) Imply("weight-decay", "0", "optimizer.params.weight_decay");
    if (!muon && !given("betas") && form.Find("beta1") != nullptr) {
      Imply("optimizer-param", "beta1=0.9", "optimizer.params.betas");
      Imply("optimizer-param", "beta2=0.999", "optimizer.params.betas");
    }
  }

  void Scheduler() {
    const JsonValue* const type = Find("scheduler.type");
    if (type == nullptr) {
      if (const JsonValue* const params = Find("scheduler.params")) {
        Wrong(params->place, "scheduler: expected a \"type\" beside \"params\"");
      } else if (Find("optimizer.type") != nullptr) {
        Imply("lr-schedule", "constant", "scheduler");
        Imply("lr-warmup-iters", "0", "scheduler");
      }
      return;
    }
    static const std::vector<std::string> kNames = {"WarmupLR", "WarmupDecayLR", "WarmupCosineLR",
                                                    "OneCycle", "LRRangeTest"};
    const ScheduleForm* const form = FindScheduleForm(type->text);
    if (std::ranges::find(kNames, type->text) == kNames.end() || form == nullptr) {
      return Wrong(type->place,
                   absl::StrCat("scheduler.type: expected one of ", absl::StrJoin(kNames, ", "),
                                ", got ", Shown(*type), DidYouMean(type->text, kNames)));
    }
    Imply("lr-schedule", type->text, "scheduler.type", type->place);
    const JsonValue* const params = Find("scheduler.params");
    if (params != nullptr) {
      for (const JsonMember& member : params->members) ScheduleParameter(*form, member);
    }
    const JsonValue* const most = params == nullptr ? nullptr : params->Find("warmup_max_lr");
    // Of WarmupLR it is the optimizer's rate.
    if (form->name == "WarmupDecayLR" &&
        (most == nullptr || most->kind == JsonValue::Kind::kNull)) {
      Imply("lr-schedule-param", "warmup_max_lr=0.001", "scheduler.params.warmup_max_lr");
    }
  }

  void ScheduleParameter(const ScheduleForm& form, const JsonMember& member) {
    const std::string path = "scheduler.params." + member.key;
    const JsonValue* value = &member.value;
    if (value->kind == JsonValue::Kind::kNull || IsAuto(*value)) return;
    if (FindScheduleParam(form, member.key) == nullptr) {
      if (member.key == "last_batch_iteration") {
        if (value->AsInteger() == -1) return;
        return Wrong(value->place, path + ": expected -1; --load goes on where a run has ended");
      }
      std::vector<std::string> names;
      for (const ScheduleParam& param : form.params) names.push_back(param.key);
      return Wrong(member.place, absl::StrCat("scheduler.params: ", form.name, " has no parameter ",
                                              Quoted(member.key), DidYouMean(member.key, names)));
    }
    // One for each parameter group, of which DeepSpeed makes one.
    if (value->kind == JsonValue::Kind::kArray && value->elements.size() == 1) {
      value = &value->elements.front();
    }
    std::string text;
    switch (value->kind) {
      case JsonValue::Kind::kNumber:
      case JsonValue::Kind::kString:
        text = value->text;
        break;
      case JsonValue::Kind::kBool:
        text = value->flag ? "1" : "0";
        break;
      default:
        return Wrong(value->place, absl::StrCat(path, ": expected one value, got ", Shown(*value)));
    }
    Imply("lr-schedule-param", member.key + "=" + text, path, value->place);
  }

  void Precision() {
    const bool half = IsOn("fp16.enabled");
    const std::string bf16 = IsOn("bf16.enabled") ? "bf16.enabled" : "bfloat16.enabled";
    const bool brain = IsOn(bf16);
    if (half && brain) {
      return Wrong(Find(bf16)->place, bf16 + ": fp16 is enabled, too; leave one of them out");
    }
    if (brain) Imply("precision", "bf16", bf16, Find(bf16)->place);
    // "auto": a flag says it.
    if (!half && !(IsSaid("fp16.enabled") && Find("fp16.enabled") == nullptr)) return;
    if (half) Imply("precision", "fp16", "fp16.enabled", Find("fp16.enabled")->place);
    const JsonValue* const scale = Find("fp16.loss_scale");
    if (scale != nullptr && scale->number != 0) {
      return Imply("loss-scale", scale->text, "fp16.loss_scale", scale->place);
    }
    ImplyWhole("fp16.initial_scale_power", "initial-scale-power");
    ImplyWhole("fp16.loss_scale_window", "loss-scale-window");
    ImplyWhole("fp16.hysteresis", "hysteresis");
    LeastScale();
    ImplySwitch("fp16.consecutive_hysteresis", "consecutive-hysteresis");
  }

  // Ours are powers of two, so that no gradient loses a bit to them.
  void LeastScale() {
    const char* const path = "fp16.min_loss_scale";
    const JsonValue* const value = Find(path);
    if (value == nullptr) return;
    int exponent = 0;
    if (value->number <= 0 || std::frexp(value->number, &exponent) == 0.5) {
      return Imply("min-loss-scale", value->text, path, value->place);
    }
    const std::string power = absl::StrFormat("%.17g", std::ldexp(1.0, exponent - 1));
    Note(value->place, absl::StrCat(path, ": the power of two below it is taken, ", power));
    Imply("min-loss-scale", power, path, value->place);
  }

  void ImplySwitch(const std::string& path, const std::string& flag) {
    const JsonValue* const value = Find(path);
    if (value == nullptr) return;
    Imply(flag, "", path, value->place);
    config_.flags.back().negated = !value->flag;
  }

  void Zero() {
    const JsonValue* const block = Find("zero_optimization");
    if (block != nullptr && block->kind == JsonValue::Kind::kBool) {
      return Imply("zero-stage", block->flag ? "1" : "0", "zero_optimization", block->place);
    }
    if (block != nullptr && block->kind != JsonValue::Kind::kObject) {
      return Wrong(block->place,
                   absl::StrCat("zero_optimization: expected {\"stage\": N}, got ", Shown(*block)));
    }
    if (!ImplyWhole("zero_optimization.stage", "zero-stage") &&
        !IsSaid("zero_optimization.stage")) {
      Imply("zero-stage", "0", "zero_optimization.stage");
    }
    ImplyWhole("zero_optimization.reduce_bucket_size", "bucket-bytes", kBytesOfElement);
    ImplySwitch("zero_optimization.overlap_comm", "overlap");
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
      ImplyWhole(std::string("zero_optimization.") + key, flag);
  }

  const SourceText& text_;
  const ConfigChoices& choices_;
  Findings& findings_;
  const JsonValue* root_ = nullptr;
  DeepSpeedConfig config_;
};

}  // namespace

std::optional<DeepSpeedConfig> ReadDeepSpeedConfig(const SourceText& text,
                                                   const ConfigChoices& choices,
                                                   Findings& findings) {
  const std::optional<JsonValue> root = ParseJsonText(text, findings);
  if (!root) return std::nullopt;
  return Reader(text, choices, findings).Read(*root);
}

}  // namespace dsrun::launcher
