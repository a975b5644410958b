// A run that loads a checkpoint: what it takes from it, and what is refused before anything starts.

#include <filesystem>
#include <string>

#include "common/base/sha256.h"
#include "common/format/manifest.h"
#include "common/model_spec/model_spec.h"
#include "common/numerics/kernels_version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/resolve.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

class ResolveCheckpointTest : public ResolveTest {
 protected:
  // A checkpoint of gpt2-nano at step 50 in the folder ck, without tensors.
  void WriteCheckpoint(const BatchFacts& batch, const NumericsFingerprint& fingerprint) {
    std::filesystem::create_directory(dir_ + "/ck");
    Manifest manifest;
    manifest.facts.job_id = "first";
    manifest.facts.incarnation = Incarnation(1);
    manifest.facts.key = {Step(50), Generation(1), 1};
    manifest.facts.counters = {1600, 50};
    manifest.facts.model = *FindPreset("gpt2-nano");
    manifest.facts.batch = batch;
    manifest.facts.fingerprint = fingerprint;
    checkpoint_ = ManifestName(manifest.facts.key);
    Write("ck/" + checkpoint_, EncodeManifest(manifest));
  }

  std::string checkpoint_;  // the manifest's name
};

TEST_F(ResolveCheckpointTest, CheckpointsOfAnotherRunAreRefused) {
  WriteCheckpoint({32, 4, 8, 7, ""}, {});
  EXPECT_EQ(Refused({"train", "--data=text", "--save=ck"}),
            "--save: DIR/ck holds checkpoints of job first up to step 50; go on from them with "
            "--load DIR/ck, or choose another folder\n");
  // What is not said is the checkpoint's, so the mistake is the model and not some size of it.
  const std::string found = "--load: DIR/ck/" + checkpoint_;
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--num-attention-heads=5",
                     "--hidden-size=100"}),
            found +
                " holds another model: hidden-size 192 there, 100 here, num-attention-heads 6 "
                "there, 5 here; leave --model and the sizes out to use the checkpoint's\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--model=gpt2-nano", "--hidden-size=96",
                     "--accept-fingerprint"}),
            found +
                " holds another model: hidden-size 192 there, 96 here; leave --model and the sizes "
                "out to use the checkpoint's\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--global-batch-size=64", "--seed=9"}),
            found +
                " cannot be continued bit for bit: global-batch-size 32 there, 64 here, seed 7 "
                "there, 9 here; give what it has (batch and seed are taken from it when they are "
                "left out), or --accept-fingerprint to go on with another curve\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--train-iters=50"}),
            "--train-iters: the checkpoint is at step 50 already, got 50; ask for more steps\n");
  // What the checkpoint says need not be said again, whatever the width.
  const Resolved r = Good({"train", "--data=text", "--load=ck", "--save=ck"});
  EXPECT_EQ(r.job.train().canonical_blocks(), 8);
  EXPECT_EQ(r.job.train().seed(), 7u);
  EXPECT_NE(Refused({"train", "--data=text", "--load=nowhere"}).find("--load: "),
            std::string::npos);
}

TEST_F(ResolveCheckpointTest, AcceptedDifferencesOfACheckpoint_AreSaidAndUsed) {
  WriteCheckpoint({32, 4, 8, 7, ""}, {});
  const Resolved r = Good({"train", "--data=text", "--load=ck", "--save=ck",
                           "--global-batch-size=16", "--seed=9", "--accept-fingerprint"});
  EXPECT_EQ(WithoutDir(r.notes.back()),
            "--accept-fingerprint: DIR/ck/" + checkpoint_ +
                " goes on with another curve: global-batch-size 32 there, 16 here, "
                "canonical-blocks 8 there, 4 here, seed 7 there, 9 here");
  EXPECT_EQ(r.job.train().global_batch_size(), 16);
  EXPECT_EQ(r.job.train().canonical_blocks(), 4);
  EXPECT_EQ(r.job.train().seed(), 9u);
  EXPECT_TRUE(r.job.train().accept_fingerprint());  // the workers compare too
  // Nothing differs: nothing is said.
  for (const std::string& note :
       Good({"train", "--data=text", "--load=ck", "--save=ck", "--accept-fingerprint"}).notes) {
    EXPECT_THAT(note, testing::Not(testing::HasSubstr("another curve")));
  }
}

