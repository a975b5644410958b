#include "launcher/commands/deepspeed_optimizer.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/nearest.h"
#include "common/plan/optimizer_settings.h"
#include "common/schedule/lr_schedule.h"

namespace dsrun::launcher {
namespace {

using Kind = DeepSpeedKey::Kind;

class Optimizer {
 public:
  explicit Optimizer(DeepSpeedReader& reader) : r_(reader) {}

  void Read() {
    const JsonValue* const type = r_.Find("optimizer.type");
    if (type == nullptr) {
      if (const JsonValue* const params = r_.Find("optimizer.params")) {
        r_.Wrong(params->place, "optimizer: expected a \"type\" beside \"params\"");
      }
      return;
    }
    const std::string name = OptimizerName(*type);
    const OptimizerForm* const form = FindOptimizer(name);
    if (form == nullptr) {
      std::vector<std::string> names;
      for (const OptimizerForm& one : OptimizerForms()) names.emplace_back(one.name);
      const bool was_there = name.starts_with("onebit") || name.starts_with("zeroone");
      return r_.Wrong(type->place,
                      absl::StrCat("optimizer.type: expected one of ", absl::StrJoin(names, ", "),
                                   ", got ", Shown(*type),
                                   was_there ? " (which DeepSpeed removed after 0.19.6)"
                                             : DidYouMean(type->text, names)));
    }
    r_.Imply("optimizer", name, "optimizer.type", type->place);
    const JsonValue* const params = r_.Find("optimizer.params");
    if (params != nullptr) {
      for (const JsonMember& member : params->members) OptimizerParameter(*form, member);
    }
    OptimizerDefaults(*form, params);
  }

 private:
  // DeepSpeed's names are ours in small letters, but for what its Adam is.
  std::string OptimizerName(const JsonValue& type) const {
    const std::string name = absl::AsciiStrToLower(type.text);
    if (name != "adam") return name;
    const JsonValue* const decoupled = r_.Find("optimizer.params.adam_w_mode");
    return decoupled != nullptr && decoupled->kind == JsonValue::Kind::kBool && !decoupled->flag
               ? "adam"
               : "adamw";
  }

  void OptimizerParameter(const OptimizerForm& form, const JsonMember& member) {
    const JsonValue& value = member.value;
    const std::string path = "optimizer.params." + member.key;
    if (IsLeftOpen(value)) return;
    if (member.key == "betas") return Betas(form, path, value);
    if (member.key == "lr" || member.key == "weight_decay") {
      if (!IsOfKind(value, Kind::kReal)) return r_.NotA(path, Kind::kReal, value);
      const bool rate = member.key == "lr";
      return r_.Imply(rate ? "lr" : "weight-decay", value.text, path, value.place);
    }
    const OptimizerParam* const param = form.Find(member.key);
    if (param != nullptr && !member.key.starts_with("beta")) return Given(*param, path, member);
    // What it asks for where it is not this; "": nothing that matters here.
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
      if (AsksForNothing(value, only)) return;
      if (*only == '\0') {
        return r_.Note(member.place, path + " has no effect: there is one implementation");
      }
      if (member.key == "adam_w_mode" && form.name == "adam") return;
      if (member.key == "adam_w_mode" && form.name == "adamw") {
        return r_.Note(member.place, path + " has no effect: AdamW's decay is always decoupled");
      }
      return r_.Wrong(value.place, absl::StrCat(path, ": expected ", only, ", got ", Shown(value),
                                                "; dsrun has nothing else"));
    }
    if (member.key == "max_grad_norm") {
      return r_.Wrong(member.place, path + ": write gradient_clipping, beside the optimizer");
    }
    std::vector<std::string> names = {"lr", "weight_decay", "betas"};
    for (const OptimizerParam& param : form.params) names.emplace_back(param.key);
    r_.Wrong(member.place,
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
    if (!good) return r_.NotA(path, param.words.empty() ? Kind::kReal : Kind::kText, value);
    r_.Imply("optimizer-param", member.key + "=" + text, path, value.place);
  }

