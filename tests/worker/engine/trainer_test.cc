// What a step sends and when, and how it ends when one rank alone goes wrong.

#include "worker/engine/trainer.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/gradient_space.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/sum_places.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/wrappers.h"

namespace dsrun::worker {
namespace {

// Counts what is sent under names that begin with `prefix`.
class CountingCommunicator : public CommunicatorWrapper {
 public:
  CountingCommunicator(Communicator& inner, std::string prefix)
      : CommunicatorWrapper(inner), prefix_(std::move(prefix)) {}

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    for (const SendOp& send : sends) {
      if (what.starts_with(prefix_)) bytes_ += static_cast<int64_t>(send.bytes);
    }
    return CommunicatorWrapper::Exchange(sends, recvs, what);
  }

  int64_t bytes() const { return bytes_; }

 private:
  const std::string prefix_;
  int64_t bytes_ = 0;
};

// Calls `before` with the name of every exchange; an error of it takes the exchange's place.
class GuardedCommunicator : public CommunicatorWrapper {
 public:
  using Guard = std::function<absl::Status(const std::string& what)>;
  GuardedCommunicator(Communicator& inner, Guard before)
      : CommunicatorWrapper(inner), before_(std::move(before)) {}

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    RETURN_IF_ERROR(before_(what));
    return CommunicatorWrapper::Exchange(sends, recvs, what);
  }

 private:
  const Guard before_;
};

// Its gradient has an infinity in it.
class OverflowingModel : public ModelWrapper {
 public:
  using ModelWrapper::ModelWrapper;

 protected:
  absl::Status Written(size_t, std::span<const std::span<float>> gradients) override {
    gradients.front().front() = std::numeric_limits<float>::infinity();
    return absl::OkStatus();
  }
};

// Counts passes and the layers of the last one. Calls `read` when parameters that forward asked for
// are there, `written` when gradients were taken over.
class WatchedModel : public ModelWrapper {
 public:
  explicit WatchedModel(
      Model& inner, std::function<void()> read = [] {}, std::function<void()> written = [] {})
      : ModelWrapper(inner), read_(std::move(read)), written_(std::move(written)) {}

  absl::Status Forward(size_t slot, const int32_t* tokens, const int32_t* targets,
                       const std::optional<PassDraws>& draws, ParameterStore& parameters) override {
    ++forwards;
    layers = 0;
    return ModelWrapper::Forward(slot, tokens, targets, draws, parameters);
  }
  absl::StatusOr<LossSum> Backward(size_t slot, ParameterStore& parameters,
                                   GradientSink& gradients) override {
    ++backwards;
    layers = 0;
    return ModelWrapper::Backward(slot, parameters, gradients);
  }

  int forwards = 0;
  int backwards = 0;
  int layers = 0;

 protected:
  void Acquired(size_t) override {
    ++layers;
    read_();
  }
  absl::Status Taken(size_t) override {
    ++layers;
    written_();
    return absl::OkStatus();
  }

 private:
  const std::function<void()> read_;
  const std::function<void()> written_;
};

std::unique_ptr<Trainer> NewRun(const Trainer::Setup& setup) {
  std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
  EXPECT_TRUE(trainer->InitializeParameters(setup.spec->seed()).ok());
  return trainer;
}

int Layers(const proto::TrainSpec& spec) {
  return static_cast<int>(PlanModel(FromProto(spec.model())).layers.size());
}

// Each rank sends its sums of what the other owns, once, as integers of 64 bits.
TEST(TrainerTest, SumsOverRanks_TravelAs64BitIntegers) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    CountingCommunicator counting(*setup.communicator, "reduce-scatter");
    setup.communicator = &counting;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    ASSERT_TRUE(trainer->TrainStep(/*stop_requested=*/false).ok());
    const ShardPlan shards(trainer->layout(), 2, spec.bucket_bytes());
    const int64_t theirs = shards.OwnedSize(1 - counting.rank());
    EXPECT_GT(theirs, 0);
    EXPECT_EQ(counting.bytes(), theirs * static_cast<int64_t>(sizeof(int64_t)));
  });
}

