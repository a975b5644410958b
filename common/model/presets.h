// Presets: shapes that have a name, of all families. Pure.

#ifndef DSRUN_COMMON_MODEL_PRESETS_H_
#define DSRUN_COMMON_MODEL_PRESETS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_spec.h"

namespace dsrun {

// What a preset stands for, besides its shape.
struct PresetDefaults {
  int64_t global_batch_size;
  int64_t micro_batch_size;
  double lr;
};

struct Preset {
  ModelSpec spec;
  PresetDefaults defaults;
};

// All known presets, family by family, each smallest first. The first is what is trained where no
// model is named.
std::vector<std::string> PresetNames();

// Errors: NOT_FOUND: no such preset; the message names all of them.
absl::StatusOr<ModelSpec> FindPreset(const std::string& name);
absl::StatusOr<PresetDefaults> FindPresetDefaults(const std::string& name);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_PRESETS_H_
