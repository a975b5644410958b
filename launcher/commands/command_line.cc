#include "launcher/commands/command_line.h"

#include <algorithm>

#include "common/config/nearest.h"

namespace dsrun::launcher {
namespace {

using Kind = Option::Kind;
using Command = CommandLine::Command;

bool TakesValue(const Option& option) {
  return option.kind == Kind::kValue || option.kind == Kind::kRepeated;
}

// Whether the value names something, so that an empty one names nothing.
bool IsName(const Option& option) {
  return option.value_name == "PATH" || option.value_name == "DIR" || option.value_name == "FILE" ||
         option.value_name == "ADDRESS";
}

bool LooksLikeFlag(std::string_view arg) { return arg.size() > 1 && arg.front() == '-'; }

// A flag of the launcher or of `train`, or null.
const Option* FindInEither(std::string_view name) {
  const Option* const option = FindOption(name, /*train=*/false);
  return option != nullptr ? option : FindOption(name, /*train=*/true);
}

// Whose flags are read: before `train` or a program, behind `train`, behind `plan`.
enum class Side { kLauncher, kTrain, kPlan };

// A flag that may stand there, or null. Launcher flags are welcome after `train`, too.
const Option* FindOn(Side side, std::string_view name) {
  if (side != Side::kPlan) return FindInEither(name);
  const Option* const option = FindPlanOption(name);
  return option != nullptr ? option : FindOption(name, /*train=*/true);
}

std::vector<std::string> NamesOn(Side side) {
  std::vector<std::string> names = FlagNames(side != Side::kLauncher);
  if (side == Side::kPlan) {
    for (const Option& option : PlanOptions().options) names.push_back(option.flag());
    return names;
  }
  const std::vector<std::string> others = FlagNames(side == Side::kLauncher);
  names.insert(names.end(), others.begin(), others.end());
  return names;
}

// The switch that `arg` is, or null.
const Option* FindSwitch(Side side, std::string_view arg) {
  if (!StartsWith(arg, "--")) return nullptr;
  const Option* const option = FindOn(side, arg.substr(2));
  return option == nullptr || TakesValue(*option) ? nullptr : option;
}

std::string NoValue(const Option& option, const std::string& value) {
  const std::string words = "is a switch and takes no value, got " + Quoted(value);
  if (option.kind != Kind::kOnOff) return words;
  return words + "; --" + option.name + " turns it on, --no-" + option.name + " turns it off";
}

class Parser {
 public:
  Parser(const std::vector<std::string>& args, Findings& findings, std::vector<std::string>& notes)
      : args_(args), findings_(findings), notes_(notes) {}

  CommandLine Parse();

 private:
  const std::string& arg() const { return args_[at_]; }
  bool done() const { return at_ == args_.size(); }

  void ParseFlag(Side side);
  void Use(Side side, const Option& option, const std::string& spelled, bool has_value,
           std::string value);
  void UnknownFlag(Side side, const std::string& spelled, bool has_value);
  // Nothing but flags and their values stands there.
  void ParseFlagsOnly(Side side, const char* word, const std::string& hint);
  void ParseTrain();
  void ParsePlan();
  void ParseCheckpoint();
  void ParseHelp();
  void CheckPair();