// Without overlap backward waits for every bucket that only passes: nothing is hidden.
TEST(TrainerTest, WithoutOverlap_BackwardWaitsForBucketsThatPass) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  spec.set_overlap_comm(false);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    const absl::StatusOr<StepResult> step = trainer->TrainStep(/*stop_requested=*/false);
    ASSERT_TRUE(step.ok()) << step.status();
    EXPECT_TRUE(trainer->Settle().ok());
    EXPECT_GT(step->reducing, absl::ZeroDuration());
    EXPECT_EQ(step->reducing_hidden, absl::ZeroDuration());
  });
}

// Bytes that rank `from` sends in all buckets to the owners, with one use of a tensor a bucket at
// most where `single`.
int64_t BytesSent(const ShardPlan& shards, const SumPlaces& places, int from, bool single) {
  int64_t bytes = 0;
  for (size_t bucket = 0; bucket < shards.buckets().size(); ++bucket) {
    const int64_t each = single && places.used_once(bucket) ? 4 : 8;
    for (int64_t owner = 0; owner < shards.width(); ++owner) {
      if (owner == from) continue;
      for (const Range& range : shards.Owned(owner, shards.buckets()[bucket])) {
        bytes += each * range.size();
      }
    }
  }
  return bytes;
}

// Three atoms on two ranks: the second has one, and sends floats but where the tied embedding is.
TEST(TrainerTest, SingleContributions_TravelAsTheFloatsThatTheyAre) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/3);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    CountingCommunicator counting(*setup.communicator, "reduce-scatter");
    setup.communicator = &counting;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    ASSERT_TRUE(trainer->TrainStep(/*stop_requested=*/false).ok());
    const ShardPlan shards(trainer->layout(), 2, spec.bucket_bytes());
    const ModelPlan model = PlanModel(FromProto(spec.model()));
    const GradientSpace space(model, trainer->layout());
    const SumPlaces places(trainer->layout(), shards, space, /*atoms=*/1);
    const bool single = counting.rank() == 1;
    EXPECT_EQ(counting.bytes(), BytesSent(shards, places, counting.rank(), single));
    if (single) {
      EXPECT_LT(counting.bytes(), BytesSent(shards, places, counting.rank(), false));
    }
  });
}

std::vector<float> Floats(const Trainer& trainer, const float* data, int64_t size) {
  const std::vector<HostAccess> access = trainer.OpenState().value();
  return std::vector<float>(data, data + size);
}
std::vector<float> Parameters(const Trainer& trainer) {
  return Floats(trainer, trainer.state().parameters, trainer.layout().size());
}

TEST(TrainerTest, OverflowOnOneRank_EndsTheStepOnAllOfThem) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  OnRanks(spec, 3, [&](Trainer::Setup& setup) {
    OverflowingModel overflowing(*setup.model, setup.kernels);
    if (setup.communicator->rank() == 1) setup.model = &overflowing;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    const std::vector<float> before = Parameters(*trainer);
    const absl::StatusOr<StepResult> step = trainer->TrainStep(/*stop_requested=*/false);
    EXPECT_EQ(step.status().code(), absl::StatusCode::kOutOfRange) << step.status();
    EXPECT_EQ(Parameters(*trainer), before) << "the step was taken all the same";
    EXPECT_EQ(trainer->state().step, 0);
  });
}

