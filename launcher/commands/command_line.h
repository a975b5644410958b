// argv -> which command, with which flags. Values are still text here; flag_values.h reads them.
//
//   dsrun [launcher flags] train [train flags]
//   dsrun [launcher flags] PROGRAM [arguments]     everything behind PROGRAM is the program's
//   dsrun plan [plan and train flags]
//   dsrun checkpoint hash|inspect DIR ...         everything behind is checkpoint_command's
//   dsrun where --param NAME DIR                  likewise
//   dsrun help [train|plan] [--markdown]     --help anywhere before PROGRAM does the same
//   dsrun --version
//
// Launcher flags are understood after `train` as well: `dsrun train ... --dry-run`. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_COMMAND_LINE_H_
#define DSRUN_LAUNCHER_COMMANDS_COMMAND_LINE_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/elastic_batch.h"
#include "common/config/source_text.h"
#include "launcher/commands/options.h"

namespace dsrun::launcher {

struct FlagUse {
  const Option* option;
  std::string value;     // empty for switches
  bool negated = false;  // --no-overlap
};

class FlagUses {
 public:
  void Add(FlagUse use) { uses_.push_back(std::move(use)); }
  const std::vector<FlagUse>& all() const { return uses_; }
  // The last use of the flag of that name, or nullptr.
  const FlagUse* Last(std::string_view name) const;
  bool Has(std::string_view name) const { return Last(name) != nullptr; }

 private:
  std::vector<FlagUse> uses_;
};

struct CommandLine {
  enum class Command { kNone, kTrain, kProgram, kPlan, kCheckpoint, kHelp, kVersion };
  Command command = Command::kNone;
  FlagUses flags;                         // launcher's and train's, or plan's and train's
  std::vector<std::string> program;       // as typed, for kProgram
  std::optional<ElasticRequest> elastic;  // of the file of --deepspeed_config (config_file.h)
  std::vector<std::string> checkpoint;    // what follows the word; checkpoint_command.h judges it
  bool help_train = false;                // for kHelp
  bool help_plan = false;
  bool help_markdown = false;
};

// `args` without argv[0]. What is wrong goes to `findings`; flags of other launchers that do
// nothing here go to `notes`.
CommandLine ParseCommandLine(const std::vector<std::string>& args, Findings& findings,
                             std::vector<std::string>& notes);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_COMMAND_LINE_H_
