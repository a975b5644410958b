#include "launcher/commands/optimizer_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <tuple>

#include "common/base/counted.h"
#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/plan/matrix_plan.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/plan/shard_plan.h"
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

// In the order of their names, which a map of the wire has not; a choice by its word.
nlohmann::ordered_json ParamsJson(const proto::OptimizerSpec& spec) {
  const OptimizerForm* const form = FindOptimizer(spec.name());
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [key, value] :
       std::map<std::string, double>(spec.params().begin(), spec.params().end())) {
    const OptimizerParam* const param = form == nullptr ? nullptr : form->Find(key);
    if (param != nullptr && !param->words.empty()) {
      json[key] = ValueText(*param, value);
    } else {
      json[key] = value;
    }
  }
  return json;
}

}  // namespace

std::string OptimizerText(const proto::TrainSpec& train) {
  const auto settings = OptimizerOfSpec(train);
  if (!settings.ok()) return train.optimizer().name();
  std::string text(settings->form->name);
  for (const OptimizerParam& param : settings->form->params) {
    if (param.key == "beta2") continue;
    const std::string key(param.key);
    if (!settings->params.contains(key)) continue;
    text += ", " + (key == "beta1" ? BetasText(train, *settings)
                                   : key + " " + ValueText(param, settings->Param(key.c_str())));
  }
  return text + ", weight decay " + Short(settings->weight_decay);
}

nlohmann::ordered_json OptimizerJson(const proto::TrainSpec& train) {
  nlohmann::ordered_json json = {{"name", train.optimizer().name()},
                                 {"params", ParamsJson(train.optimizer())},
                                 {"groups", nlohmann::ordered_json::array()}};
  for (const proto::ParameterGroup& group : train.optimizer().groups()) {
    nlohmann::ordered_json one = {{"pattern", group.pattern()}, {"lr", group.lr_scale()}};
    if (group.has_weight_decay()) one["weight_decay"] = group.weight_decay();
    json["groups"].push_back(std::move(one));
  }
  return json;
}

std::string MatricesText(const proto::TrainSpec& train, int64_t width) {
  const auto settings = OptimizerOfSpec(train);
  if (!settings.ok() || !OrthogonalisesMatrices(settings->plan())) return "";
  const std::vector<std::string> frozen(train.frozen().begin(), train.frozen().end());
  const FlatLayout layout(PlanModel(FromProto(train.model()), frozen).tensors);
  const MatrixPlan plan = PlanMatrices(layout, width);
  double flops = 0;  // of all ranks together
  for (const MatrixPlan::Matrix& matrix : plan.matrices) {
    flops += NewtonSchulzFlops(settings->ns_method(), matrix.shape);
  }
  const ModelSpec model = FromProto(train.model());
  const double all = TrainFlops(model, train.global_batch_size() * model.seq_length);
  char added[64];
  std::snprintf(added, sizeof(added), "%.3g FLOP a step more (%.1f %%)", flops, 100 * flops / all);
  return std::to_string(plan.matrices.size()) + " hidden ones orthogonalised in " +
         Counted(plan.rounds, "round") + ", in each at most one by each rank; " + added;
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
    double lr_scale = 1;
  };
  // Groups in their order, the others last; of each what is orthogonalised, then what decays.
  std::map<std::tuple<size_t, bool, bool, double>, Kind> kinds;
  for (const LogicalTensor& tensor : LogicalTensors(FromProto(train.model()))) {
    if (frozen.contains(tensor.name)) continue;
    const ParameterGroup* const group = settings->GroupOf(tensor.name);
    const size_t place = group == nullptr ? settings->groups.size()
                                          : static_cast<size_t>(group - settings->groups.data());
    const bool by_kind = group == nullptr || !group->weight_decay.has_value();
    Kind& kind = kinds[{place, !settings->Orthogonalises(tensor), by_kind && !tensor.weight_decay,
                        settings->RatesOf(tensor).weight_decay}];
    ++kind.tensors;
    kind.elements += tensor.size();
    kind.lr_scale = settings->RatesOf(tensor).lr_scale;
  }
  const bool muon = settings->form->rule == OptimizerForm::Rule::kMuon;
  for (const auto& [key, kind] : kinds) {
    const auto& [place, by_element, vectors, decay] = key;
    const bool grouped = place < settings->groups.size();
    const bool by_kind = muon || !grouped || !settings->groups[place].weight_decay.has_value();
    const std::string of_kind = !by_element ? "hidden matrices, orthogonalised"
                                : vectors   ? "norms and biases"
                                : !muon     ? "matrices"
                                            : "others";
    const std::string name = grouped
                                 ? settings->groups[place].pattern + (by_kind ? ": " + of_kind : "")
                                 : (settings->groups.empty() ? "" : "others: ") + of_kind;
    rows.push_back({name, CountText(kind.tensors), CountText(kind.elements), Short(kind.lr_scale),
                    Short(decay)});
  }
  return rows;
}

}  // namespace dsrun::launcher
