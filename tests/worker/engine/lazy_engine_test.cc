// The CPU engine on a device whose streams run late (tests/worker/device/lazy_device.h): the same
// bits, or somebody forgot to wait.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/support/short_lists.h"
#include "tests/worker/device/lazy_device.h"
#include "tests/worker/engine/engine_under_test.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"
#include "worker/engine/engine_factory.h"
#include "worker/model/init.h"
#include "worker/model/model.h"

namespace dsrun::worker {
namespace {

// Minutes otherwise; what the sanitizer finds does not hang on the order of queues.
constexpr uint64_t kSeeds = kThreadSanitizer ? 3 : 20;
constexpr int kSteps = 3;
constexpr ReduceRoute kRoutes[] = {
    {ReduceWay::kDirect}, {ReduceWay::kRing}, {ReduceWay::kTree}, {ReduceWay::kTwoLevel, 2}};

// What BuildEngine builds, on a LazyDevice.
struct LazyEngine {
  LazyEngine(const proto::TrainSpec& spec, uint64_t seed, LazyDevice::Forgets forgets = nullptr)
      : engine(BuildEngine(spec).value()),
        device(PutOnLazyDevice(spec, seed, engine, std::move(forgets))) {}

  void PutInto(Trainer::Setup& setup) {
    setup.device = engine.device.get();
    setup.kernels = engine.kernels.get();
    setup.comm_kernels = engine.comm_kernels.get();
    setup.model = engine.model.get();
  }

  Engine engine;
  LazyDevice& device;
};

// Every rank on a device of its own, none of which finds anything.
TrainedState TrainLazily(const proto::TrainSpec& spec, int width, uint64_t seed,
                         ReduceRoute route = {}) {
  std::vector<std::unique_ptr<LazyEngine>> engines;
  for (int rank = 0; rank < width; ++rank) {
    engines.push_back(std::make_unique<LazyEngine>(spec, 100 * seed + static_cast<uint64_t>(rank)));
  }
  HowTrained how;
  how.route = route;
  how.adjust = [&](Trainer::Setup& setup) {
    engines[static_cast<size_t>(setup.communicator->rank())]->PutInto(setup);
  };
  TrainedState trained = Train(spec, width, kSteps, how);
  for (const std::unique_ptr<LazyEngine>& engine : engines) {
    engine->engine.model.reset();
    EXPECT_GT(engine->device.postponed(), 0);
    EXPECT_EQ(engine->device.problems(), std::vector<std::string>());
  }
  return trained;
}

class LazyEngineTest : public ::testing::TestWithParam<int> {};

TEST_P(LazyEngineTest, Training_HasTheBitsOfTheCpuUnderEverySeed) {
  const int width = GetParam();
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  for (const bool fast : {false, true}) {
    spec.set_sums(fast ? "fast" : "exact");
    spec.set_micro_batches_per_atom(fast ? 2 : 1);
    spec.clear_recompute();
    spec.clear_zero_stage();
    constexpr std::array kStages = {1, 3, 0, 2};
    std::array<TrainedState, kStages.size()> plain;  // fast sums have bits by stage
    for (size_t i = 0; i < kStages.size(); ++i) {
      spec.set_zero_stage(kStages[i]);
      plain[i] = Train(spec, width, kSteps);
    }
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + (fast ? ", fast sums" : ", exact sums"));
      const int stage = kStages[seed % kStages.size()];
      spec.set_zero_stage(stage);
      spec.mutable_recompute()->set_every(static_cast<int64_t>(seed / 4 % 3));  // 0: nothing
      const ReduceRoute route =
          fast ? ReduceRoute() : kRoutes[(seed + seed / 4) % std::size(kRoutes)];
      const TrainedState lazy = TrainLazily(spec, width, seed, route);
      EXPECT_TRUE(lazy.SameBits(plain[seed % kStages.size()]));
      if (HasFailure()) return;
    }
  }
}

// Its matrices go through the host's exchange and the kernels' stream by turns.
TEST_P(LazyEngineTest, Muon_HasTheBitsOfTheCpuUnderEverySeed) {
  const int width = GetParam();
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/3);
  spec.mutable_optimizer()->set_name("muon");
  const TrainedState plain = Train(spec, width, kSteps);
  for (uint64_t seed = 0; seed < 6 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    constexpr std::array kStages = {1, 3, 0};
    spec.set_zero_stage(kStages[seed % kStages.size()]);
    EXPECT_TRUE(TrainLazily(spec, width, seed).SameBits(plain));
  }
}

// Masks are made where they are used, whenever that is; those of a second forward, too.
TEST_P(LazyEngineTest, Dropout_HasTheBitsOfTheCpuUnderEverySeed) {
  const int width = GetParam();
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/3);
  spec.set_hidden_dropout(0.1);
  spec.set_attention_dropout(0.2);
  const TrainedState plain = Train(spec, width, kSteps);
  for (uint64_t seed = 0; seed < 6 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    constexpr std::array kStages = {1, 3, 0};
    spec.set_zero_stage(kStages[seed % kStages.size()]);
    spec.mutable_recompute()->set_every(static_cast<int64_t>(seed % 2));
    EXPECT_TRUE(TrainLazily(spec, width, seed).SameBits(plain));
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, LazyEngineTest, ::testing::Values(1, 2, 3));

