// What a dry run says of the optimizer. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_OPTIMIZER_TEXT_H_
#define DSRUN_LAUNCHER_COMMANDS_OPTIMIZER_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// "adamw, betas 0.9 0.95, eps 1e-08, weight decay 0.1". REQUIRES here and below: the spec is
// resolved.
std::string OptimizerText(const proto::TrainSpec& train);

// What Muon orthogonalises at this width, and the arithmetic of it: "16 hidden ones orthogonalised
// in 6 rounds,
// ..."; empty: the optimizer is another.
std::string MatricesText(const proto::TrainSpec& train, int64_t width);

// Name, parameters, groups.
nlohmann::ordered_json OptimizerJson(const proto::TrainSpec& train);

// A row for each kind of tensors that train, with a heading: group, tensors, elements, factor of
// the rate, decay.
std::vector<std::vector<std::string>> ParameterGroupRows(const proto::TrainSpec& train);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_OPTIMIZER_TEXT_H_
