#include "launcher/commands/help.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "launcher/commands/checkpoint_command.h"
#include "launcher/commands/options.h"

namespace dsrun::launcher {
namespace {

using Kind = Option::Kind;
using Fate = Option::Fate;

constexpr std::string_view kVersion = "0.1.0";
constexpr size_t kHelpColumn = 34;
constexpr size_t kWidth = 100;

std::string Usage() {
  std::string out =
      "dsrun [launcher flags] train [train flags]     train a model on text\n"
      "dsrun [launcher flags] PROGRAM [arguments]     run any program once per slot\n"
      "dsrun plan [plan and train flags]              how much memory it takes, and what fits\n";
  out += CheckpointUsage();
  return out +
         "dsrun help [train|plan|checkpoint] [--markdown]  this text\n"
         "dsrun --version\n";
}

struct Example {
  std::string_view what;
  std::string_view command;
};

const std::vector<Example>& Examples(bool train) {
  static const auto* const launcher = new std::vector<Example>{
      {"Train on this machine with two ranks; no hostfile is needed:",
       "dsrun --num_gpus=2 train --data /usr/share/common-licenses --train-iters 300"},
      {"The same on two nodes with two slots each:",
       "dsrun --hostfile hostfiles/one_box.hosts train --data /usr/share/common-licenses"},
      {"See ranks, ports, environment and memory before anything starts:",
       "dsrun --dry-run --hostfile hostfiles/two_nodes.hosts train --data "
       "/usr/share/common-licenses"},
      {"All of the first node, slots 0 and 2 of the second:",
       "dsrun -H my.hosts --include gpu-01@gpu-02:0,2 train --data text/"},
      {"Any program, without a shell: RANK, WORLD_SIZE, MASTER_ADDR ... in its environment, "
       "standard input empty:",
       "dsrun --num_gpus=4 python3 -u my_script.py --lr 3e-4"},
  };
  static const auto* const of_train = new std::vector<Example>{
      {"A small model, a continuation at the end:",
       "dsrun --num_gpus=2 train --data book.txt --model gpt2-nano --prompt 'Once upon'"},
      {"Go on from a checkpoint, at any number of ranks:",
       "dsrun --num_gpus=4 train --data book.txt --load runs/first/checkpoints"},
      {"A shape of your own:",
       "dsrun train --data text/ --num-layers 6 --hidden-size 384 --num-attention-heads 6"},
      {"Will it fit?", "dsrun --dry-run --num_gpus=4 train --data text/ --model gpt2-1558m"},
  };
  return train ? *of_train : *launcher;
}

constexpr std::string_view kPlanWords =
    "How many bytes a rank takes at every ZeRO stage and number of ranks, which of these fit, the\n"
    "smallest setting that does, the largest model that would, and what takes most. The numbers "
    "are\n"
    "those that the engine allocates by, and what its libraries take beside them; nothing is\n"
    "started or allocated.\n";

const std::vector<Example>& PlanExamples() {
  static const auto* const examples = new std::vector<Example>{
      {"What of GPT-2 fits on this machine:", "dsrun plan --model gpt2-1558m"},
      {"GPT-3's size on nodes of 80 GiB a rank:",
       "dsrun plan --model gpt3-175b --memory 80GiB --widths 64,512,1024"},
      {"The same, eight ranks in a node of 640 GiB, fp32 sums:",
       "dsrun plan --model gpt3-175b --memory 640GiB --ranks-per-node 8 --sums fast"},
      {"A shape and a batch of your own, for a script:",
       "dsrun plan --num-layers 24 --hidden-size 2048 --num-attention-heads 16 "
       "--global-batch-size 256 --micro-batch-size 2 --json"},
  };
  return *examples;
}

// Whether bytes depend on a flag of train.
bool IsPlanned(std::string_view name) {
  constexpr std::array kNot = {"data",
                               "deepspeed_config",
                               "deepspeed",
                               "allow-unknown-config-keys",
                               "gradient-accumulation-steps",
                               "loss-scale",
                               "initial-scale-power",
                               "loss-scale-window",
                               "hysteresis",
                               "consecutive-hysteresis",
                               "min-loss-scale",
                               "train-iters",
                               "lr",
                               "min-lr",
                               "lr-warmup-iters",
                               "lr-schedule",
                               "lr-schedule-param",
                               "adam-beta1",
                               "adam-beta2",
                               "adam-eps",
                               "weight-decay",
                               "param-group",
                               "clip-grad",
                               "hidden-dropout",
                               "attention-dropout",
                               "seed",
                               "device",
                               "overlap",
                               "shared-memory",
                               "memory-check",
                               "isa-cap",
                               "check-collectives",
                               "save",
                               "load",
                               "load-step",
                               "save-interval",
                               "keep-last",
                               "keep-every",
                               "tag",
                               "log-interval",
                               "metrics",
                               "prompt",
                               "sample-tokens",
                               "trace",
                               "allow-rewind",
                               "accept-fingerprint"};
  return std::find(kNot.begin(), kNot.end(), name) == kNot.end();
}

// "-H, --hostfile PATH"
std::string Spelling(const Option& option) {
  std::string out;
  for (const std::string& alias : option.aliases) {
    if (alias.size() == 1) out += "-" + alias + ", ";
  }
  out += option.kind == Kind::kOnOff ? "--[no-]" + option.name : option.flag();
  for (const std::string& alias : option.aliases) {
    if (alias.size() > 1) out += ", --" + alias;
  }
  return option.value_name.empty() ? out : out + " " + option.value_name;
}

std::string Meaning(const Option& option) {
  if (option.fate == Fate::kNoted) return "does nothing here: " + option.words;
  if (option.fate == Fate::kRefused) return "refused: " + option.words;
  if (option.default_text.empty()) return option.help;
  return option.help + (option.help.empty() ? "" : " ") + "[" + option.default_text + "]";
}

// `text` in lines that start at kHelpColumn.
std::string Wrapped(std::string_view text) {
  std::string out;
  size_t column = kHelpColumn;
  bool first = true;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    if (!first && column + 1 + word.size() > kWidth) {
      out += "\n" + std::string(kHelpColumn, ' ');
      column = kHelpColumn;
    } else if (!first) {
      out += " ";
      ++column;
    }
    out += word;
    column += word.size();
    first = false;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

std::string Line(const Option& option) {
  std::string out = "  " + Spelling(option);
  if (out.size() + 2 > kHelpColumn) {
    out += "\n" + std::string(kHelpColumn, ' ');
  } else {
    out.resize(kHelpColumn, ' ');
  }
  return out + Wrapped(Meaning(option)) + "\n";
}

std::string Escaped(std::string_view text) {  // for a cell of a Markdown table
  std::string out;
  for (const char c : text) {
    if (c == '|') out.push_back('\\');
    if (c == '<') {
      out += "&lt;";
      continue;
    }
    out.push_back(c);
  }
  return out;
}

std::string Row(const Option& option) {
  std::string spelling = Spelling(option);
  std::string cell = "`";
  for (const char c : spelling) {
    if (c == '|') cell.push_back('\\');
    cell.push_back(c);
  }
  cell += "`";
  if (option.fate != Fate::kUsed) return "| " + cell + " | " + Escaped(Meaning(option)) + " |\n";
  return "| " + cell + " | " + Escaped(option.default_text) + " | " + Escaped(option.help) + " |\n";
}

std::string ExamplesMarkdown(bool train) {
  std::string out;
  for (const Example& example : Examples(train)) {
    out += std::string(example.what) + "\n\n    " + std::string(example.command) + "\n\n";
  }
  return out;
}

std::string PlanMarkdown() {
  std::string out = "## Planning\n\n`dsrun plan` takes the flags of `train` and those below.\n\n" +
                    std::string(kPlanWords) + "\n";
  for (const Example& example : PlanExamples()) {
    out += std::string(example.what) + "\n\n    " + std::string(example.command) + "\n\n";
  }
  out += "| flag of `plan` | default | meaning |\n| --- | --- | --- |\n";
  for (const Option& option : PlanOptions().options) out += Row(option);
  return out + "\n";
}

}  // namespace

std::string HelpText(bool train) {
  std::string out = train ? "dsrun [launcher flags] train [train flags]\n"
                          : "dsrun starts a job on one or many machines and carries it through "
                            "failures.\n\n" +
                                Usage();
  out += "\nExamples\n";
  for (const Example& example : Examples(train)) {
    out += "  " + std::string(example.what) + "\n      " + std::string(example.command) + "\n";
  }
  for (const OptionGroup& group : OptionGroups()) {
    if (group.train != train) continue;
    out += "\n" + group.title + "\n";
    for (const Option& option : group.options) out += Line(option);
  }
  out += "\nDashes and underscores in flags are the same; `--flag value` and `--flag=value` too.\n";
  out += train ? "`dsrun help` shows the launcher's flags, which may stand here as well.\n"
               : "`dsrun help train` shows the flags of train, `dsrun help plan` those of plan.\n";
  return out;
}

std::string HelpMarkdown() {
  std::string out =
      "# The command line of dsrun\n\n"
      "Made by `dsrun help --markdown` from the table in `launcher/commands/options.cc`; a test "
      "fails when the two differ.\n\n```\n" +
      Usage() +
      "```\n\nDashes and underscores in flags are the same; `--flag value` and `--flag=value` too. "
      "Everything that is wrong is reported at once, before anything starts, with exit code 90 "
      "(`docs/errors.md` has all codes).\n\n## Examples\n\n" +
      ExamplesMarkdown(false) + ExamplesMarkdown(true) + PlanMarkdown();
  bool train_title = false;
  out += "## Launcher flags\n\n";
  for (const OptionGroup& group : OptionGroups()) {
    if (group.train && !train_title) out += "## Flags of `train`\n\n";
    train_title = train_title || group.train;
    const bool foreign = group.options.front().fate != Fate::kUsed;
    out += "### " + group.title + "\n\n";
    out += foreign ? "| flag | here |\n| --- | --- |\n"
                   : "| flag | default | meaning |\n| --- | --- | --- |\n";
    std::string refused;
    for (const Option& option : group.options) {
      const bool in_table = foreign || option.fate == Fate::kUsed;
      (in_table ? out : refused) += Row(option);
    }
    if (!refused.empty()) out += "\n| flag of others | here |\n| --- | --- |\n" + refused;
    out += "\n";
  }
  out.pop_back();
  return out;
}

std::string PlanHelpText() {
  std::string out =
      "dsrun plan [plan and train flags]\n\n" + std::string(kPlanWords) + "\nExamples\n";
  for (const Example& example : PlanExamples()) {
    out += "  " + std::string(example.what) + "\n      " + std::string(example.command) + "\n";
  }
  out += "\n" + PlanOptions().title + "\n";
  for (const Option& option : PlanOptions().options) out += Line(option);
  for (const OptionGroup& group : OptionGroups()) {
    bool titled = false;
    for (const Option& option : group.options) {
      if (!group.train || option.fate != Fate::kUsed || !IsPlanned(option.name)) continue;
      if (!titled) out += "\n" + group.title + " (as of train)\n";
      titled = true;
      out += Line(option);
    }
  }
  return out +
         "\nThe other flags of train may stand here too, but for --load, --load-step, "
         "--deepspeed_config and --gradient-accumulation-steps; no byte depends on them.\nExit "
         "codes: 0 planned, whether it fits or not; 90 a flag is wrong.\n";
}

std::string VersionText() { return "dsrun " + std::string(kVersion) + "\n"; }

}  // namespace dsrun::launcher
