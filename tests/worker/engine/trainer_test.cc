// What a step sends, and how it ends when one rank alone goes wrong.

#include "worker/engine/trainer.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "worker/engine/model_spec_proto.h"
#include "worker/model/init.h"

namespace dsrun::worker {
namespace {

// Counts what is sent under names that begin with `prefix`.
class CountingCommunicator : public Communicator {
 public:
  CountingCommunicator(Communicator& inner, std::string prefix)
      : inner_(inner), prefix_(std::move(prefix)) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    for (const SendOp& send : sends) {
      if (what.starts_with(prefix_)) bytes_ += static_cast<int64_t>(send.bytes);
    }
    return inner_.Exchange(sends, recvs, what);
  }
  void SetTimeout(absl::Duration timeout) override { inner_.SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

  int64_t bytes() const { return bytes_; }

 private:
  Communicator& inner_;
  const std::string prefix_;
  int64_t bytes_ = 0;
};

// Its gradient has an infinity in it.
class OverflowingModel : public Model {
 public:
  explicit OverflowingModel(Model& inner) : inner_(inner) {}

  int64_t gradient_size() const override { return inner_.gradient_size(); }
  LossSum Forward(const float* parameters, const int32_t* tokens, const int32_t* targets) override {
    return inner_.Forward(parameters, tokens, targets);
  }
  void Backward(const float* parameters, float* gradients,
                const std::function<void(Range)>& ready) override {
    inner_.Backward(parameters, gradients, [&](Range range) {
      gradients[range.begin] = std::numeric_limits<float>::infinity();
      ready(range);
    });
  }
  void NextTokenLogits(const float* parameters, const int32_t* tokens, int64_t length,
                       float* logits) override {
    inner_.NextTokenLogits(parameters, tokens, length, logits);
  }

 private:
  Model& inner_;
};

std::unique_ptr<Trainer> NewRun(const Trainer::Setup& setup) {
  std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
  InitParameters(FromProto(setup.spec->model()), trainer->layout(), setup.spec->seed(),
                 trainer->state().parameters);
  return trainer;
}

// With a power of two of ranks and blocks, each rank has one finished sum of every element.
TEST(TrainerTest, SumsOverRanks_TravelAsFp32) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/4, /*canonical_blocks=*/4);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    CountingCommunicator counting(*setup.communicator, "reduce-scatter");
    setup.communicator = &counting;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    ASSERT_TRUE(trainer->TrainStep(/*stop_requested=*/false).ok());
    const ShardPlan shards(trainer->layout(), 2, spec.bucket_bytes());
    const GradientSpace space(trainer->layout(), shards, spec.bucket_bytes());
    int64_t theirs = 0;
    const auto peer = static_cast<size_t>(1 - counting.rank());
    for (const Range within :
         {Range{0, trainer->layout().size()}, Range{trainer->layout().size(), space.size()}}) {
      const std::vector<std::vector<Range>> owned = space.OwnedByRank(within);
      for (const Range& range : owned[peer]) theirs += range.size();
    }
    EXPECT_GT(theirs, 0);
    EXPECT_EQ(counting.bytes(), theirs * static_cast<int64_t>(sizeof(float)));
  });
}

TEST(TrainerTest, OverflowOnOneRank_EndsTheStepOnAllOfThem) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/6, /*canonical_blocks=*/6);
  OnRanks(spec, 3, [&](Trainer::Setup& setup) {
    OverflowingModel overflowing(*setup.model);
    if (setup.communicator->rank() == 1) setup.model = &overflowing;
    const std::unique_ptr<Trainer> trainer = NewRun(setup);
    const auto size = static_cast<size_t>(trainer->layout().size());
    const std::span<const float> parameters(trainer->state().parameters, size);
    const std::vector<float> before(parameters.begin(), parameters.end());
    const absl::StatusOr<StepResult> step = trainer->TrainStep(/*stop_requested=*/false);
    EXPECT_EQ(step.status().code(), absl::StatusCode::kOutOfRange) << step.status();
    EXPECT_TRUE(std::ranges::equal(before, parameters)) << "the step was taken all the same";
    EXPECT_EQ(trainer->state().step, 0);
  });
}

}  // namespace
}  // namespace dsrun::worker
