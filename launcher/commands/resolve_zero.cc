// The settings of ZeRO-3: --zero3-...

#include <cstdint>
#include <string>

#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 50;

struct Setting {
  const char* flag;
  int64_t least;
  void (proto::ZeroSettings::*set)(int64_t);
};

constexpr Setting kSettings[] = {
    {"zero3-prefetch", 0, &proto::ZeroSettings::set_prefetch},
    {"zero3-persistence-threshold", 0, &proto::ZeroSettings::set_persistence_threshold},
    {"zero3-max-live-parameters", 0, &proto::ZeroSettings::set_max_live_parameters},
    {"zero3-max-reuse-distance", 0, &proto::ZeroSettings::set_max_reuse_distance},
    {"zero3-sub-group-size", 1, &proto::ZeroSettings::set_sub_group_size},
};

}  // namespace

void ResolveZero3(ResolveContext& context) {
  proto::TrainSpec& train = *context.resolved.job.mutable_train();
  for (const Setting& setting : kSettings) {
    if (!context.values.Has(setting.flag)) continue;
    if (train.zero_stage() != 3) {
      context.findings.AddFlag(std::string("--") + setting.flag,
                               "it is a setting of ZeRO stage 3, and this job's stage is " +
                                   std::to_string(train.has_zero_stage() ? train.zero_stage() : 1) +
                                   ", in which no parameter is gathered for its use; leave it out");
      continue;
    }
    const auto elements = context.values.Int(setting.flag, setting.least, kMostElements);
    if (elements.has_value()) (train.mutable_zero()->*setting.set)(*elements);
  }
}

}  // namespace dsrun::launcher
