// A run that loads a checkpoint: what it takes from it, and what is refused before anything starts.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/sha256.h"
#include "common/format/manifest.h"
#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "common/numerics/fingerprint.h"
#include "common/numerics/kernels_version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/resolve.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/launcher/commands/resolve_fixture.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::launcher {
namespace {

class ResolveCheckpointTest : public ResolveTest {
 protected:
  // What this machine's run would write.
  static NumericsFingerprint Ours() {
    NumericsFingerprint out;
    out.isa = "avx2";
    out.sums = std::string(kExactSums);
    out.micro_batches_per_atom = 2;
    out.kernels_version = kCpuKernelsVersion;
    return out;
  }

  // All that a checkpoint of this model has, as zeros in one file, which nobody looks into here.
  struct Shard {
    worker::ShardRecord record;
    std::string bytes;
  };
  static const Shard& ShardOfZeros() {
    static const Shard* const shard = [] {
      std::vector<worker::Slice> slices;
      std::vector<LogicalTensor> tensors = LogicalTensors(*FindPreset("gpt2-nano"));
      int64_t most = 0;
      for (const LogicalTensor& tensor : tensors) {
        most = std::max(most, tensor.size());
        for (const std::string slot : {"model/", "state/exp_avg/", "state/exp_avg_sq/"}) {
          slices.push_back({slot + tensor.name, tensor.shape, 0, tensor.size()});
        }
      }
      const auto count = static_cast<int64_t>(tensors.size());
      slices.push_back({"sums/exponents", {count}, 0, count});
      const std::vector<float> zeros(static_cast<size_t>(most));
      for (worker::Slice& slice : slices) slice.data = zeros.data();
      FaultyFileSystem fs;
      EXPECT_TRUE(worker::BeginJob(fs, "/ck", "first").ok());
      const worker::ShardId id{"first", {Step(50), Generation(1), Incarnation(1), Rank(0)}};
      auto* const made = new Shard{worker::WriteShard(fs, "/ck", id, slices).value(), ""};
      made->bytes = ReadFile(fs, "/ck/" + made->record.file.name).value();
      return made;
    }();
    return *shard;
  }
  void AddTensors(const std::string& folder, Manifest& manifest) {
    const Shard& shard = ShardOfZeros();
    Write(folder + "/" + shard.record.file.name, shard.bytes);
    manifest.files = {shard.record.file};
    for (const worker::ShardRecord::Piece& piece : shard.record.pieces) {
      manifest.tensors.push_back({piece.tensor, piece.shape, {piece.piece}});
    }
    std::sort(manifest.tensors.begin(), manifest.tensors.end(),
              [](const ManifestTensor& a, const ManifestTensor& b) { return a.name < b.name; });
  }

  // A checkpoint of gpt2-nano, at step 50 in the folder ck if nothing else is said.
  void WriteCheckpoint(const BatchFacts& batch, const NumericsFingerprint& fingerprint = Ours(),
                       int64_t step = 50, const std::string& folder = "ck") {
    std::filesystem::create_directories(dir_ + "/" + folder);
    Manifest manifest;
    manifest.facts.job_id = "first";
    manifest.facts.incarnation = Incarnation(1);
    manifest.facts.key = {Step(step), Generation(1), 1};
    manifest.facts.counters = {32 * step, step};
    manifest.facts.model = *FindPreset("gpt2-nano");
    manifest.facts.batch = batch;
    manifest.facts.fingerprint = fingerprint;
    manifest.facts.optimizer = optimizer_;
    AddTensors(folder, manifest);
    checkpoint_ = ManifestName(manifest.facts.key);
    Write(folder + "/" + checkpoint_, EncodeManifest(manifest));
  }