// Not even along the old moments, and no weight decays.
TEST(TrainerTest, BatchWithoutAnUnmaskedTarget_IsAStepThatChangesNothing) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    bool masked = false;
    setup.sample = [&](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
      SampleText(index, tokens, targets);
      if (masked) std::ranges::fill(targets, -1);
    };
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    ASSERT_TRUE(trainer->TrainStep(/*stop_requested=*/false).ok());
    ASSERT_TRUE(trainer->Settle().ok());
    const ShardedState& state = trainer->state();
    int64_t owned = 0;
    for (const Range& range : trainer->owned()) owned += range.size();
    const std::vector<float> parameters = Parameters(*trainer);
    const std::vector<float> adam_m =
        Floats(*trainer, state.slots[adamw_optimizer::kExpAvg], owned);
    const std::vector<float> adam_v =
        Floats(*trainer, state.slots[adamw_optimizer::kExpAvgSq], owned);
    masked = true;
    const absl::StatusOr<StepResult> step = trainer->TrainStep(/*stop_requested=*/true);
    ASSERT_TRUE(step.ok()) << step.status();
    ASSERT_TRUE(trainer->Settle().ok());
    EXPECT_EQ(step->tokens, 0);
    EXPECT_EQ(step->loss, 0.0);
    EXPECT_EQ(step->grad_norm, 0.0);
    EXPECT_TRUE(step->stop);
    EXPECT_EQ(state.step, 2);
    EXPECT_EQ(state.samples, 2 * spec.global_batch_size());
    EXPECT_EQ(Parameters(*trainer), parameters);
    EXPECT_EQ(Floats(*trainer, state.slots[adamw_optimizer::kExpAvg], owned), adam_m);
    EXPECT_EQ(Floats(*trainer, state.slots[adamw_optimizer::kExpAvgSq], owned), adam_v);
    // And it goes on.
    masked = false;
    const absl::StatusOr<StepResult> next = trainer->TrainStep(/*stop_requested=*/false);
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_GT(next->loss, 1.0);
    ASSERT_TRUE(trainer->Settle().ok());
    EXPECT_NE(Parameters(*trainer), parameters);
  });
}

TEST(TrainerTest, IdThatTheVocabularyDoesNotHave_EndsTheStepBeforeAnythingIsComputed) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  struct Row {
    int32_t token;
    int32_t target;
    const char* says;
  };
  for (const Row& row : {Row{256, 1, "token at position 5: expected an id from 0 to 255"},
                         Row{-1, 1, "token at position 5: expected an id from 0 to 255"},
                         Row{1, 256, "target at position 5: expected an id from 0 to 255"}}) {
    OnRanks(spec, 1, [&](Trainer::Setup& setup) {
      WatchedModel model(*setup.model);
      setup.model = &model;
      setup.sample = [&](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
        SampleText(index, tokens, targets);
        if (index != 1) return;
        tokens[5] = row.token;
        targets[5] = row.target;
      };
      const std::unique_ptr<Trainer> trainer = NewRun(setup);
      const absl::Status status = trainer->TrainStep(/*stop_requested=*/false).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_NE(std::string(status.message()).find(std::string("sample 1: ") + row.says),
                std::string::npos)
          << status;
      EXPECT_EQ(model.forwards, 0);
    });
  }
}

// Narrow heads and a narrow MLP on a wide stream: fewer weights than four times the width squared.
TEST(TrainerTest, EstimateStep_OfAModelWithFewWeightsForItsWidth_IsATime) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/1);
  ModelSpec model = FindPreset("llama-nano").value();
  model.preset = "custom";
  model.num_layers = 1;
  model.head_channels = 8;
  model.ffn_hidden_size = 64;
  ASSERT_TRUE(Validate(model).ok()) << Validate(model);
  ASSERT_LT(ParameterCount(model), 4 * model.hidden_size * model.hidden_size);
  ToProto(model, spec.mutable_model());
  OnRanks(spec, 1, [&](Trainer::Setup& setup) {
    const absl::Duration estimate = NewRun(setup)->EstimateStep();
    EXPECT_GT(estimate, absl::ZeroDuration());
    EXPECT_LT(estimate, absl::InfiniteDuration());
  });
}

// The warm-up uses the gradients' memory, and leaves no trace in what comes after it.
TEST(TrainerTest, EstimateStep_IsAPositiveTimeAndChangesNoBit) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/3);
  std::vector<float> parameters[2];
  for (const bool measured : {false, true}) {
    OnRanks(spec, 2, [&](Trainer::Setup& setup) {
      const std::unique_ptr<Trainer> trainer = NewRun(setup);
      if (measured) {
        const absl::Duration estimate = trainer->EstimateStep();
        EXPECT_GT(estimate, absl::ZeroDuration());
        EXPECT_LT(estimate, absl::InfiniteDuration());
      }
      for (int step = 0; step < 2; ++step) {
        ASSERT_TRUE(trainer->TrainStep(/*stop_requested=*/false).ok());
      }
      ASSERT_TRUE(trainer->Settle().ok());
      if (setup.communicator->rank() == 0) {
        parameters[measured] = Parameters(*trainer);
      }
    });
  }
  EXPECT_EQ(parameters[0], parameters[1]);
}