TEST(LazyEngineTest, Sampling_HasTheLogitsOfTheCpuUnderEverySeed) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/1);
  const std::vector<int32_t> tokens = {5, 250, 17};
  const auto logits = [&](Trainer::Setup& setup) {
    const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
    {
      const std::vector<HostAccess> access = trainer->OpenState().value();
      InitParameters(trainer->layout(), spec.seed(), trainer->state().parameters);
    }
    EXPECT_GT(trainer->EstimateStep(), absl::ZeroDuration());
    std::vector<float> logits(256);
    EXPECT_TRUE(
        setup.model->NextTokenLogits(tokens.data(), 3, trainer->parameters(), logits.data()).ok());
    return std::vector<float>(logits);  // as they are now: the trainer's end would wait
  };
  OnRanks(spec, 1, [&](Trainer::Setup& setup) {
    const std::vector<float> plain = logits(setup);
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      LazyEngine engine(spec, seed);
      engine.PutInto(setup);
      EXPECT_EQ(logits(setup), plain) << "seed " << seed;
      EXPECT_EQ(engine.device.problems(), std::vector<std::string>()) << "seed " << seed;
    }
  });
}

// A step that is given up in the middle: what it has enqueued still uses the trainer's memory.
TEST(LazyEngineTest, TrainerThatIsCancelledInAStep_FreesNothingEarly) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  OnRanks(spec, 1, [&](Trainer::Setup& setup) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      int asked = 0;
      setup.cancelled = [&] { return ++asked > 7; };  // of the 6 layers: the second of backward
      LazyEngine engine(spec, seed);
      engine.PutInto(setup);
      std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
      const absl::Status status = trainer->TrainStep(/*stop_requested=*/false).status();
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      if (seed % 2 == 0) trainer.reset();  // either may go first
      engine.engine.model.reset();
      trainer.reset();
      EXPECT_EQ(engine.device.problems(), std::vector<std::string>()) << "seed " << seed;
    }
  });
}

// Loading, saving behind the next steps, going on with other widths: as SupersededGenerations_...
// of generation_test.cc, with every worker on a device of its own.
TEST(LazyEngineTest, GenerationsThatSaveAndResume_EndWithTheHashOfTheCpu) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    FaultyFileSystem fs;
    Mutex mu;
    std::vector<LazyDevice*> devices;  // of the workers
    WorkerCluster cluster(Job(), fs);
    cluster.adjust_engine = [&](Rank rank, Engine& engine) {
      const uint64_t own = 100 * seed + static_cast<uint64_t>(rank.value());
      LazyDevice& device = PutOnLazyDevice(Job().train(), own, engine);
      MutexLock lock(mu);
      devices.push_back(&device);
    };
    std::atomic<int64_t> disturb_at{3};
    cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
      if (message.has_step_done() && message.step_done().step() == disturb_at) cluster.Announce();
    };
    const auto outcomes = cluster.Run(3);
    EXPECT_EQ(outcomes[0].status().code(), absl::StatusCode::kAborted) << outcomes[0].status();
    disturb_at = -1;
    for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(NewestHash(fs), UndisturbedHash());
    for (const std::string& warning : cluster.warnings()) {  // of a save that has failed
      EXPECT_EQ(warning.find("has run"), std::string::npos) << warning;
    }
    EXPECT_EQ(devices.size(), 3u);
    for (const LazyDevice* const device : devices) {
      EXPECT_GT(device->postponed(), 0);
      EXPECT_EQ(device->problems(), std::vector<std::string>());
    }
  }
}

// A trainer that waits for nothing of one stream: the loss of its steps, or what was found.
std::string TrainForgetting(const proto::TrainSpec& spec, uint64_t seed, const std::string& lane) {
  std::string found;
  OnRanks(spec, 1, [&](Trainer::Setup& setup) {
    bool forgets = false;
    LazyEngine engine(spec, seed, [&](const std::string& of) { return forgets && of == lane; });
    engine.PutInto(setup);
    const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
    {
      const std::vector<HostAccess> access = trainer->OpenState().value();
      InitParameters(trainer->layout(), spec.seed(), trainer->state().parameters);
    }
    forgets = true;
    for (int step = 0; step < kSteps; ++step) {
      const absl::StatusOr<StepResult> done = trainer->TrainStep(/*stop_requested=*/false);
      if (!done.ok()) {
        found = std::string(done.status().message());
        break;
      }
      found += std::to_string(done->loss) + " " + std::to_string(done->grad_norm) + "\n";
    }
    forgets = false;
  });
  return found;
}

TEST(LazyEngineTest, TrainerThatForgetsToWait_IsFound) {
  if (kThreadSanitizer) GTEST_SKIP() << "the sanitizer finds the race that this plants";
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  const std::string right = TrainForgetting(spec, 0, "nobody");
  for (const std::string lane : {"compute", "communication"}) {
    int wrong = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      wrong += TrainForgetting(spec, seed, lane) != right ? 1 : 0;
    }
    EXPECT_GT(wrong, 0) << lane;
  }
}

}  // namespace
}  // namespace dsrun::worker
