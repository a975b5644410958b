// Models of one's own, trained by ranks that are threads: the same bits at every width and stage of
// ZeRO, checkpoints that any of them goes on from, and what is refused.

#include "worker/api/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/model_tensors.h"
#include "tests/worker/api/own_models.h"
#include "worker/comm/in_process/in_process_communicator.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

std::vector<int64_t> Stages() { return {0, 1, 2, 3}; }

TEST(OwnModel, EveryWidthAndStage_HasTheSameBits) {
  struct Case {
    OwnModel model;
    SampleFn sample;
  };
  for (const Case& one : {Case{QuarterModel(), QuarterSample}, Case{SumsModel(), SumsSample}}) {
    const Trained serial = Train(one.model, one.sample, SmallConfig(), 1, 6);
    ASSERT_EQ(serial.losses.size(), 6u);
    EXPECT_LT(serial.losses.back(), serial.losses.front());
    for (const int width : {1, 2, 3}) {
      for (const int64_t stage : Stages()) {
        Config config = SmallConfig();
        config.zero_stage = stage;
        EXPECT_TRUE(Train(one.model, one.sample, config, width, 6) == serial)
            << one.model.name << " at " << width << " ranks, stage " << stage;
      }
    }
  }
}

TEST(OwnModel, OtherThreadsBucketsAndOverlap_ChangeNoBit) {
  const Trained serial = Train(SumsModel(), SumsSample, SmallConfig(), 1, 4);
  Config config = SmallConfig();
  config.threads_per_rank = 3;
  config.bucket_bytes = 0;
  config.overlap = false;
  EXPECT_TRUE(Train(SumsModel(), SumsSample, config, 2, 4) == serial);
}

// A layer's own dropout, and that of the engine's blocks. Outputs drop nothing.
TEST(OwnModel, Dropout_HasTheSameBitsAtEveryWidthAndStage) {
  Config config = SmallConfig();
  config.hidden_dropout = 0.1;
  config.attention_dropout = 0.2;
  const Trained serial = Train(DroppingModel(), SumsSample, config, 1, 4);
  ASSERT_EQ(serial.losses.size(), 4u);
  EXPECT_FALSE(serial == Train(DroppingModel(), SumsSample, SmallConfig(), 1, 4));
  for (const int width : {2, 3}) {
    for (const int64_t stage : Stages()) {
      config.zero_stage = stage;
      EXPECT_TRUE(Train(DroppingModel(), SumsSample, config, width, 4) == serial)
          << width << " ranks, stage " << stage;
    }
  }
}

TEST(OwnModel, OutputsOfAnUntrainedModel_AreThoseWithoutDropout) {
  const auto outputs = [](const Config& config) {
    std::vector<float> out;
    FaultyFileSystem fs;
    OnRanks(SumsModel(), SumsSample, config, {.width = 1}, fs, [&](Engine& engine) {
      const auto given = engine.Outputs(SumsSample, 0, 5);
      ASSERT_TRUE(given.ok()) << given.status();
      out = *given;
    });
    return out;
  };
  Config config = SmallConfig();
  config.hidden_dropout = 0.5;
  config.attention_dropout = 0.5;
  EXPECT_EQ(outputs(config), outputs(SmallConfig()));
}

TEST(OwnModel, OtherSeed_HasOtherBits) {
  Config config = SmallConfig();
  config.seed = 2;
  EXPECT_NE(Train(QuarterModel(), QuarterSample, config, 1, 2).hash,
            Train(QuarterModel(), QuarterSample, SmallConfig(), 1, 2).hash);
}

TEST(OwnModel, EveryOptimizer_HasTheSameBitsAtEveryWidth) {
  for (const char* const optimizer : {"sgd", "lamb", "lion"}) {
    Config config = SmallConfig();
    config.optimizer = optimizer;
    const Trained serial = Train(QuarterModel(), QuarterSample, config, 1, 3);
    config.zero_stage = 3;
    EXPECT_TRUE(Train(QuarterModel(), QuarterSample, config, 3, 3) == serial) << optimizer;
  }
}