// The second half of the gather is held back until the next step's forward pass has read the first
// parameters of it: a trainer that gathers all before it goes on would wait in vain.
TEST(TrainerTest, ParametersAreGatheredWhileTheNextForwardPassRuns) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    std::atomic<bool> reads = false;
    std::atomic<bool> held = false;
    WatchedModel* watched = nullptr;
    WatchedModel model(*setup.model, [&] {
      if (watched->forwards < 2) return;
      reads = true;
      reads.notify_all();
    });
    watched = &model;
    setup.model = &model;
    GuardedCommunicator guarded(*setup.communicator, [&](const std::string& what) {
      if (what == "all-gather bucket 3") {
        held = true;
        reads.wait(false);
      }
      return absl::OkStatus();
    });
    setup.communicator = &guarded;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    for (int step = 0; step < 2; ++step) {
      const absl::StatusOr<StepResult> done = trainer->TrainStep(/*stop_requested=*/false);
      EXPECT_TRUE(done.ok()) << done.status();
    }
    EXPECT_TRUE(held);
    EXPECT_TRUE(trainer->Settle().ok());
  });
}

// Calls `at_end` before backward hands over its last layer.
class BackwardWatchedModel : public ModelWrapper {
 public:
  BackwardWatchedModel(Model& inner, std::function<void()> at_end)
      : ModelWrapper(inner), at_end_(std::move(at_end)) {}

 protected:
  absl::Status Written(size_t layer, std::span<const std::span<float>>) override {
    if (layer == 0) at_end_();
    return absl::OkStatus();
  }

 private:
  const std::function<void()> at_end_;
};

// Counts the buckets whose reduction has been exchanged.
class ReductionCounter : public CommunicatorWrapper {
 public:
  using CommunicatorWrapper::CommunicatorWrapper;

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    RETURN_IF_ERROR(CommunicatorWrapper::Exchange(sends, recvs, what));
    if (!what.starts_with("reduce-scatter")) return absl::OkStatus();
    MutexLock lock(mu_);
    reduced_.insert(what);
    changed_.NotifyAll();
    return absl::OkStatus();
  }

  size_t reduced() {
    MutexLock lock(mu_);
    return reduced_.size();
  }
  void Await(size_t count) {
    MutexLock lock(mu_);
    while (reduced_.size() < count) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::set<std::string> reduced_ ABSL_GUARDED_BY(mu_);
};

