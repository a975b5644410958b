// DeepSpeed's JSON as flags of ours: what a file says becomes what somebody would have typed, with
// its place, so that one resolver judges both. All findings at once, each at its place in the file;
// keys that do nothing here, and what the file leaves to DeepSpeed's defaults, are told.
//
//   zero_optimization.stage 2        --zero-stage=2
//   optimizer.params.betas [.9,.95]  --optimizer-param=beta1=0.9 --optimizer-param=beta2=0.95
//
// What DeepSpeed does is followed as of 0.19.8, its code and not its documentation. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_CONFIG_H_
#define DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "common/config/elastic_batch.h"
#include "common/config/json_text.h"
#include "common/config/source_text.h"

namespace dsrun::launcher {

// One flag that a key has become.
struct ImpliedFlag {
  std::string flag;                // without dashes, as the table of options has it
  std::string value;               // empty: a switch
  bool negated = false;            // --no-overlap
  std::string key;                 // "zero_optimization.stage"
  std::optional<TextPlace> place;  // absent: what DeepSpeed does where the key is left out
};

struct DeepSpeedConfig {
  std::vector<ImpliedFlag> flags;
  // Of "elasticity", where it is enabled; its world size is not known here.
  std::optional<ElasticRequest> elastic;
  TextPlace elastic_place;
  std::vector<std::string> notes;  // a line each
};

struct ConfigChoices {
  bool unknown_keys_are_noted = false;  // --allow-unknown-config-keys
};

// What could be read; nothing where the text is no JSON.
std::optional<DeepSpeedConfig> ReadDeepSpeedConfig(const SourceText& text,
                                                   const ConfigChoices& choices,
                                                   Findings& findings);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_CONFIG_H_
