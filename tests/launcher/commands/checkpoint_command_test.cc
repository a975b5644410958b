#include "launcher/commands/checkpoint_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class CheckpointCommandTest : public ::testing::Test {
 protected:
  CheckpointCommandTest() {
    worker::SaveOptions options;
    options.step = Step(10);
    options.width = 2;
    EXPECT_TRUE(worker::Save(fs_, "/save", state_, options).ok());
    options.step = Step(20);
    EXPECT_TRUE(worker::Save(fs_, "/save", state_, options).ok());
  }
  int Run(std::vector<std::string> args) {
    out_.str("");
    err_.str("");
    return CheckpointCommand(args, fs_, out_, err_);
  }

  FaultyFileSystem fs_;
  const worker::TrainingState state_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CheckpointCommandTest, Hash_IsAloneOnStandardOutput) {
  EXPECT_EQ(Run({"hash", "/save"}), 0);
  EXPECT_THAT(out_.str(), MatchesRegex("[0-9a-f]+\n"));
  EXPECT_EQ(out_.str().size(), 65u);
  EXPECT_EQ(err_.str(), "step 20, /save/manifest.step-00000020.gen-0001.epoch-0002.json\n");
  const std::string of_20 = out_.str();
  EXPECT_EQ(Run({"hash", "--json", "/save"}), 0);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["hash"].get<std::string>() + "\n", of_20);
  EXPECT_EQ(json["step"], 20);
  EXPECT_EQ(json["samples_consumed"], 160);
  EXPECT_EQ(Run({"hash", "/save/manifest.step-00000010.gen-0001.epoch-0001.json"}), 0);
  EXPECT_NE(out_.str(), of_20);
}

TEST_F(CheckpointCommandTest, DamagedNewest_IsNamedAndTheOlderShown) {
  const std::string shard = "/save/step-00000020.gen-0001.0000000000001001.rank-0001.safetensors";
  fs_.FlipBit(shard, 5000, 2);
  EXPECT_EQ(Run({"hash", "/save"}), 0);
  EXPECT_THAT(err_.str(), HasSubstr("warning: not usable: manifest.step-00000020"));
  EXPECT_THAT(err_.str(), HasSubstr("shard " + shard + " is damaged"));
  EXPECT_THAT(err_.str(), HasSubstr("step 10, "));
}

TEST_F(CheckpointCommandTest, Inspect_ShowsTensorsShardsAndFingerprint) {
  EXPECT_EQ(Run({"inspect", "/save"}), 0);
  for (const std::string expected :
       {"job         job-a, generation 1", "step        20 (20 optimizer steps, 160 samples)",
        "  instruction set (--isa-cap): avx2\n",
        "step-00000020.gen-0001.0000000000001001.rank-0001.safetensors",
        "adam_m/h.0.attn.c_attn.weight", "(32, 96)", "model/wte.weight"}) {
    EXPECT_THAT(out_.str(), HasSubstr(expected));
  }
  EXPECT_EQ(Run({"inspect", "/save", "--json"}), 0);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["files"].size(), 2u);
  EXPECT_EQ(json["tensors"].size(), 3 * state_.layout().entries().size());
  EXPECT_EQ(json["numerics_fingerprint"]["library_version"], "2.6.3");
}

TEST_F(CheckpointCommandTest, Help_IsOnStandardOutput) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"--help"}, {"hash", "--help"}, {"inspect", "/none", "-h"}}) {
    EXPECT_EQ(Run(args), 0);
    EXPECT_THAT(out_.str(), HasSubstr("usage: dsrun checkpoint hash DIR"));
    EXPECT_EQ(err_.str(), "");
  }
}

TEST_F(CheckpointCommandTest, BadInput_SaysWhatAndHow) {
  EXPECT_EQ(Run({}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("expected hash or inspect, got nothing"));
  EXPECT_THAT(err_.str(), HasSubstr("usage: dsrun checkpoint hash DIR"));
  EXPECT_EQ(Run({"hash"}), 90);
  EXPECT_EQ(Run({"hash", "/save", "--jsn"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("unknown flag --jsn"));
  EXPECT_EQ(Run({"hash", "/none"}), 90);
  EXPECT_EQ(err_.str(), "dsrun checkpoint: cannot list folder /none: No such file or directory\n");
  EXPECT_EQ(Run({"hash", "/save", "--job", "job-z"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("no whole checkpoint of job job-z in /save"));
  EXPECT_EQ(out_.str(), "");
}

}  // namespace
}  // namespace dsrun::launcher