  std::string checkpoint_;    // the manifest's name
  OptimizerFacts optimizer_;  // of the next one
};

TEST_F(ResolveCheckpointTest, CheckpointsOfAnotherRunAreRefused) {
  WriteCheckpoint({32, 4, 7, ""});
  EXPECT_EQ(Refused({"train", "--data=text", "--save=ck"}),
            "--save: DIR/ck holds checkpoints of job first up to step 50; go on from them with "
            "--load DIR/ck, or choose another folder\n");
  // What is not said is the checkpoint's, so the mistake is the model and not some size of it.
  const std::string found = "--load: DIR/ck/" + checkpoint_;
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--num-attention-heads=5",
                     "--hidden-size=100"}),
            found +
                " holds another model:\n"
                "                         checkpoint  this run\n"
                "    hidden-size          192         100\n"
                "    num-attention-heads  6           5\n"
                "  leave --model and the sizes out to use the checkpoint's\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--model=gpt2-nano", "--hidden-size=96",
                     "--accept-fingerprint"}),
            found +
                " holds another model:\n"
                "                 checkpoint  this run\n"
                "    hidden-size  192         96\n"
                "  leave --model and the sizes out to use the checkpoint's\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--global-batch-size=64", "--seed=9"}),
            found +
                " cannot be continued bit for bit:\n"
                "                       checkpoint  this run\n"
                "    global-batch-size  32          64\n"
                "    seed               7           9\n"
                "  give what it has (batch, seed, precision and rates of dropout are taken from it "
                "when they are left out), or "
                "--accept-fingerprint to go on with another curve\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--train-iters=50"}),
            "--train-iters: the checkpoint is at step 50 already, got 50; ask for more steps\n");
  // What the checkpoint says need not be said again, whatever the width.
  const Resolved r = Good({"train", "--data=text", "--load=ck", "--save=ck"});
  EXPECT_EQ(r.job.train().micro_batches_per_atom(), 2);
  EXPECT_EQ(r.job.train().seed(), 7u);
  EXPECT_NE(Refused({"train", "--data=text", "--load=nowhere"}).find("--load: "),
            std::string::npos);
}

// State of one optimizer is none of another's; what is not said is the checkpoint's.
TEST_F(ResolveCheckpointTest, ACheckpointOfAnotherOptimizer_IsRefused) {
  WriteCheckpoint({32, 4, 7, ""});
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--optimizer=lion"}),
            "--load: DIR/ck/" + checkpoint_ +
                ": it holds the state of another optimizer: expected lion with state exp_avg (this "
                "run), got adamw with state exp_avg, exp_avg_sq; give --optimizer adamw\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--optimizer=adam"}),
            "--load: DIR/ck/" + checkpoint_ +
                ": it holds the state of another optimizer: expected adam with state exp_avg, "
                "exp_avg_sq (this run), got adamw with state exp_avg, exp_avg_sq; give --optimizer "
                "adamw\n");
  optimizer_.name = "adam";
  WriteCheckpoint({32, 4, 7, ""}, Ours(), 60);
  EXPECT_EQ(Good({"train", "--data=text", "--load=ck", "--save=ck"}).job.train().optimizer().name(),
            "adam");
}

TEST_F(ResolveCheckpointTest, AcceptedDifferencesOfACheckpoint_AreSaidAndUsed) {
  WriteCheckpoint({32, 4, 7, ""});
  const Resolved r = Good({"train", "--data=text", "--load=ck", "--save=ck",
                           "--global-batch-size=16", "--seed=9", "--accept-fingerprint"});
  EXPECT_EQ(WithoutDir(r.notes.back()), "--accept-fingerprint: DIR/ck/" + checkpoint_ +
                                            " goes on with another curve:\n"
                                            "                       checkpoint  this run\n"
                                            "    global-batch-size  32          16\n"
                                            "    seed               7           9");
  EXPECT_EQ(r.job.train().global_batch_size(), 16);
  EXPECT_EQ(r.job.train().micro_batches_per_atom(), 2);
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
  WriteCheckpoint({32, 4, 7, there});
  const Args same = {"train", "--data=text", "--load=ck", "--save=ck"};
  EXPECT_EQ(Good(same).notes.size(), 2u);
  const std::string ends =
      "\n  give what it has (batch, seed, precision and rates of dropout are taken from it when "
      "they are left out), or "
      "--accept-fingerprint to go on with another curve\n";
  const std::string begins = "--load: DIR/ck/" + checkpoint_ + " cannot be continued bit for bit:";
  const std::string wide(64 - 10, ' ');  // a hash is wider than its title
  const std::string text = "\n                                  checkpoint" + wide +
                           "  this run\n    SHA-256 of the text (--data)  " + there + "  " + here;
  const std::string isa =
      "\n                                 checkpoint  this run"
      "\n    instruction set (--isa-cap)  avx2        baseline";
  EXPECT_EQ(Refused({"train", "--data=other", "--load=ck"}), begins + text + ends);
  // No --dry-run of what could not start.
  EXPECT_EQ(Refused({"--dry-run", "train", "--data=other", "--load=ck"}), begins + text + ends);
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--isa-cap=baseline"}),
            begins + isa + ends);
  const Args accepted = {"train",     "--data=other",       "--load=ck",
                         "--save=ck", "--isa-cap=baseline", "--accept-fingerprint"};
  const std::string note = WithoutDir(Good(accepted).notes.back());
  EXPECT_THAT(note, testing::StartsWith("--accept-fingerprint: DIR/ck/" + checkpoint_ +
                                        " goes on with another curve:\n"));
  EXPECT_THAT(note, testing::HasSubstr(there + "  " + here));
  EXPECT_THAT(note, testing::HasSubstr("instruction set (--isa-cap)   avx2"));
}