TEST_F(ResolveCheckpointTest, TextAndInstructionSetOfACheckpoint_AreComparedBeforeStart) {
  const std::string there = Sha256Hex(std::string(1000, 'a'));
  const std::string here = Sha256Hex(std::string(1000, 'b'));
  Write("other", std::string(1000, 'b'));
  WriteCheckpoint({32, 4, 8, 7, there}, {{"kernels", "oneDNN 3.7.1 avx2; tiles 1x2; v1"}});
  const Args same = {"train", "--data=text", "--load=ck", "--save=ck"};
  EXPECT_EQ(Good(same).notes.size(), 2u);
  const std::string text = "SHA-256 of the text (--data) " + there + " there, " + here + " here";
  const std::string isa =
      "instruction set of the matrix library (--isa-cap) avx2 there, baseline here";
  const std::string ends =
      "; give what it has (batch and seed are taken from it when they are left out), or "
      "--accept-fingerprint to go on with another curve\n";
  const std::string begins = "--load: DIR/ck/" + checkpoint_ + " cannot be continued bit for bit: ";
  EXPECT_EQ(Refused({"train", "--data=other", "--load=ck"}), begins + text + ends);
  // No --dry-run of what could not start.
  EXPECT_EQ(Refused({"--dry-run", "train", "--data=other", "--load=ck"}), begins + text + ends);
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--isa-cap=baseline"}),
            begins + isa + ends);
  const Args accepted = {"train",     "--data=other",       "--load=ck",
                         "--save=ck", "--isa-cap=baseline", "--accept-fingerprint"};
  EXPECT_EQ(WithoutDir(Good(accepted).notes.back()), "--accept-fingerprint: DIR/ck/" + checkpoint_ +
                                                         " goes on with another curve: " + text +
                                                         ", " + isa);

  // A library of which the launcher knows nothing is the workers' to judge.
  for (const char* unknown : {"oneDNN", "oneDNN 3.7.1", "cuBLAS 12.4 sm_90; tiles", ""}) {
    WriteCheckpoint({32, 4, 8, 7, ""}, {{"kernels", unknown}});
    Good(same);
  }
}

TEST_F(ResolveCheckpointTest, VersionOfTheKernelsOfACheckpoint_IsComparedBeforeStart) {
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  const std::string library = "oneDNN 3.7.1 avx2; tiles 1x2; ftz daz; kernels v";
  WriteCheckpoint({32, 4, 8, 7, ""}, {{"kernels", library + std::to_string(kCpuKernelsVersion)}});
  Good(load);
  WriteCheckpoint({32, 4, 8, 7, ""},
                  {{"kernels", library + std::to_string(kCpuKernelsVersion + 1)}});
  EXPECT_THAT(Refused(load),
              testing::HasSubstr("cannot be continued bit for bit: version of dsrun's kernels " +
                                 std::to_string(kCpuKernelsVersion + 1) + " there, " +
                                 std::to_string(kCpuKernelsVersion) + " here; "));
}

TEST_F(ResolveCheckpointTest, TheInstructionSetIsTheCheckpointsWhereThisCpuHasIt) {
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  const auto cap = [&](const std::string& written, const Args& args) {
    WriteCheckpoint({32, 4, 8, 7, ""},
                    {{"kernels", "oneDNN 3.7.1 " + written + "; tiles 1x2; v1"}});
    return Good(args).job.train().isa_cap();
  };
  machine_.isa = "avx512";
  EXPECT_EQ(cap("sse41", load), "baseline");
  EXPECT_EQ(cap("avx2", load), "avx2");
  EXPECT_EQ(cap("avx512", load), "avx512");
  machine_.isa = "avx2";
  WriteCheckpoint({32, 4, 8, 7, ""}, {{"kernels", "oneDNN 3.7.1 avx512; tiles 1x2; v1"}});
  EXPECT_THAT(Refused(load), testing::HasSubstr("(--isa-cap) avx512 there, avx2 here"));
}

}  // namespace
}  // namespace dsrun::launcher
