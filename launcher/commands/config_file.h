// The file of --deepspeed_config (or --deepspeed): read, judged, and put among the flags of the
// line. Reads a file; writes nothing.

#ifndef DSRUN_LAUNCHER_COMMANDS_CONFIG_FILE_H_
#define DSRUN_LAUNCHER_COMMANDS_CONFIG_FILE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config/source_text.h"
#include "launcher/commands/command_line.h"
#include "launcher/commands/deepspeed_config.h"

namespace dsrun::launcher {

class ConfigFile {
 public:
  static bool IsNamed(const FlagUses& flags);
  // Nothing where the line names no file, or one that is no JSON: then there is a finding. What the
  // file says is put before the flags that were typed, and line.elastic is set; what a person may
  // not expect goes to `notes`. Base64 of a JSON text, as DeepSpeed takes it, may stand for the
  // name.
  static std::optional<ConfigFile> Take(CommandLine& line, Findings& findings,
                                        std::vector<std::string>& notes);

  // Those of the resolver, at the places that they are about.
  Findings PointedInto(const Findings& findings) const;

 private:
  ConfigFile(std::unique_ptr<SourceText> text, DeepSpeedConfig config, FlagUses typed)
      : text_(std::move(text)), config_(std::move(config)), typed_(std::move(typed)) {}

  std::unique_ptr<SourceText> text_;
  DeepSpeedConfig config_;
  FlagUses typed_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CONFIG_FILE_H_