// From before exact sums: another curve, which may be accepted.
TEST_F(ResolveCheckpointTest, CheckpointWhoseSumsWereATree_IsAnotherCurve) {
  NumericsFingerprint old = Ours();
  SetTreeSums(old, "8");
  WriteCheckpoint({32, 4, 7, ""}, old);
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  EXPECT_THAT(Refused(load),
              testing::HasSubstr("sums over the batch  tree over 8 blocks  exact 1"));
  Args accepted = load;
  accepted.push_back("--accept-fingerprint");
  EXPECT_EQ(Good(accepted).job.train().micro_batches_per_atom(), 1);
}

// What the launcher cannot know (library, tiles) is the workers' to judge; that the checkpoint does
// not say what the launcher knows is judged at once.
TEST_F(ResolveCheckpointTest, FieldsThatOneSideDoesNotKnow) {
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  NumericsFingerprint other = Ours();
  other.library = "another";
  other.tiles = "1x2";
  WriteCheckpoint({32, 4, 7, ""}, other);
  Good(load);
  NumericsFingerprint silent;
  silent.sums = std::string(kExactSums);
  silent.micro_batches_per_atom = 2;
  silent.others["kernels"] = "cuBLAS 12.4 sm_90";
  WriteCheckpoint({32, 4, 7, ""}, silent);
  const std::string message = Refused(load);
  EXPECT_THAT(message, testing::HasSubstr("instruction set (--isa-cap)  not recorded       avx2"));
  EXPECT_THAT(message, testing::HasSubstr("kernels                      cuBLAS 12.4 sm_90  "));
}

TEST_F(ResolveCheckpointTest, VersionOfTheKernelsOfACheckpoint_IsComparedBeforeStart) {
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  NumericsFingerprint fingerprint = Ours();
  WriteCheckpoint({32, 4, 7, ""}, fingerprint);
  Good(load);
  ++fingerprint.kernels_version;
  WriteCheckpoint({32, 4, 7, ""}, fingerprint);
  EXPECT_THAT(Refused(load),
              testing::HasSubstr("\n    version of dsrun's kernels  " +
                                 std::to_string(kCpuKernelsVersion + 1) + "           " +
                                 std::to_string(kCpuKernelsVersion) + "\n"));
}

// Rates that are not said are the checkpoint's; others are another curve.
TEST_F(ResolveCheckpointTest, RatesOfDropout_AreTheCheckpoints) {
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  NumericsFingerprint fingerprint = Ours();
  fingerprint.hidden_dropout = "0.1";
  WriteCheckpoint({32, 4, 7, ""}, fingerprint);
  EXPECT_EQ(Good(load).job.train().hidden_dropout(), 0.1);
  EXPECT_EQ(Good(load).job.train().attention_dropout(), 0);
  Args other = load;
  other.push_back("--attention-dropout=0.2");
  other.push_back("--hidden-dropout=0");
  const std::string refused = Refused(other);
  EXPECT_THAT(refused, testing::HasSubstr("hidden dropout (--hidden-dropout)        0.1"));
  EXPECT_THAT(refused, testing::HasSubstr("attention dropout (--attention-dropout)  0  "));
  other.push_back("--accept-fingerprint");
  EXPECT_EQ(Good(other).job.train().attention_dropout(), 0.2);
  EXPECT_EQ(Good(other).job.train().hidden_dropout(), 0);
  fingerprint.hidden_dropout = "some";
  WriteCheckpoint({32, 4, 7, ""}, fingerprint);
  EXPECT_THAT(Refused(load), testing::HasSubstr("--load: its checkpoint was trained with a "
                                                "--hidden-dropout of \"some\""));
}

TEST_F(ResolveCheckpointTest, TheInstructionSetIsTheCheckpointsWhereThisCpuHasIt) {
  const Args load = {"train", "--data=text", "--load=ck", "--save=ck"};
  const auto cap = [&](const std::string& written, const Args& args) {
    NumericsFingerprint fingerprint = Ours();
    fingerprint.isa = written;
    WriteCheckpoint({32, 4, 7, ""}, fingerprint);
    return Good(args).job.train().isa_cap();
  };
  machine_.isa = "avx512";
  EXPECT_EQ(cap("baseline", load), "baseline");
  EXPECT_EQ(cap("avx2", load), "avx2");
  EXPECT_EQ(cap("avx512", load), "avx512");
  machine_.isa = "avx2";
  NumericsFingerprint wider = Ours();
  wider.isa = "avx512";
  WriteCheckpoint({32, 4, 7, ""}, wider);
  EXPECT_THAT(Refused(load), testing::HasSubstr("instruction set (--isa-cap)  avx512      avx2\n"));
}

