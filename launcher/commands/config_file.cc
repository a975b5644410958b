#include "launcher/commands/config_file.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "common/config/source_file.h"
#include "launcher/commands/deepspeed_merge.h"

namespace dsrun::launcher {
namespace {

constexpr char kConfigFlag[] = "deepspeed_config";
constexpr char kShortFlag[] = "deepspeed";

// An object in base64, of either alphabet: what Accelerate and notebooks hand on.
std::optional<std::string> FromBase64(const std::string& value) {
  std::string text;
  const bool is = absl::WebSafeBase64Unescape(value, &text) || absl::Base64Unescape(value, &text);
  if (!is || Stripped(text).empty() || Stripped(text).front() != '{') return std::nullopt;
  return text;
}

std::unique_ptr<SourceText> TextOf(const std::string& flag, const std::string& value,
                                   Findings& findings) {
  if (std::optional<std::string> text = FromBase64(value)) {
    return std::make_unique<SourceText>(flag, *std::move(text));
  }
  absl::StatusOr<std::string> text = ReadSourceFile(value, value);
  if (text.ok()) return std::make_unique<SourceText>(value, *std::move(text));
  findings.AddFlag(flag, std::string(text.status().message()));
  return nullptr;
}

}  // namespace

bool ConfigFile::IsNamed(const FlagUses& flags) {
  return flags.Has(kConfigFlag) || flags.Has(kShortFlag);
}

std::optional<ConfigFile> ConfigFile::Take(CommandLine& line, Findings& findings,
                                           std::vector<std::string>& notes) {
  const FlagUse* const use = line.flags.Last(kConfigFlag);
  const FlagUse* const other = line.flags.Last(kShortFlag);
  const FlagUse* const given = use != nullptr ? use : other;
  if (given == nullptr) return std::nullopt;
  if (use != nullptr && other != nullptr && use->value != other->value) {
    findings.AddFlag("--deepspeed", "names " + Quoted(other->value) + ", and --deepspeed_config " +
                                        Quoted(use->value) + "; leave one of them out");
    return std::nullopt;
  }
  std::unique_ptr<SourceText> text = TextOf(given->option->flag(), given->value, findings);
  if (text == nullptr) return std::nullopt;
  const ConfigChoices choices{.unknown_keys_are_noted =
                                  line.flags.Has("allow-unknown-config-keys")};
  std::optional<DeepSpeedConfig> config = ReadDeepSpeedConfig(*text, choices, findings);
  if (!config) return std::nullopt;
  FlagUses typed = line.flags;
  PutFlags(*text, *config, line.flags, notes);
  notes.insert(notes.end(), config->notes.begin(), config->notes.end());
  line.elastic = config->elastic;
  return ConfigFile(std::move(text), *std::move(config), std::move(typed));
}

Findings ConfigFile::PointedInto(const Findings& findings) const {
  return launcher::PointedInto(*text_, config_, typed_, findings);
}

}  // namespace dsrun::launcher