// What a rank has allocated is what it says, and the layer's own part is in it.
TEST(OwnModel, MemoryPlan_HasWhatTheLayersDescribe) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 1}, fs, [](Engine& engine) {
    const MemoryPlan& plan = engine.memory_plan();
    // Two samples, two layers with a slope of 48 floats a row: each begins on 64 bytes.
    EXPECT_EQ(plan.Find("activations.slope").bytes(), 2 * (2 * 48 * 4));
    EXPECT_EQ(plan.Find("activations.outputs").bytes(), 64);  // 2 rows of 4 classes are 32 bytes
    EXPECT_EQ(plan.Find("tokens").bytes(), 2 * (2 + 1) * 4);
    // Leaves of 1,024: lift 96 and 48, mix 2,304 and 48, scores 192 and 4.
    EXPECT_EQ(plan.Find("parameters").elements, (1 + 1 + 3 + 1 + 1 + 1) * 1024);
    for (const PlannedBuffer& buffer : plan.buffers) EXPECT_NE(buffer.name, "save_snapshot");
  });
}

// ---- Checkpoints

TEST(OwnModelCheckpoint, AnotherWidthAndStage_GoesOnWithTheSameBits) {
  const Trained undisturbed = Train(SumsModel(), SumsSample, SmallConfig(), 1, 6);
  for (const int64_t from : Stages()) {
    for (const int64_t to : Stages()) {
      FaultyFileSystem fs;
      Config config = SmallConfig();
      config.zero_stage = from;
      OnRanks(SumsModel(), SumsSample, config, {.width = 2}, fs, [](Engine& engine) {
        for (int step = 0; step < 3; ++step) ASSERT_TRUE(engine.TrainBatch().ok());
        ASSERT_TRUE(engine.Save(kFolder).ok());
      });
      config.zero_stage = to;
      OnRanks(SumsModel(), SumsSample, config, {.width = 3, .generation = 2}, fs,
              [](Engine& engine) {
                const auto loaded = engine.Load(kFolder);
                ASSERT_TRUE(loaded.ok()) << loaded.status();
                EXPECT_EQ(loaded->step, 3);
                EXPECT_FALSE(loaded->manifest.empty());
                for (int step = 0; step < 3; ++step) ASSERT_TRUE(engine.TrainBatch().ok());
                ASSERT_TRUE(engine.Save(kFolder).ok());
              });
      EXPECT_EQ(NewestHash(fs), undisturbed.hash) << "stage " << from << " to stage " << to;
    }
  }
}

TEST(OwnModelCheckpoint, Manifest_IsHeldAgainstItsOwnParameters) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2}, fs, [](Engine& engine) {
    ASSERT_TRUE(engine.TrainBatch().ok());
    ASSERT_TRUE(engine.Save(kFolder).ok());
  });
  const auto checkpoint = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  Manifest manifest = checkpoint->manifest();
  EXPECT_EQ(manifest.version, 2);
  EXPECT_TRUE(manifest.layout.has_value());
  EXPECT_EQ(manifest.facts.model.family, "own");
  EXPECT_EQ(manifest.facts.model.preset, "quarters");
  EXPECT_EQ(manifest.facts.counters.samples_consumed, 12);
  EXPECT_TRUE(CheckModelTensors(manifest).ok()) << CheckModelTensors(manifest);
  for (ManifestTensor& tensor : manifest.tensors) {
    if (tensor.name == "state/exp_avg/lift.bias") tensor.shape = {4, 12};
  }
  EXPECT_THAT(std::string(CheckModelTensors(manifest).message()),
              HasSubstr("state/exp_avg/lift.bias: expected shape (48), got (4, 12)"));
}

TEST(OwnModelCheckpoint, FolderThatIsNotThere_IsABeginning) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2}, fs, [](Engine& engine) {
    const auto loaded = engine.Load(kFolder);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->manifest, "");
    EXPECT_EQ(engine.step(), 0);
  });
}

TEST(OwnModelCheckpoint, SecondSaveOfAStep_IsTheFirst) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2}, fs, [](Engine& engine) {
    ASSERT_TRUE(engine.TrainBatch().ok());
    const auto first = engine.Save(kFolder);
    const auto second = engine.Save(kFolder);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(*second, *first);
  });
  EXPECT_EQ(ListManifests(fs, kFolder)->size(), 1u);
}

TEST(OwnModelCheckpoint, FoldersInTurn_HaveTheirOwnSaves) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2}, fs, [](Engine& engine) {
    ASSERT_TRUE(engine.TrainBatch().ok());
    const auto first = engine.Save("/a");
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(engine.Save("/b").ok());
    const auto again = engine.Save("/a");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, *first);
  });
  EXPECT_EQ(ListManifests(fs, "/b")->size(), 1u);
}

