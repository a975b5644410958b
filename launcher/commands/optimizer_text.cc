#include "launcher/commands/optimizer_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <tuple>

#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/schedule/schedule_of_spec.h"

namespace dsrun::launcher {
namespace {

std::string Short(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

// OneCycle's stand in place of the optimizer's.
std::string BetasText(const proto::TrainSpec& train, const OptimizerSettings& settings) {
  const auto schedule = ScheduleOfSpec(train);
  if (schedule.ok() && schedule->At(0).sets_betas) return "betas by " + schedule->name();
  return "betas " + Short(settings.Param("beta1")) + " " + Short(settings.Param("beta2"));
}

}  // namespace

std::string OptimizerText(const proto::TrainSpec& train) {
  const auto settings = OptimizerOfSpec(train);
  if (!settings.ok()) return train.optimizer().name();
  std::string text(settings->form->name);
  for (const OptimizerParam& param : settings->form->params) {
    if (param.key == "beta2") continue;
    const std::string key(param.key);
    text += ", " + (key == "beta1" ? BetasText(train, *settings)
                                   : key + " " + Short(settings->Param(key.c_str())));
  }
  return text + ", weight decay " + Short(settings->weight_decay);
}

nlohmann::ordered_json OptimizerJson(const proto::TrainSpec& train) {
  const auto& params = train.optimizer().params();
  nlohmann::ordered_json json = {
      {"name", train.optimizer().name()},
      {"params", std::map<std::string, double>(params.begin(), params.end())},
      {"groups", nlohmann::ordered_json::array()}};
  for (const proto::ParameterGroup& group : train.optimizer().groups()) {
    nlohmann::ordered_json one = {{"pattern", group.pattern()}, {"lr", group.lr_scale()}};
    if (group.has_weight_decay()) one["weight_decay"] = group.weight_decay();
    json["groups"].push_back(std::move(one));
  }
  return json;
}

std::vector<std::vector<std::string>> ParameterGroupRows(const proto::TrainSpec& train) {
  std::vector<std::vector<std::string>> rows = {
      {"parameter group", "tensors", "elements", "lr factor", "weight decay"}};
  const auto settings = OptimizerOfSpec(train);
  if (!settings.ok()) return rows;
  const std::set<std::string> frozen(train.frozen().begin(), train.frozen().end());
  struct Kind {
    int64_t tensors = 0;
    int64_t elements = 0;
  };
  // Groups in their order, the others last; of each what decays first.
  std::map<std::tuple<size_t, bool, double>, Kind> kinds;
  for (const LogicalTensor& tensor : LogicalTensors(FromProto(train.model()))) {
    if (frozen.contains(tensor.name)) continue;
    const ParameterGroup* const group = settings->GroupOf(tensor.name);
    const size_t place = group == nullptr ? settings->groups.size()
                                          : static_cast<size_t>(group - settings->groups.data());
    const bool by_kind = group == nullptr || !group->weight_decay.has_value();
    Kind& kind =
        kinds[{place, by_kind && !tensor.weight_decay, settings->RatesOf(tensor).weight_decay}];
    ++kind.tensors;
    kind.elements += tensor.size();
  }
  for (const auto& [key, kind] : kinds) {
    const auto& [place, vectors, decay] = key;
    const bool grouped = place < settings->groups.size();
    const bool by_kind = !grouped || !settings->groups[place].weight_decay.has_value();
    const std::string of_kind = vectors ? "norms and biases" : "matrices";
    const std::string name = grouped
                                 ? settings->groups[place].pattern + (by_kind ? ": " + of_kind : "")
                                 : (settings->groups.empty() ? "" : "others: ") + of_kind;
    rows.push_back({name, CountText(kind.tensors), CountText(kind.elements),
                    Short(grouped ? settings->groups[place].lr_scale : 1), Short(decay)});
  }
  return rows;
}

}  // namespace dsrun::launcher
