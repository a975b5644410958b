// Names of logical tensors: "model/<name>" is the fp32 master; "state/<slot>/<name>" is what the
// optimizer keeps for each of its elements ("exp_avg", "exp_avg_sq" of AdamW). Format 1 had
// "adam_m/<name>" and "adam_v/<name>" for these two, and the content hash still has: equal training
// has an equal hash, whatever format it was saved in. Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_TENSOR_NAMES_H_
#define DSRUN_COMMON_FORMAT_TENSOR_NAMES_H_

#include <string>
#include <string_view>

namespace dsrun {

inline constexpr std::string_view kModelPrefix = "model/";
inline constexpr std::string_view kStatePrefix = "state/";

// From a manifest of format 1; others are as they are.
std::string FromFormat1Name(std::string_view name);
std::string ToFormat1Name(std::string_view name);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_TENSOR_NAMES_H_
