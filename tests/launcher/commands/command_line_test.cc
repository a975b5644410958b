#include "launcher/commands/command_line.h"

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "common/base/time_text.h"
#include "gtest/gtest.h"
#include "launcher/commands/flag_values.h"

namespace dsrun::launcher {
namespace {

using Command = CommandLine::Command;
using Args = std::vector<std::string>;

CommandLine Good(const Args& args) {
  Findings findings;
  std::vector<std::string> notes;
  CommandLine line = ParseCommandLine(args, findings, notes);
  EXPECT_EQ(findings.Render(), "");
  EXPECT_TRUE(notes.empty());
  return line;
}

std::string Refused(const Args& args) {
  Findings findings;
  std::vector<std::string> notes;
  ParseCommandLine(args, findings, notes);
  return findings.Render();
}

std::string Value(const CommandLine& line, const std::string& name) {
  const FlagUse* use = line.flags.Last(name);
  return use == nullptr ? "(none)" : use->value;
}

TEST(CommandLine, TheMainJob) {
  const CommandLine line =
      Good({"--hostfile", "h", "--num_nodes=2", "--num-gpus", "2", "train", "--data", "a",
            "--data=b", "--train_iters", "300", "--no-overlap", "--dry-run"});
  EXPECT_EQ(line.command, Command::kTrain);
  EXPECT_EQ(Value(line, "hostfile"), "h");
  EXPECT_EQ(Value(line, "num_nodes"), "2");
  EXPECT_EQ(Value(line, "num_gpus"), "2");
  EXPECT_EQ(Value(line, "train-iters"), "300");
  EXPECT_TRUE(line.flags.Has("dry-run"));
  Findings findings;
  FlagValues values(line.flags, findings);
  EXPECT_EQ(values.Texts("data"), (Args{"a", "b"}));
  EXPECT_FALSE(values.OnOff("overlap", true));
}

TEST(CommandLine, ShortFlags) {
  const CommandLine line = Good({"-H", "h", "-i", "w0@w1:0,2", "-q", "./p"});
  EXPECT_EQ(Value(line, "hostfile"), "h");
  EXPECT_EQ(Value(line, "include"), "w0@w1:0,2");
  EXPECT_TRUE(line.flags.Has("quiet"));
  EXPECT_EQ(Value(Good({"-Hh", "./p"}), "hostfile"), "h");
  EXPECT_EQ(Value(Good({"-e=w1", "./p"}), "exclude"), "w1");
}

TEST(CommandLine, ProgramArgumentsPassByteForByte) {
  const Args program = {"./p", "--num_gpus", "", "$HOME `id`", "\xff\x01", "--help", "--", "-x=1"};
  Args args = {"--num_gpus=2"};
  args.insert(args.end(), program.begin(), program.end());
  const CommandLine line = Good(args);
  EXPECT_EQ(line.command, Command::kProgram);
  EXPECT_EQ(line.program, program);
  EXPECT_EQ(Good({"--", "train", "--x"}).program, (Args{"train", "--x"}));
}

TEST(CommandLine, NegativeNumbersAreValues) {
  EXPECT_EQ(Value(Good({"--num_nodes", "-1", "./p"}), "num_nodes"), "-1");
}

TEST(CommandLine, OtherCommands) {
  EXPECT_EQ(Good({"--version"}).command, Command::kVersion);
  EXPECT_EQ(Good({"--help"}).command, Command::kHelp);
  EXPECT_TRUE(Good({"train", "--help"}).help_train);
  EXPECT_TRUE(Good({"help", "--markdown"}).help_markdown);
  EXPECT_EQ(Good({"checkpoint", "--help"}).command, Command::kCheckpoint);
  EXPECT_EQ(Good({"help", "checkpoint"}).checkpoint, Args{"--help"});
  const CommandLine hash = Good({"checkpoint", "hash", "d", "--json"});
  EXPECT_EQ(hash.command, Command::kCheckpoint);
  EXPECT_EQ(hash.checkpoint, (Args{"hash", "d", "--json"}));
}

struct Row {
  Args args;
  std::string want;
};

TEST(CommandLine, RefusesWithTheWholeMessage) {
  const std::vector<Row> table = {
      {{}, "dsrun: nothing to run: write `train` or a program; dsrun --help shows how\n"},
      {{"--hostfil", "train"}, "--hostfil: unknown flag; did you mean --hostfile?\n"},
      {{"train", "--train-iter=3"}, "--train-iter: unknown flag; did you mean --train-iters?\n"},
      // The value of a mistyped flag is no program.
      {{"--num_node", "3", "train"}, "--num_node: unknown flag; did you mean --num_nodes?\n"},
      {{"--hostfil", "h"},
       "--hostfil: unknown flag; did you mean --hostfile?\n"
       "dsrun: nothing to run: write `train` or a program; dsrun --help shows how\n"},
      {{"train", "--zebra"}, "--zebra: unknown flag; dsrun --help lists all\n"},
      {{"-x", "./p"}, "-x: unknown flag; dsrun --help lists all\n"},
      {{"--lr", "1", "train"}, "--lr: is a flag of `train`: write it after that word\n"},
      {{"train", "--lr"}, "--lr: expected a value (X), got the end of the line\n"},
      {{"train", "--lr", "--seed", "1"}, "--lr: expected a value (X), got --seed\n"},
      {{"--dry-run=1", "train"}, "--dry-run: is a switch and takes no value, got \"1\"\n"},
      {{"train", "--overlap=off"},
       "--overlap: is a switch and takes no value, got \"off\"; --overlap turns it on, "
       "--no-overlap turns it off\n"},
      {{"train", "--shared_memory", "0", "--seed=1"},
       "--shared_memory: is a switch and takes no value, got \"0\"; --shared-memory turns it on, "
       "--no-shared-memory turns it off\n"},
      {{"train", "--dry-run", "yes"}, "--dry-run: is a switch and takes no value, got \"yes\"\n"},
      {{"train", "text"},
       "train: expected flags only, got \"text\"; text to train on is named with "
       "--data PATH\n"},
      {{"--nproc_per_node=2", "./p"}, "--nproc_per_node: that is torchrun's: write --num_gpus N\n"},
      {{"--module", "--no_python", "m"},
       "--module: programs are started directly: write `python3 -u -m MODULE` as the program\n"
       "--module: Don't use both the '--no_python' flag and the '--module' flag at the same "
       "time.\n"},
      {{"train", "--zebra", "3"}, "--zebra: unknown flag; dsrun --help lists all\n"},
      {{"help", "me"}, "help: expected `train`, `plan`, `checkpoint` or --markdown, got \"me\"\n"},
      {{"--foo", "--num_gpsu=2", "train", "--bar"},  // all at once
       "--foo: unknown flag; dsrun --help lists all\n"
       "--num_gpsu: unknown flag; did you mean --num_gpus?\n"
       "--bar: unknown flag; dsrun --help lists all\n"},
  };
  for (const Row& row : table) EXPECT_EQ(Refused(row.args), row.want);
}

TEST(CommandLine, FlagsOfOthersThatDoNothingAreNoted) {
  Findings findings;
  std::vector<std::string> notes;
  ParseCommandLine({"--launcher=pdsh", "--no_local_rank", "./p"}, findings, notes);
  EXPECT_EQ(findings.Render(), "");
  EXPECT_EQ(notes, (Args{"--launcher: agents start the ranks; no back-end is used",
                         "--no_local_rank: --local_rank=N is not appended anyway "
                         "(--append-local-rank does)"}));
}

TEST(FlagValues, WrongValuesNameWhatIsExpected) {
  const CommandLine line =
      Good({"--lease=1d", "--join-timeout=5ms", "--master_port", "65536", "train", "--lr=abc",
            "--adam-beta1=1", "--seed=-1", "--train-iters=1e3", "--device=gpu"});
  Findings findings;
  FlagValues values(line.flags, findings);
  EXPECT_FALSE(values.Time("lease", absl::Milliseconds(10), absl::Hours(1)).has_value());
  EXPECT_FALSE(values.Time("join-timeout", absl::Milliseconds(10), absl::Hours(1)).has_value());
  EXPECT_FALSE(values.Int("master_port", 0, 65535).has_value());
  EXPECT_FALSE(values.Real("lr", 0).has_value());
  EXPECT_FALSE(values.Real("adam-beta1", 0, 1, true).has_value());
  EXPECT_FALSE(values.Int("seed", 0).has_value());
  EXPECT_FALSE(values.Int("train-iters", 1, 100).has_value());
  EXPECT_FALSE(values.OneOf("device", {"auto", "cpu", "cuda"}).has_value());
  EXPECT_EQ(
      findings.Render(),
      "--lease: expected a duration such as 3s or 500ms, from 10ms to 1h, got \"1d\"\n"
      "--join-timeout: expected a duration such as 3s or 500ms, from 10ms to 1h, got \"5ms\"\n"
      "--master_port: expected an integer from 0 to 65535, got \"65536\"\n"
      "--lr: expected a number of at least 0, got \"abc\"\n"
      "--adam-beta1: expected a number from 0 to below 1, got \"1\"\n"
      "--seed: expected an integer of at least 0, got \"-1\"\n"
      "--train-iters: expected an integer from 1 to 100, got \"1e3\"\n"
      "--device: expected auto, cpu or cuda, got \"gpu\"; did you mean cpu?\n");
}

TEST(FlagValues, Times) {
  EXPECT_EQ(ParseTime("3s"), absl::Seconds(3));
  EXPECT_EQ(ParseTime("500ms"), absl::Milliseconds(500));
  EXPECT_EQ(ParseTime("1m30s"), absl::Seconds(90));
  EXPECT_EQ(ParseTime("0.5"), absl::Milliseconds(500));
  EXPECT_EQ(ParseTime("inf"), std::nullopt);
  EXPECT_EQ(ParseTime("nan"), std::nullopt);
  EXPECT_EQ(ParseTime(""), std::nullopt);
}

// Any words: no crash, and either a command or a finding.
TEST(CommandLine, Fuzz) {
  const char* given = std::getenv("DSRUN_FUZZ_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "DSRUN_FUZZ_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  const Args words = {"train",  "checkpoint",   "help",       "hash",   "--",       "-",
                      "--=",    "-H",           "-Hx",        "-=",     "--lr",     "--lr=1",
                      "--data", "--no-overlap", "--module",   "--help", "",         "--dry-run",
                      "./p",    "--\xff",       "--num_gpus", "plan",   "--widths", "--json"};
  for (int i = 0; i < 100000; ++i) {
    Args args(random() % 7);
    for (std::string& arg : args) {
      arg = words[random() % words.size()];
      if (!arg.empty() && random() % 8 == 0)
        arg[random() % arg.size()] = static_cast<char>(random());
    }
    Findings findings;
    std::vector<std::string> notes;
    const CommandLine line = ParseCommandLine(args, findings, notes);
    ASSERT_TRUE(line.command != Command::kNone || findings.has_errors());
    if (line.command == Command::kProgram) {
      ASSERT_FALSE(line.program.empty());
    }
  }
}

}  // namespace
}  // namespace dsrun::launcher