TEST_F(ResolveCheckpointTest, LoadStep_TakesThatStepAndNoOther) {
  const BatchFacts batch = {32, 4, 7, ""};
  for (const int64_t step : {20, 50, 60}) WriteCheckpoint(batch, Ours(), step);
  const Resolved r = Good({"train", "--data=text", "--load=ck", "--load-step=50", "--save=ck"});
  EXPECT_EQ(r.job.train().load_step(), 50);
  EXPECT_THAT(WithoutDir(r.notes[0]), testing::StartsWith("goes on from step 50 of DIR/ck/"));
  EXPECT_THAT(WithoutDir(r.notes[1]),
              testing::HasSubstr("DIR/ck holds checkpoints up to step 60, which stay"));
  // The newest is looked for once: the ranks load the step that was found.
  EXPECT_EQ(Good({"train", "--data=text", "--load=ck", "--save=ck"}).job.train().load_step(), 60);
  EXPECT_EQ(Refused({"train", "--data=text", "--load=ck", "--load-step=30"}),
            "--load-step: no whole checkpoint of step 30 in DIR/ck; the steps that are there: 20, "
            "50, 60\n");
  EXPECT_EQ(Refused({"train", "--data=text", "--load-step=30"}),
            "--load-step: says which checkpoint of --load, which is missing; give --load DIR\n");
  EXPECT_THAT(Refused({"train", "--data=text", "--load=ck", "--load-step=-1"}),
              testing::HasSubstr("--load-step"));
  // What is not whole is not replaced by another.
  Write("ck/manifest.step-00000070.gen-0001.epoch-0001.json", "torn");
  EXPECT_THAT(Refused({"train", "--data=text", "--load=ck", "--load-step=70"}),
              testing::HasSubstr("torn: 4 bytes"));
}

TEST_F(ResolveCheckpointTest, LoadOfARunFolder_MeansItsCheckpoints) {
  WriteCheckpoint({32, 4, 7, ""}, Ours(), 50, "run/checkpoints");
  const Resolved r = Good({"train", "--data=text", "--load=run"});
  EXPECT_EQ(r.job.train().load_dir(), dir_ + "/run/checkpoints");
  EXPECT_EQ(WithoutDir(r.notes[0]),
            "--load: DIR/run is a run folder: its DIR/run/checkpoints is meant");
  EXPECT_EQ(Refused({"train", "--data=text", "--load=run/checkpoints/" + checkpoint_}),
            "--load: expected a folder, got the manifest DIR/run/checkpoints/" + checkpoint_ +
                "; write --load DIR/run/checkpoints --load-step 50\n");
}

TEST_F(ResolveCheckpointTest, WhichOfItsOwnStay) {
  const auto train = [&](const Args& more) {
    Args args = {"train", "--data=text", "--save=new"};
    args.insert(args.end(), more.begin(), more.end());
    return Good(args);
  };
  EXPECT_EQ(train({}).job.train().keep_last(), 3);
  EXPECT_EQ(train({}).job.train().keep_every(), 0);
  const Resolved r = train({"--keep-last=7", "--keep-every=75", "--tag=best_1"});
  EXPECT_EQ(r.job.train().keep_last(), 7);
  EXPECT_EQ(r.job.train().keep_every(), 75);
  EXPECT_EQ(r.job.train().tag(), "best_1");
  EXPECT_THAT(r.notes, testing::Contains("--keep-every 75: checkpoints come every 50 steps, so "
                                         "those of every 150 steps stay"));
  EXPECT_THAT(Refused({"train", "--data=text", "--keep-last=0"}),
              testing::HasSubstr("--keep-last"));
  EXPECT_THAT(Refused({"train", "--data=text", "--tag=a/b"}), testing::HasSubstr("--tag: "));
  WriteCheckpoint({32, 4, 7, ""});
  Write("ck/tag.best", checkpoint_ + "\n");
  EXPECT_THAT(Refused({"train", "--data=text", "--load=ck", "--save=ck", "--tag=best"}),
              testing::HasSubstr("--tag: the tag best in DIR/ck names " + checkpoint_ +
                                 " already; take it away with dsrun checkpoint untag"));
}

}  // namespace
}  // namespace dsrun::launcher