// Rank 1 is lost between the commit and its word: what the manifest names stays.
TEST(OwnModelCheckpoint, RankThatIsLostAtTheCommit_LeavesTheCheckpointWhole) {
  FaultyFileSystem fs;
  Config config = SmallConfig();
  config.keep_last = 1;
  std::atomic<int> saves{0};
  const auto before = [&](int rank, const std::string& what) {
    const bool lost = rank == 1 && saves == 1 && what.starts_with("whether it is committed");
    return lost ? absl::UnavailableError("rank 0 is gone") : absl::OkStatus();
  };
  OnRanks(QuarterModel(), QuarterSample, config, {.width = 2, .before = before}, fs,
          [&](Engine& engine) {
            ASSERT_TRUE(engine.TrainBatch().ok());
            ASSERT_TRUE(engine.Save(kFolder).ok());
            ASSERT_TRUE(engine.TrainBatch().ok());
            if (engine.rank() == 1) saves = 1;
            const absl::Status second = engine.Save(kFolder).status();
            EXPECT_EQ(second.code(),
                      engine.rank() == 0 ? absl::StatusCode::kOk : absl::StatusCode::kUnknown)
                << second;
          });
  const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->manifest().facts.counters.optimizer_steps, 2);
}

// A first start that has loaded nothing does not write beside what an earlier run has left,
// whatever that was called.
TEST(OwnModelCheckpoint, FolderOfAnEarlierRunOfTheSameName_IsNotWrittenInto) {
  FaultyFileSystem fs;
  const auto run = [&](int64_t generation, bool load, absl::StatusCode expected) {
    OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2, .generation = generation},
            fs, [&](Engine& engine) {
              if (load) {
                ASSERT_TRUE(engine.Load(kFolder).ok());
              }
              ASSERT_TRUE(engine.TrainBatch().ok());
              EXPECT_EQ(engine.Save(kFolder).status().code(), expected);
            });
  };
  run(1, /*load=*/false, absl::StatusCode::kOk);
  run(1, /*load=*/false, absl::StatusCode::kFailedPrecondition);
  run(1, /*load=*/true, absl::StatusCode::kOk);
}

TEST(OwnModelCheckpoint, OlderOnes_AreRemoved) {
  FaultyFileSystem fs;
  Config config = SmallConfig();
  config.keep_last = 2;
  OnRanks(QuarterModel(), QuarterSample, config, {.width = 2}, fs, [](Engine& engine) {
    for (int step = 0; step < 5; ++step) {
      ASSERT_TRUE(engine.TrainBatch().ok());
      ASSERT_TRUE(engine.Save(kFolder).ok());
    }
  });
  EXPECT_EQ(ListManifests(fs, kFolder)->size(), 2u);
}

TEST(OwnModelCheckpoint, AnotherModel_IsRefused) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 1}, fs,
          [](Engine& engine) { ASSERT_TRUE(engine.Save(kFolder).ok()); });
  OwnModel wider = QuarterModel();
  wider.layers[0] = Dense("lift", 2, 64, Activation::kGelu);
  wider.layers[1] = Dense("mix", 64, 48, Activation::kGelu);
  OwnModel renamed = QuarterModel();
  renamed.layers[1] = Dense("other", 48, 48, Activation::kGelu);
  OwnModel called_otherwise = QuarterModel();
  called_otherwise.name = "halves";
  for (const OwnModel& other : {wider, renamed, called_otherwise}) {
    OnRanks(other, QuarterSample, SmallConfig(), {.width = 2}, fs, [](Engine& engine) {
      const absl::Status status = engine.Load(kFolder).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    });
  }
}

TEST(OwnModelCheckpoint, FolderOfAnotherJob_IsNotWrittenIntoUnlessLoaded) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 1, .job = "first"}, fs,
          [](Engine& engine) {
            ASSERT_TRUE(engine.TrainBatch().ok());
            ASSERT_TRUE(engine.Save(kFolder).ok());
          });
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2, .job = "second"}, fs,
          [](Engine& engine) {
            const absl::Status status = engine.Save(kFolder).status();
            EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
            EXPECT_THAT(std::string(status.message()),
                        HasSubstr("/checkpoints holds checkpoints of another run (job first) up to "
                                  "step 1; go on from them with Load, or save into another "
                                  "folder"));
          });
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2, .job = "third"}, fs,
          [](Engine& engine) {
            ASSERT_TRUE(engine.Load(kFolder).ok());
            ASSERT_TRUE(engine.TrainBatch().ok());
            EXPECT_TRUE(engine.Save(kFolder).ok());
            EXPECT_EQ(engine.step(), 2);
          });
}