  const std::vector<std::string>& args_;
  Findings& findings_;
  std::vector<std::string>& notes_;
  size_t at_ = 0;
  CommandLine line_;
};

CommandLine Parser::Parse() {
  while (!done()) {
    if (arg() == "--") {
      ++at_;
      break;
    }
    if (!LooksLikeFlag(arg())) break;
    ParseFlag(Side::kLauncher);
    if (line_.command == Command::kHelp || line_.command == Command::kVersion) return line_;
  }
  CheckPair();
  if (done()) {
    findings_.AddFlag("dsrun",
                      "nothing to run: write `train` or a program; dsrun --help shows how");
    return line_;
  }
  const bool literal = at_ > 0 && args_[at_ - 1] == "--";
  const std::string word = arg();
  if (literal || (word != "train" && word != "plan" && word != "checkpoint" && word != "where" &&
                  word != "help")) {
    line_.command = Command::kProgram;
    line_.program.assign(args_.begin() + static_cast<std::ptrdiff_t>(at_), args_.end());
    return line_;
  }
  ++at_;
  if (word == "train") ParseTrain();
  if (word == "plan") ParsePlan();
  if (word == "checkpoint") ParseCheckpoint();
  if (word == "where") {
    --at_;  // it is a verb of it
    ParseCheckpoint();
  }
  if (word == "help") ParseHelp();
  return line_;
}

void Parser::ParseFlag(Side side) {
  const std::string whole = arg();
  ++at_;
  if (whole == "--help" || whole == "-h") {
    line_.command = Command::kHelp;
    line_.help_train = side == Side::kTrain;
    line_.help_plan = side == Side::kPlan;
    return;
  }
  if (whole == "--version" && side == Side::kLauncher) {
    line_.command = Command::kVersion;
    return;
  }
  const bool is_long = StartsWith(whole, "--");
  // -H PATH, -HPATH and -H=PATH; --hostfile PATH and --hostfile=PATH.
  size_t name_end = is_long ? whole.find('=') : std::min<size_t>(2, whole.size());
  if (name_end == std::string::npos) name_end = whole.size();
  const std::string spelled = whole.substr(0, name_end);
  const std::string name = spelled.substr(is_long ? 2 : 1);
  bool has_value = name_end < whole.size();
  std::string value = has_value ? whole.substr(name_end) : "";
  if (!value.empty() && value.front() == '=') value.erase(0, 1);

  const Option* option = nullptr;
  if (is_long ? name.size() > 1 : true) {
    option = FindOn(side, name);
    if (option != nullptr && side == Side::kLauncher &&
        FindOption(name, /*train=*/false) == nullptr) {
      findings_.AddFlag(spelled, "is a flag of `train`: write it after that word");
    }
  }
  if (option == nullptr) {
    UnknownFlag(side, spelled, has_value);
    return;
  }
  if (!is_long && has_value && !TakesValue(*option)) {
    findings_.AddFlag(whole, "one-letter switches stand alone: write " + spelled);
    return;
  }
  Use(side, *option, spelled, has_value, std::move(value));
}

void Parser::Use(Side side, const Option& option, const std::string& spelled, bool has_value,
                 std::string value) {
  if (option.bare && !has_value && (done() || LooksLikeFlag(arg()))) return;
  if (TakesValue(option) && !has_value) {
    // A flag that follows is rather the next flag than this one's value; "-1" is a value.
    const bool missing = done() || (StartsWith(arg(), "--") &&
                                    FindOn(side, arg().substr(2, arg().find('=') - 2)) != nullptr);
    if (missing) {
      findings_.AddFlag(spelled, "expected a value (" + option.value_name + "), got " +
                                     (done() ? "the end of the line" : arg()));
      return;
    }
    value = arg();
    ++at_;
  } else if (!TakesValue(option) && has_value) {
    findings_.AddFlag(spelled, NoValue(option, value));
    return;
  }
  if (IsName(option) && value.empty()) {
    findings_.AddFlag(spelled, "expected " + option.value_name + ", got an empty name");
    return;
  }
  if (option.fate == Option::Fate::kRefused) {
    findings_.AddFlag(spelled, option.words);
    return;
  }
  if (option.fate == Option::Fate::kNoted) notes_.push_back(spelled + ": " + option.words);
  const bool negated = option.kind == Kind::kOnOff && StartsWith(spelled, "--no-");
  line_.flags.Add({&option, std::move(value), negated});
}

void Parser::UnknownFlag(Side side, const std::string& spelled, bool has_value) {
  const std::string nearest = NearestName(spelled, NamesOn(side));
  const std::string bare = spelled.substr(std::min(spelled.find_first_not_of('-'), spelled.size()));
  if (side == Side::kPlan && FindOption(bare, /*train=*/false) != nullptr) {
    findings_.AddFlag(spelled,
                      "is a flag of a start, and a plan starts nothing: ranks are given as "
                      "--widths 1,8,64 and --ranks-per-node 8");
  } else if (nearest.empty()) {
    findings_.AddFlag(spelled, side == Side::kPlan ? "unknown flag; dsrun plan --help lists all"
                                                   : "unknown flag; dsrun --help lists all");
  } else {
    findings_.AddFlag(spelled, "unknown flag; did you mean " + nearest + "?");
  }
  if (has_value || done() || LooksLikeFlag(arg())) return;
  if (side != Side::kLauncher) {
    ++at_;
    return;
  }
  if (nearest.empty()) return;
  // The value of the flag that was meant is not the program.
  const Option* const meant = FindInEither(nearest.substr(2));
  if (meant != nullptr && TakesValue(*meant) && arg() != "train") ++at_;
}

// DeepSpeed's sentence for two flags that contradict each other.
void Parser::CheckPair() {
  bool module = false;
  bool no_python = false;
  for (size_t i = 0; i < at_; ++i) {
    module = module || args_[i] == "--module";
    no_python = no_python || args_[i] == "--no_python" || args_[i] == "--no-python";
  }
  if (module && no_python) {
    findings_.AddFlag("--module",
                      "Don't use both the '--no_python' flag and the '--module' flag at the same "
                      "time.");
  }
}

void Parser::ParseFlagsOnly(Side side, const char* word, const std::string& hint) {
  while (!done()) {
    if (LooksLikeFlag(arg())) {
      ParseFlag(side);
      if (line_.command == Command::kHelp) return;
      continue;
    }
    const Option* const before = FindSwitch(side, args_[at_ - 1]);
    if (before != nullptr) {
      findings_.AddFlag(args_[at_ - 1], NoValue(*before, arg()));
    } else {
      findings_.AddFlag(word, "expected flags only, got " + Quoted(arg()) + "; " + hint);
    }
    ++at_;
  }
}

void Parser::ParseTrain() {
  line_.command = Command::kTrain;
  ParseFlagsOnly(Side::kTrain, "train", "text to train on is named with --data PATH");
}

// What stood before the word is the launcher's, and starts nothing here either.
void Parser::ParsePlan() {
  line_.command = Command::kPlan;
  for (const FlagUse& use : line_.flags.all()) {
    findings_.AddFlag(use.option->flag(),
                      "a plan starts nothing: leave out what stands before the word plan");
  }
  ParseFlagsOnly(Side::kPlan, "plan", "the model is named with --model NAME");
}

void Parser::ParseCheckpoint() {
  line_.checkpoint.assign(args_.begin() + static_cast<std::ptrdiff_t>(at_), args_.end());
  line_.command = Command::kCheckpoint;
}

void Parser::ParseHelp() {
  line_.command = Command::kHelp;
  for (; !done(); ++at_) {
    if (arg() == "--markdown") {
      line_.help_markdown = true;
    } else if (arg() == "train") {
      line_.help_train = true;
    } else if (arg() == "plan") {
      line_.help_plan = true;
    } else if (arg() == "checkpoint") {
      line_.command = Command::kCheckpoint;
      line_.checkpoint = {"--help"};
    } else {
      findings_.AddFlag(
          "help", "expected `train`, `plan`, `checkpoint` or --markdown, got " + Quoted(arg()));
    }
  }
}

}  // namespace

const FlagUse* FlagUses::Last(std::string_view name) const {
  const FlagUse* last = nullptr;
  for (const FlagUse& use : uses_) {
    if (use.option->name == name) last = &use;
  }
  return last;
}

CommandLine ParseCommandLine(const std::vector<std::string>& args, Findings& findings,
                             std::vector<std::string>& notes) {
  return Parser(args, findings, notes).Parse();
}

}  // namespace dsrun::launcher
