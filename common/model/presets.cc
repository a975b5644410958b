#include "common/model/presets.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/model/gpt2.h"
#include "common/model/llama.h"

namespace dsrun {
namespace {

const std::vector<Preset>& Presets() {
  static const auto* const presets = [] {
    auto* const all = new std::vector<Preset>(Gpt2Presets());
    for (Preset& preset : LlamaPresets()) all->push_back(std::move(preset));
    return all;
  }();
  return *presets;
}

absl::StatusOr<const Preset*> Find(const std::string& name) {
  for (const Preset& preset : Presets()) {
    if (preset.spec.preset == name) return &preset;
  }
  return absl::NotFoundError(absl::StrCat("no model preset \"", name, "\"; there are ",
                                          absl::StrJoin(PresetNames(), ", ")));
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : Presets()) names.push_back(preset.spec.preset);
  return names;
}

absl::StatusOr<ModelSpec> FindPreset(const std::string& name) {
  const absl::StatusOr<const Preset*> preset = Find(name);
  if (!preset.ok()) return preset.status();
  return (*preset)->spec;
}

absl::StatusOr<PresetDefaults> FindPresetDefaults(const std::string& name) {
  const absl::StatusOr<const Preset*> preset = Find(name);
  if (!preset.ok()) return preset.status();
  return (*preset)->defaults;
}

}  // namespace dsrun