// Backward does not end before half of the buckets are reduced: a trainer that reduces after it
// would wait for ever. Without overlap it ends before the first one is. On ranks that hold their
// sums, with two micro-batches each: ranks with one pass their buckets on, and may spend the whole
// of their reductions waiting for a slot, with nothing hidden.
TEST(TrainerTest, ReductionsRunInsideTheBackwardPassAtLeastByHalf) {
  const struct {
    int micro_batches;
    bool overlap;
  } kCases[] = {{4, true}, {2, true}, {4, false}};
  for (const auto& [micro_batches, overlap] : kCases) {
    SCOPED_TRACE(absl::StrCat(micro_batches, " micro-batches, overlap ", overlap));
    proto::TrainSpec spec = TinySpec(micro_batches);
    spec.mutable_model()->set_num_layers(4);
    spec.set_overlap_comm(overlap);
    const bool holds_sums = micro_batches == 4;
    OnRanks(spec, 2, [&, overlap = overlap, micro_batches = micro_batches](Trainer::Setup& setup) {
      ReductionCounter counter(*setup.communicator);
      setup.communicator = &counter;
      size_t buckets = 0;
      size_t reduced_in_backward = 0;
      int passes = 0;
      BackwardWatchedModel model(*setup.model, [&] {
        if (++passes < micro_batches / 2) return;  // sums are whole in the last pass
        if (overlap) counter.Await(buckets / 2);
        reduced_in_backward = counter.reduced();
      });
      setup.model = &model;
      const std::unique_ptr<Trainer> trainer = NewRun(setup);
      const ShardPlan shards(trainer->layout(), 2, spec.bucket_bytes());
      buckets = shards.buckets().size();
      ASSERT_GE(buckets, 4u);
      const absl::StatusOr<StepResult> step = trainer->TrainStep(/*stop_requested=*/false);
      ASSERT_TRUE(step.ok()) << step.status();
      EXPECT_TRUE(trainer->Settle().ok());
      EXPECT_EQ(counter.reduced(), buckets);
      EXPECT_GT(step->reducing, absl::ZeroDuration());
      EXPECT_LE(step->reducing_hidden, step->reducing);
      if (overlap) {
        EXPECT_GE(reduced_in_backward, buckets / 2);
        if (holds_sums) {
          EXPECT_GT(step->reducing_hidden, absl::ZeroDuration());
        }
      } else {
        EXPECT_EQ(reduced_in_backward, 0u);
        EXPECT_EQ(step->reducing_hidden, absl::ZeroDuration());
      }
    });
  }
}

TEST(TrainerTest, GatherThatFails_EndsTheNextStepsForwardPassWhereItIsMissed) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    WatchedModel model(*setup.model);
    setup.model = &model;
    GuardedCommunicator guarded(*setup.communicator, [](const std::string& what) {
      return what == "all-gather bucket 1" ? absl::UnavailableError("rank 1 is gone")
                                           : absl::OkStatus();
    });
    setup.communicator = &guarded;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    EXPECT_TRUE(trainer->TrainStep(/*stop_requested=*/false).ok());
    EXPECT_EQ(trainer->TrainStep(/*stop_requested=*/false).status(),
              absl::UnavailableError("rank 1 is gone"));
    EXPECT_EQ(model.forwards, 3);
    EXPECT_LT(model.layers, Layers(spec));
    EXPECT_EQ(model.backwards, 2);
    EXPECT_EQ(trainer->Settle(), absl::UnavailableError("rank 1 is gone"));
    EXPECT_EQ(trainer->state().step, 1);
  });
}

// A bucket on its way meets a dead peer while backward still has most of its work ahead.
TEST(TrainerTest, ReductionThatFails_EndsTheBackwardPass) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    GuardedCommunicator guarded(*setup.communicator, [&](const std::string& what) {
      return what.starts_with("reduce-scatter") ? absl::UnavailableError("rank 1 is gone")
                                                : absl::OkStatus();
    });
    setup.communicator = &guarded;
    std::unique_ptr<Trainer> trainer;
    WatchedModel model(
        *setup.model, [] {}, [&] { trainer->Settle().IgnoreError(); });
    setup.model = &model;
    trainer = NewRun(setup);
    EXPECT_EQ(trainer->TrainStep(/*stop_requested=*/false).status(),
              absl::UnavailableError("rank 1 is gone"));
    EXPECT_EQ(model.backwards, 1);
    EXPECT_LT(model.layers, Layers(spec));
  });
}

// At every place where it is asked.
TEST(TrainerTest, Cancelled_LeavesThePassItIsIn) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/2);
  int places = 1;
  for (int place = 0; place < places; ++place) {
    OnRanks(spec, 1, [&](Trainer::Setup& setup) {
      int asked = 0;
      setup.cancelled = [&] { return asked++ == place; };
      const std::unique_ptr<Trainer> trainer = NewRun(setup);
      places = 2 * 3 * Layers(spec);  // before each layer in both passes, and after it in backward
      const absl::Status status = trainer->TrainStep(/*stop_requested=*/false).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << place << ": " << status;
      EXPECT_EQ(asked, place + 1) << "it went on";
      EXPECT_EQ(trainer->state().step, 0);
    });
  }
  EXPECT_GT(places, 30);
}

}  // namespace
}  // namespace dsrun::worker
