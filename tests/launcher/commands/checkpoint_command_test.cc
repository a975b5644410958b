#include "launcher/commands/checkpoint_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/file_system.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class CheckpointCommandTest : public ::testing::Test {
 protected:
  CheckpointCommandTest() {
    worker::SaveOptions options;
    options.step = Step(10);
    options.width = 2;
    EXPECT_TRUE(worker::Save(fs_, "/save", state_, options).ok());
    options.step = Step(20);
    EXPECT_TRUE(worker::Save(fs_, "/save", state_, options).ok());
    EXPECT_TRUE(fs_.RemoveFile("/save/.dsrun-probe-job-a").ok());  // the job has ended
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
        "optimizer   adamw, state: exp_avg, exp_avg_sq\n", "  instruction set (--isa-cap): avx2\n",
        "step-00000020.gen-0001.0000000000001001.rank-0001.safetensors",
        "state/exp_avg/h.0.attn.c_attn.weight", "(32, 96)", "model/wte.weight"}) {
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
    EXPECT_THAT(out_.str(), HasSubstr("dsrun checkpoint hash DIR"));
    EXPECT_EQ(err_.str(), "");
  }
}

TEST_F(CheckpointCommandTest, BadInput_SaysWhatAndHow) {
  EXPECT_EQ(Run({}), 90);
  EXPECT_THAT(
      err_.str(),
      HasSubstr(
          "expected one of hash, inspect, verify, diff, tag, untag, export, where, got nothing"));
  EXPECT_THAT(err_.str(), HasSubstr("dsrun checkpoint hash DIR"));
  EXPECT_EQ(Run({"hash"}), 90);
  EXPECT_EQ(Run({"hash", "/save", "--jsn"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("unknown flag \"--jsn\""));
  EXPECT_EQ(Run({"hash", "/none"}), 90);
  EXPECT_EQ(err_.str(), "dsrun checkpoint: cannot list folder /none: No such file or directory\n");
  EXPECT_EQ(Run({"hash", "/save", "--job", "job-z"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("no whole checkpoint of job job-z in /save"));
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(Run({"diff", "/save"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("diff: expected two checkpoints, got 1 word\n"));
  EXPECT_EQ(Run({"hash", "/save", "--step", "3"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("hash has no flag --step"));
  EXPECT_EQ(Run({"tag", "/save", "best", "--step=ten"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("--step: expected a whole number from 0 on, got \"ten\""));
  EXPECT_EQ(Run({"verify", "/save", "--job"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("--job needs a value"));
}

constexpr char k10[] = "manifest.step-00000010.gen-0001.epoch-0001.json";
constexpr char k20[] = "manifest.step-00000020.gen-0001.epoch-0002.json";
constexpr char kShard20[] = "step-00000020.gen-0001.0000000000001001.rank-0001.safetensors";

TEST_F(CheckpointCommandTest, RunFolder_MeansItsCheckpoints) {
  worker::SaveOptions options;
  options.step = Step(30);
  ASSERT_TRUE(worker::Save(fs_, "/run/checkpoints", state_, options).ok());
  EXPECT_EQ(Run({"hash", "/run"}), 0) << err_.str();
  EXPECT_THAT(err_.str(), HasSubstr("step 30, /run/checkpoints/manifest"));
  EXPECT_EQ(Run({"verify", "/run"}), 0) << err_.str();
  // A folder that has both is what it says.
  ASSERT_TRUE(worker::Save(fs_, "/save/checkpoints", state_, options).ok());
  EXPECT_EQ(Run({"hash", "/save"}), 0);
  EXPECT_THAT(err_.str(), HasSubstr("step 20, "));
}

TEST_F(CheckpointCommandTest, Verify_OfAWholeFolder) {
  EXPECT_EQ(Run({"verify", "/save"}), 0) << out_.str();
  EXPECT_THAT(out_.str(), HasSubstr(std::string(k10) + ": whole (job job-a, 2 shards, "));
  EXPECT_THAT(out_.str(), HasSubstr("/save: 2 checkpoints whole, 0 damaged, 0 unreadable\n"));
  EXPECT_EQ(Run({"verify", "/save", "--json"}), 0);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["whole"], true);
  EXPECT_EQ(json["checkpoints"].size(), 2u);
  EXPECT_EQ(json["checkpoints"][0]["step"], 20);
  EXPECT_EQ(json["left_over"].size() + json["foreign"].size() + json["broken_tags"].size(), 0u);
  EXPECT_EQ(Run({"verify", "/none"}), 90);
  fs_.Write("/empty/file", "");
  EXPECT_EQ(Run({"verify", "/empty"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("no checkpoint in /empty"));
}

// Wherever the bit is, the file is named with both checksums, and the tensor if one is hit.
TEST_F(CheckpointCommandTest, Verify_NamesEveryFlippedBit) {
  const std::string path = std::string("/save/") + kShard20;
  const int64_t bytes = fs_.Stat(path)->bytes;
  int tensors = 0;
  for (int64_t at = 0; at < bytes; at += 1 + bytes / 31) {
    fs_.FlipBit(path, at, static_cast<int>(at % 8));
    ASSERT_EQ(Run({"verify", "--json", "/save"}), 1) << at;
    const auto json = nlohmann::json::parse(out_.str());
    EXPECT_EQ(json["checkpoints"][0]["state"], "damaged");
    EXPECT_EQ(json["checkpoints"][1]["state"], "whole");
    const auto& finding = json["checkpoints"][0]["findings"].at(0);
    EXPECT_EQ(finding["file"], kShard20);
    // The header, the table of checksums, or the block of a piece.
    EXPECT_NE(finding["expected_sha256"] != finding["computed_sha256"],
              finding["pieces"].size() == 1u && at < bytes - 4 * 60)
        << finding;
    EXPECT_LE(finding["pieces"].size(), 1u);
    for (const auto& piece : finding["pieces"]) {
      ++tensors;
      EXPECT_NE(piece["expected_crc32c"], piece["computed_crc32c"]);
    }
    fs_.FlipBit(path, at, static_cast<int>(at % 8));
  }
  EXPECT_GT(tensors, 25);
  fs_.FlipBit(path, bytes - 1, 0);
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  for (const std::string& expected :
       {std::string(k20) + ": damaged (job job-a", std::string("  ") + kShard20 + ": damaged\n",
        std::string("    SHA-256: expected "), std::string("             got      "),
        std::string("    state/exp_avg_sq/ln_f.bias, elements 0 to 31"),
        std::string(": CRC-32C expected "), std::string("1 checkpoint whole, 1 damaged")}) {
    EXPECT_THAT(out_.str(), HasSubstr(expected));
  }
  EXPECT_EQ(Run({"verify", std::string("/save/") + k10}), 0) << "one checkpoint alone";
}

TEST_F(CheckpointCommandTest, Verify_NamesWhatIsMissingCutOrTorn) {
  const std::string path = std::string("/save/") + kShard20;
  fs_.Truncate(path, 100);
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr(" bytes, got 100\n"));
  ASSERT_TRUE(fs_.RemoveFile(path).ok());
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr(std::string(kShard20) + ": missing\n"));
  fs_.Truncate(std::string("/save/") + k10, 50);
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr(std::string(k10) + ": damaged\n  manifest /save/"));
  EXPECT_THAT(out_.str(), HasSubstr("torn: 50 bytes"));
  // Its shards may be whole: they are named by no manifest that can be read.
  EXPECT_THAT(out_.str(), HasSubstr("left over step-00000010.gen-0001"));
  EXPECT_THAT(out_.str(), HasSubstr("that no readable manifest names"));
}

TEST_F(CheckpointCommandTest, Verify_AReadErrorIsNoDamage) {
  fs_.FailReads(std::string("/save/") + kShard20, absl::UnavailableError("Input/output error"));
  EXPECT_EQ(Run({"verify", "/save"}), 2);
  EXPECT_THAT(out_.str(), HasSubstr(std::string(kShard20) + ": unreadable\n"));
  EXPECT_THAT(out_.str(), HasSubstr("Input/output error"));
  EXPECT_THAT(out_.str(), HasSubstr("1 checkpoint whole, 0 damaged, 1 unreadable; "));
  fs_.FailReads(std::string("/save/") + k10, absl::UnavailableError("Input/output error"));
  EXPECT_EQ(Run({"verify", "/save"}), 2);
  EXPECT_THAT(out_.str(), HasSubstr(std::string(k10) + ": unreadable\n"));
  EXPECT_THAT(out_.str(), HasSubstr("0 checkpoints whole, 0 damaged, 2 unreadable; "));
}

TEST_F(CheckpointCommandTest, Verify_SortsWhatNoCheckpointNeeds) {
  fs_.Write("/save/step-00000030.gen-0002.00000000000000ab.rank-0000.safetensors", "half");
  fs_.Write("/save/.tmp.job-a.00ab.manifest.step-00000030.gen-0002.epoch-0001.json", "{");
  fs_.Write("/save/notes.txt", "mine");
  fs_.Write("/save/tag.best", std::string(k10) + "\n");
  EXPECT_EQ(Run({"verify", "/save"}), 0) << out_.str();
  EXPECT_THAT(out_.str(), HasSubstr("left over step-00000030.gen-0002.00000000000000ab"));
  EXPECT_THAT(out_.str(), HasSubstr("left over .tmp.job-a"));
  EXPECT_THAT(out_.str(), HasSubstr("foreign notes.txt: not dsrun's\n"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("tag")));
  fs_.Write("/save/tag.gone", "manifest.step-00000099.gen-0001.epoch-0001.json\n");
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr("tag gone: its checkpoint manifest.step-00000099"));
}

// Files of dsrun that are none of a checkpoint are not called a stranger's.
TEST_F(CheckpointCommandTest, Verify_KnowsMarkersUnfinishedTagsAndWhatIsAside) {
  fs_.Write("/save/.dsrun-probe-20261127-010203-abcdef", "32 bytes");
  fs_.Write(std::string("/save/.tmp.tag.0123456789abcdef.") + k10 + ".best", "");
  fs_.Write("/save/tag.best", std::string(k10) + "\n");
  const std::string manifest = ReadFile(fs_, std::string("/save/") + k10).value();
  ASSERT_TRUE(fs_.RemoveFile(std::string("/save/") + k10).ok());
  fs_.Write(std::string("/save/.aside.0123456789abcdef.") + k10, manifest);
  EXPECT_EQ(Run({"verify", "/save"}), 0) << out_.str();
  EXPECT_THAT(out_.str(),
              HasSubstr("left over .dsrun-probe-20261127-010203-abcdef: the marker of job "
                        "20261127-010203-abcdef, which saves here"));
  EXPECT_THAT(out_.str(), HasSubstr(std::string(".best: a tag of ") + k10 + ", unfinished"));
  EXPECT_THAT(out_.str(), HasSubstr(std::string("left over .aside.0123456789abcdef.") + k10 + ": " +
                                    k10 + ", set aside to be removed"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("foreign")));
  EXPECT_THAT(out_.str(), Not(HasSubstr("missing"))) << "the tag's checkpoint is not lost";
  // And it is to be had.
  EXPECT_EQ(Run({"tag", "/save", "best", "--step", "10"}), 0) << err_.str();
  EXPECT_EQ(Run({"hash", std::string("/save/") + k10}), 0) << err_.str();
}

TEST_F(CheckpointCommandTest, JobOfAnotherThanTheManifestThatIsNamed_IsAnError) {
  const std::string path = std::string("/save/") + k10;
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"hash", path}, {"inspect", path}, {"tag", path, "best"}}) {
    std::vector<std::string> args = words;
    args.insert(args.end(), {"--job", "job-z"});
    EXPECT_EQ(Run(args), 90) << words[0];
    EXPECT_THAT(err_.str(),
                HasSubstr("--job: expected job-z, but " + path + " is a checkpoint of job job-a"));
    EXPECT_EQ(out_.str(), "");
    args.back() = "job-a";
    EXPECT_EQ(Run(args), 0) << words[0] << err_.str();
  }
  EXPECT_EQ(Run({"verify", path, "--job", "job-z"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("no checkpoint " + path + " of job job-z"));
  EXPECT_EQ(Run({"verify", path, "--job", "job-a"}), 0);
}

// Every code that the help names, and how to get it; main alone returns 96 and 98.
TEST_F(CheckpointCommandTest, ExitCodes_AreThoseOfTheHelp) {
  EXPECT_EQ(Run({"--help"}), 0);
  for (const std::string code : {"  0   ", "  1   ", "  2   ", "  90  ", "  96  "}) {
    EXPECT_THAT(out_.str(), HasSubstr("\n" + code));
  }
  const std::string path = std::string("/save/") + kShard20;
  EXPECT_EQ(Run({"diff", "/save", std::string("/save/") + k10}), 1);
  fs_.Write("/save/tag.torn", "manif");
  EXPECT_EQ(Run({"verify", "/save"}), 1) << "a tag that says nothing";
  ASSERT_TRUE(fs_.RemoveFile("/save/tag.torn").ok());
  fs_.FlipBit(path, fs_.Stat(path)->bytes - 1, 1);
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  EXPECT_EQ(Run({"diff", "/save", std::string("/save/") + k10}), 2) << "damaged while compared";
  for (const std::string verb : {"hash", "inspect"}) {
    EXPECT_EQ(Run({verb, std::string("/save/") + k20}), 90) << "damaged, and named";
  }
  EXPECT_EQ(Run({"untag", "/save", "none"}), 90);
  fs_.FailReads(path, absl::UnavailableError("Input/output error"));
  for (const std::string verb : {"hash", "inspect", "verify"}) {
    EXPECT_EQ(Run({verb, "/save"}), 2) << verb;
  }
  fs_.SetCapacity(0);
  EXPECT_EQ(Run({"tag", "/save", "best", "--step", "10"}), 2) << "no room for it";
}

TEST_F(CheckpointCommandTest, Verify_OfOneJob_LeavesOthersAlone) {
  worker::SaveOptions options;
  options.job_id = "job-b";
  options.first_incarnation = 0x9000;
  options.step = Step(30);
  ASSERT_TRUE(worker::Save(fs_, "/save", state_, options).ok());
  ASSERT_TRUE(fs_.RemoveFile("/save/.dsrun-probe-job-b").ok());
  fs_.FlipBit(std::string("/save/") + kShard20, 5000, 1);
  EXPECT_EQ(Run({"verify", "/save", "--job", "job-b"}), 0) << out_.str();
  EXPECT_THAT(out_.str(), HasSubstr(std::string(k20) + ": of another job (job job-a"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("left over")));
  EXPECT_EQ(Run({"verify", "/save", "--job", "job-a"}), 1);
  EXPECT_EQ(Run({"verify", "/save", "--job", "job-c"}), 90);
  EXPECT_THAT(err_.str(),
              HasSubstr("no checkpoint of job job-c in /save: it holds 3 of other jobs"));
}

TEST_F(CheckpointCommandTest, Verify_ShowsProgressOnATerminalOnly) {
  std::ostringstream terminal;
  const std::vector<std::string> args = {"verify", "/save"};
  EXPECT_EQ(CheckpointCommand(args, fs_, out_, err_, &terminal), 0);
  EXPECT_THAT(terminal.str(), HasSubstr("verifying: 0 of 0 MiB, 100 %"));
  EXPECT_TRUE(terminal.str().ends_with("\r\x1b[K")) << "the line is cleared";
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CheckpointCommandTest, Diff_OfTheSameContentIsEmpty) {
  worker::SaveOptions options;
  options.step = Step(20);
  options.width = 5;  // in other pieces
  options.job_id = "job-b";
  ASSERT_TRUE(worker::Save(fs_, "/other", state_, options).ok());
  EXPECT_EQ(Run({"diff", "/save", "/other"}), 0) << out_.str() << err_.str();
  EXPECT_THAT(out_.str(),
              HasSubstr("the same: 0 of " + std::to_string(3 * state_.layout().entries().size()) +
                        " tensors differ\n"));
  EXPECT_EQ(Run({"diff", "/save", "/other", "--json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["same"], true);
}

TEST_F(CheckpointCommandTest, Diff_NamesCountersAndEveryTensor) {
  EXPECT_EQ(Run({"diff", std::string("/save/") + k10, "/save"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr("counters and settings:\n"
                                    "                      A   B\n"
                                    "    step              10  20\n"
                                    "    optimizer steps   10  20\n"
                                    "    samples consumed  80  160\n"));
  EXPECT_THAT(out_.str(), HasSubstr("model/wte.weight"));
  EXPECT_THAT(out_.str(), HasSubstr("different: "));
}

TEST_F(CheckpointCommandTest, Diff_OfWhatCannotBeReadOrIsDamaged_HasNoAnswer) {
  fs_.FlipBit(std::string("/save/") + kShard20,
              fs_.Stat(std::string("/save/") + kShard20)->bytes - 1, 1);
  EXPECT_EQ(Run({"diff", "/save", std::string("/save/") + k10}), 2);
  EXPECT_THAT(err_.str(), HasSubstr("the comparison could not be finished: shard /save/"));
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(Run({"diff", "/save", "/none"}), 90);
}

TEST_F(CheckpointCommandTest, Tag_IsWrittenShownAndRemoved) {
  EXPECT_EQ(Run({"tag", "/save", "best", "--step", "10"}), 0) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr(std::string(k10) + " has the tag best and stays until"));
  EXPECT_EQ(ReadFile(fs_, "/save/tag.best").value(), std::string(k10) + "\n");
  EXPECT_EQ(Run({"tag", "/save", "last"}), 0) << err_.str();
  EXPECT_EQ(Run({"inspect", "/save"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("tags        last\n"));
  EXPECT_THAT(out_.str(), HasSubstr("other tags  best (" + std::string(k10) + ")\n"));
  EXPECT_EQ(Run({"inspect", "/save", "--json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["tags"].dump(), R"(["last"])");

  EXPECT_EQ(Run({"tag", "/save", "best"}), 90);
  EXPECT_THAT(err_.str(),
              HasSubstr("the tag best in /save names " + std::string(k10) + " already"));
  EXPECT_EQ(Run({"tag", "/save", "best", "--step", "10"}), 0) << "said again";
  EXPECT_EQ(Run({"tag", "/save", "x", "--step", "15"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("of step 15 in /save; the steps that are there: 10, 20\n"));
  EXPECT_EQ(Run({"tag", "/save", "a/b"}), 90);

  EXPECT_EQ(Run({"untag", "/save", "best"}), 0);
  EXPECT_FALSE(fs_.Exists("/save/tag.best"));
  EXPECT_EQ(Run({"untag", "/save", "best"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("no tag best in /save; its tags: last\n"));
}

}  // namespace
}  // namespace dsrun::launcher
