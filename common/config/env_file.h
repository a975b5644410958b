// The environment file (`.deepspeed_env`): one NAME=VALUE a line, sent to the ranks as data. No
// shell ever sees it: $HOME, back-ticks and blanks stay what they are.
//
//   # comment                blank lines and comments are skipped
//   NCCL_DEBUG=INFO
//   export PATH=/opt/bin     `export` in front is dropped
//   GREETING="good day"      a pair of quotes around the whole value is dropped
//   HOME                     a bare name means the value that dsrun itself has, if it has one
//
// Pure: the caller reads the file.

#ifndef DSRUN_COMMON_CONFIG_ENV_FILE_H_
#define DSRUN_COMMON_CONFIG_ENV_FILE_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/source_text.h"

namespace dsrun {

struct EnvSetting {
  std::string name;
  std::optional<std::string> value;  // nothing: a bare name
  friend bool operator==(const EnvSetting&, const EnvSetting&) = default;
};

// What a shell, and so every program, takes for the name of a variable.
bool IsVariableName(std::string_view name);

// In the order of the file; a later setting of a name wins over an earlier one.
std::vector<EnvSetting> ParseEnvFile(const SourceText& text, Findings& findings);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_ENV_FILE_H_
