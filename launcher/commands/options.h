// The one table of dsrun's flags. The parser, `--help`, `dsrun help` and docs/cli.md all come from
// it, so that none can say something else than the others. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_OPTIONS_H_
#define DSRUN_LAUNCHER_COMMANDS_OPTIONS_H_

#include <string>
#include <string_view>
#include <vector>

namespace dsrun::launcher {

struct Option {
  enum class Kind {
    kSwitch,    // --dry-run
    kOnOff,     // --overlap, --no-overlap
    kValue,     // --lr 2e-3, --lr=2e-3; the last one counts
    kRepeated,  // all of them count
  };
  // What becomes of a flag of another launcher.
  enum class Fate {
    kUsed,
    kNoted,    // accepted, does nothing here, and `words` says so in one line
    kRefused,  // an error; `words` name the replacement
  };

  std::string name;                       // without dashes in front, as help prints it
  std::vector<std::string> aliases = {};  // other long names, and short ones of one letter
  Kind kind = Kind::kValue;
  std::string value_name = {};    // "N", "PATH", "DURATION"; empty for switches
  std::string default_text = {};  // as help prints it; empty: none
  std::string help = {};
  Fate fate = Fate::kUsed;
  std::string words = {};
  bool bare = false;  // of kValue: may stand without a value, and says nothing then

  std::string flag() const { return "--" + name; }
};

struct OptionGroup {
  std::string title;
  bool train = false;  // written after the word `train`
  std::vector<Option> options;
};

// All flags, in the order in which help prints them.
const std::vector<OptionGroup>& OptionGroups();

// Of `dsrun plan`, beside those of train.
const OptionGroup& PlanOptions();
const Option* FindPlanOption(std::string_view name);  // of these alone; nullptr: none

// The flag of that long or one-letter name, of the launcher's or of train's flags; dashes and
// underscores are the same letter. "no-overlap" finds overlap. nullptr: none.
const Option* FindOption(std::string_view name, bool train);

// "--hostfile" and so on: what a mistyped flag may have meant.
std::vector<std::string> FlagNames(bool train);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_OPTIONS_H_
