// One loss curve, whatever the layout: the promise of docs/numerics.md, bit for bit.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 4;

TEST(LayoutInvarianceTest, FourMicroBatchesOnOneTwoFourRanks) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/4, /*canonical_blocks=*/4);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3, 4}) {  // 3: uneven
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, TwelveMicroBatchesOnEveryWidth) {
  const proto::TrainSpec spec = TinySpec(12, 12);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3, 4, 5, 6, 12}) {  // 5: uneven
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, BlocksOfSeveralMicroBatches) {
  const proto::TrainSpec spec = TinySpec(7, 3);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3}) {
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, ThreadsBucketsAndOverlapChangeNoBit) {
  proto::TrainSpec spec = TinySpec(4, 4);
  const TrainedState reference = Train(spec, 2, kSteps);
  spec.set_threads_per_rank(2);
  EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "threads";
  for (const int64_t bucket_bytes : {1, 10000, 1 << 30}) {
    spec.set_bucket_bytes(bucket_bytes);
    EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "bucket_bytes " << bucket_bytes;
  }
  spec.set_overlap_comm(false);
  EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "overlap";
}

TEST(LayoutInvarianceTest, AnotherSeedOrBatchIsAnotherCurve) {  // the comparison can fail
  proto::TrainSpec spec = TinySpec(4, 4);
  const TrainedState reference = Train(spec, 1, kSteps);
  spec.set_canonical_blocks(1);  // ((0+1)+2)+3 instead of (0+1)+(2+3)
  EXPECT_FALSE(reference.SameBits(Train(spec, 1, kSteps)));
  spec = TinySpec(4, 4);
  spec.set_seed(1235);
  EXPECT_FALSE(reference.SameBits(Train(spec, 1, kSteps)));
}

TEST(LayoutInvarianceTest, TheLossFalls) {
  const TrainedState state = Train(TinySpec(4, 4), 2, 10);
  EXPECT_NEAR(state.losses.front(), 5.545, 0.1);  // ln 256: it knows nothing yet
  EXPECT_LT(state.losses.back(), state.losses.front() - 0.5);
}

// The largest share of a step's reductions that lies inside that step's last backward pass,
// as the trace shows it.
double MostHidden(const std::string& trace) {
  double most = 0;
  double inside = 0;
  double total = 0;
  double begin = 0;  // of the last backward pass so far
  double end = 0;
  nlohmann::json events = nlohmann::json::parse(trace);
  std::erase_if(events.get_ref<nlohmann::json::array_t&>(),
                [](const nlohmann::json& event) { return !event.contains("dur"); });
  std::sort(events.begin(), events.end(), [](const auto& a, const auto& b) {
    return a["ts"].template get<double>() < b["ts"].template get<double>();
  });
  for (const nlohmann::json& event : events) {
    const std::string name = event["name"];
    const double at = event["ts"];
    const double duration = event["dur"];
    if (name.starts_with("backward")) {
      begin = at;
      end = at + duration;
    } else if (name.starts_with("reduce-scatter")) {
      total += duration;
      inside += std::max(0.0, std::min(end, at + duration) - std::max(begin, at));
    } else if (name.starts_with("all-gather")) {  // the step is over
      if (total > 0) most = std::max(most, inside / total);
      inside = total = 0;
    }
  }
  return most;
}

// Steps of a busy machine differ: one of forty must show what the overlap can do.
TEST(LayoutInvarianceTest, ReductionsRunInsideTheBackwardPassAtLeastByHalf) {
  constexpr int kTracedSteps = 40;
  proto::TrainSpec large = TinySpec(2, 2);
  large.mutable_model()->set_num_layers(4);
  large.mutable_model()->set_hidden_size(96);
  large.mutable_model()->set_seq_length(64);
  large.set_bucket_bytes(100 << 10);
  EXPECT_GE(MostHidden(Train(large, 2, kTracedSteps).trace), 0.5);
  large.set_overlap_comm(false);
  EXPECT_EQ(MostHidden(Train(large, 2, kTracedSteps).trace), 0.0);
}

TEST(LayoutInvarianceTest, HiddenTime_IsZeroWithoutOverlap) {
  const TrainedState state = Train(TinySpec(4, 4), 2, 10 * kSteps);
  absl::Duration hidden;
  for (const StepResult& step : state.steps) hidden += step.reducing_hidden;
  EXPECT_GT(hidden, absl::ZeroDuration());
  proto::TrainSpec spec = TinySpec(4, 4);
  spec.set_overlap_comm(false);
  for (const StepResult& step : Train(spec, 2, kSteps).steps) {
    EXPECT_EQ(step.reducing_hidden, absl::ZeroDuration());
    EXPECT_GT(step.reducing, absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace dsrun::worker