  void Betas(const OptimizerForm& form, const std::string& path, const JsonValue& value) {
    const bool two = value.kind == JsonValue::Kind::kArray && value.elements.size() == 2 &&
                     std::ranges::all_of(value.elements, [](const JsonValue& beta) {
                       return IsOfKind(beta, Kind::kReal);
                     });
    if (!two) {
      return r_.Wrong(value.place,
                      absl::StrCat(path, ": expected a list of two numbers, got ", Shown(value)));
    }
    if (form.Find("beta1") == nullptr) {
      return r_.Wrong(value.place,
                      absl::StrCat(path, ": ", std::string(form.name), " has none; leave it out"));
    }
    for (size_t i = 0; i < 2; ++i) {
      r_.Imply("optimizer-param", absl::StrCat("beta", i + 1, "=", value.elements[i].text), path,
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
      r_.Imply("lr", rate, "optimizer.params.lr");
      if (muon && !given("adam_lr")) {
        r_.Imply("optimizer-param", "adam_lr=0.0003", "optimizer.params.adam_lr");
      }
    }
    if (!given("weight_decay")) r_.Imply("weight-decay", "0", "optimizer.params.weight_decay");
    if (!muon && !given("betas") && form.Find("beta1") != nullptr) {
      r_.Imply("optimizer-param", "beta1=0.9", "optimizer.params.betas");
      r_.Imply("optimizer-param", "beta2=0.999", "optimizer.params.betas");
    }
  }

  DeepSpeedReader& r_;
};

class Scheduler {
 public:
  explicit Scheduler(DeepSpeedReader& reader) : r_(reader) {}

  void Read() {
    const JsonValue* const type = r_.Find("scheduler.type");
    if (type == nullptr) {
      if (const JsonValue* const params = r_.Find("scheduler.params")) {
        r_.Wrong(params->place, "scheduler: expected a \"type\" beside \"params\"");
      } else if (r_.Find("optimizer.type") != nullptr) {
        r_.Imply("lr-schedule", "constant", "scheduler");
        r_.Imply("lr-warmup-iters", "0", "scheduler");
      }
      return;
    }
    static const std::vector<std::string> kNames = {"WarmupLR", "WarmupDecayLR", "WarmupCosineLR",
                                                    "OneCycle", "LRRangeTest"};
    const ScheduleForm* const form = FindScheduleForm(type->text);
    if (std::ranges::find(kNames, type->text) == kNames.end() || form == nullptr) {
      return r_.Wrong(type->place,
                      absl::StrCat("scheduler.type: expected one of ", absl::StrJoin(kNames, ", "),
                                   ", got ", Shown(*type), DidYouMean(type->text, kNames)));
    }
    r_.Imply("lr-schedule", type->text, "scheduler.type", type->place);
    const JsonValue* const params = r_.Find("scheduler.params");
    if (params != nullptr) {
      for (const JsonMember& member : params->members) ScheduleParameter(*form, member);
    }
    const JsonValue* const most = params == nullptr ? nullptr : params->Find("warmup_max_lr");
    // Of WarmupLR it is the optimizer's rate.
    if (form->name == "WarmupDecayLR" &&
        (most == nullptr || most->kind == JsonValue::Kind::kNull)) {
      r_.Imply("lr-schedule-param", "warmup_max_lr=0.001", "scheduler.params.warmup_max_lr");
    }
  }

 private:
  void ScheduleParameter(const ScheduleForm& form, const JsonMember& member) {
    const std::string path = "scheduler.params." + member.key;
    const JsonValue* value = &member.value;
    if (IsLeftOpen(*value)) return;
    if (FindScheduleParam(form, member.key) == nullptr) {
      if (member.key == "last_batch_iteration") {
        if (value->AsInteger() == -1) return;
        return r_.Wrong(value->place, path + ": expected -1; --load goes on where a run has ended");
      }
      std::vector<std::string> names;
      for (const ScheduleParam& param : form.params) names.push_back(param.key);
      return r_.Wrong(member.place,
                      absl::StrCat("scheduler.params: ", form.name, " has no parameter ",
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
        return r_.Wrong(value->place,
                        absl::StrCat(path, ": expected one value, got ", Shown(*value)));
    }
    r_.Imply("lr-schedule-param", member.key + "=" + text, path, value->place);
  }

  DeepSpeedReader& r_;
};

}  // namespace

void ReadOptimizer(DeepSpeedReader& reader) { Optimizer(reader).Read(); }

void ReadScheduler(DeepSpeedReader& reader) { Scheduler(reader).Read(); }

}  // namespace dsrun::launcher