TEST(OwnModelCheckpoint, LoadAfterTraining_IsRefused) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 1}, fs, [](Engine& engine) {
    ASSERT_TRUE(engine.TrainBatch().ok());
    EXPECT_THAT(std::string(engine.Load(kFolder).status().message()),
                HasSubstr("Load comes before the first TrainBatch"));
  });
}

// ---- Samples

TEST(OwnModelSample, NumberThatIsNone_IsNamed) {
  FaultyFileSystem fs;
  const SampleFn broken = [](int64_t index, const Sample& sample) {
    QuarterSample(index, sample);
    if (index == 5) sample.inputs[1] = std::numeric_limits<float>::infinity();
  };
  OnRanks(QuarterModel(), broken, SmallConfig(), {.width = 1}, fs, [](Engine& engine) {
    EXPECT_EQ(engine.TrainBatch().status().message(),
              "sample 5: input 1: expected a finite number, got inf");
  });
}

TEST(OwnModelSample, ClassThatThereIsNot_IsNamed) {
  FaultyFileSystem fs;
  const SampleFn broken = [](int64_t index, const Sample& sample) {
    QuarterSample(index, sample);
    if (index == 2) sample.target_ids[0] = 4;
  };
  OnRanks(QuarterModel(), broken, SmallConfig(), {.width = 1}, fs, [](Engine& engine) {
    EXPECT_THAT(std::string(engine.TrainBatch().status().message()),
                HasSubstr("sample 2: target at position 0: expected an id from 0 to 3"));
  });
}

TEST(OwnModelSample, MaskedRows_DoNotCount) {
  FaultyFileSystem fs;
  OnRanks(QuarterModel(), QuarterSample, SmallConfig(), {.width = 2}, fs, [](Engine& engine) {
    const auto batch = engine.TrainBatch();
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->rows, 11);  // of 12, the seventh is masked
  });
}

// Floats have no value that masks: all six rows of all samples count.
TEST(OwnModelSample, RowsOfFloats_AllCount) {
  FaultyFileSystem fs;
  OnRanks(SumsModel(), SumsSample, SmallConfig(), {.width = 1}, fs, [](Engine& engine) {
    const auto batch = engine.TrainBatch();
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->rows, 12 * 6);
  });
}

// ---- What Create refuses

absl::Status Refused(const OwnModel& model, const Config& config, int width = 1) {
  auto group = worker::CreateInProcessGroup(width, {});
  FaultyFileSystem fs;
  return Engine::Create(model, QuarterSample, config, {.size = width}, std::move(group[0]), fs)
      .status();
}

TEST(OwnModelRefused, MoreRanksThanAtoms) {
  EXPECT_EQ(Refused(QuarterModel(), SmallConfig(), 7).code(), absl::StatusCode::kInvalidArgument);
}

TEST(OwnModelRefused, HeadThatDoesNotFitTheTargets) {
  OwnModel model = QuarterModel();
  model.head = SquaredError("loss", 4);
  EXPECT_EQ(Refused(model, SmallConfig()).message(),
            "model quarters, layer loss: it takes 4 floats for a row as targets");
  model = QuarterModel();
  model.outputs = 3;
  EXPECT_EQ(Refused(model, SmallConfig()).message(),
            "model quarters, layer loss: it gives 4 numbers for a row; expected the outputs of the "
            "model, 3");
}

TEST(OwnModelRefused, LayerThatNobodyMakes) {
  OwnModel model = QuarterModel();
  model.layers[1].make = nullptr;
  EXPECT_EQ(Refused(model, SmallConfig()).message(),
            "model quarters, layer mix: it has no function that makes it");
  model = QuarterModel();
  model.layers[1].make = [] { return std::unique_ptr<Layer>(); };
  EXPECT_EQ(Refused(model, SmallConfig()).message(),
            "layer mix: nobody makes it; give the function that does");
}

TEST(OwnModelRefused, ScheduleThatThereIsNot) {
  Config config = SmallConfig();
  config.lr_schedule = "steep";
  const absl::Status status = Refused(QuarterModel(), config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::StartsWith("--lr-schedule: "));
}

TEST(OwnModelRefused, OtherPrecision) {
  Config config = SmallConfig();
  config.precision = "bf16";
  EXPECT_EQ(Refused(QuarterModel(), config).message(),
            "--precision: expected fp32, got \"bf16\": layers of one's own compute in fp32 so far");
}

}  // namespace
}  // namespace dsrun
