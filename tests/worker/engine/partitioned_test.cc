// ZeRO-3, the parameter side: a rank keeps its part of the parameters, and the bits are those of
// ranks that have all of them (docs/design/0021-partitioned-parameters.md).

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/ids.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/gather_plan.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "common/plan/shard_plan.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"
#include "tests/worker/engine/wrappers.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 3;
constexpr int64_t kInfinite = std::numeric_limits<int64_t>::max();

proto::TrainSpec Stage3(proto::TrainSpec spec) {
  spec.set_zero_stage(3);
  return spec;
}

struct Settings {
  int64_t prefetch, persistence, live, reuse, sub_group;
};

proto::TrainSpec With(const Settings& settings, proto::TrainSpec spec) {
  spec = Stage3(std::move(spec));
  spec.mutable_zero()->set_prefetch(settings.prefetch);
  spec.mutable_zero()->set_persistence_threshold(settings.persistence);
  spec.mutable_zero()->set_max_live_parameters(settings.live);
  spec.mutable_zero()->set_max_reuse_distance(settings.reuse);
  spec.mutable_zero()->set_sub_group_size(settings.sub_group);
  return spec;
}

// Each at its ends, the others at theirs.
constexpr Settings kExtremes[] = {
    {0, 0, 0, 0, 1024},                                       // one layer at a time
    {kInfinite, 0, kInfinite, 0, 3000},                       // all ahead, nothing kept
    {0, 0, kInfinite, kInfinite, kInfinite},                  // nothing ahead, all kept
    {kInfinite, kInfinite, kInfinite, kInfinite, kInfinite},  // all persistent
    {20'000, 49, 30'000, 10'000, 100'000},                    // something of everything
};

TEST(PartitionedTest, EveryWidthSettingAndOverlap_HasTheBitsOfReplicatedParameters) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState whole = Train(spec, 1, kSteps);
  for (const int width : {1, 2, 3, 4}) {  // 4: two ranks play a pass without a micro-batch
    EXPECT_TRUE(whole.SameBits(Train(Stage3(spec), width, kSteps))) << "width " << width;
    for (const Settings& settings : kExtremes) {
      for (const bool overlap : {true, false}) {
        spec.set_overlap_comm(overlap);
        EXPECT_TRUE(whole.SameBits(Train(With(settings, spec), width, kSteps)))
            << "width " << width << ", setting " << &settings - kExtremes << ", overlap "
            << overlap;
      }
    }
  }
}

// A segment is gathered again for its second forward, of ranks that compute and of those that do
// not.
TEST(PartitionedTest, RecomputedLayers_HaveTheBitsOfReplicatedParameters) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState whole = Train(spec, 1, kSteps);
  for (const int every : {1, 2}) {
    spec.mutable_recompute()->set_every(every);
    for (const int width : {1, 3, 4}) {  // 4: two ranks play a pass without a micro-batch
      for (const Settings& settings : kExtremes) {
        spec.set_overlap_comm(width != 3);
        EXPECT_TRUE(whole.SameBits(Train(With(settings, spec), width, kSteps)))
            << "every " << every << ", width " << width << ", setting " << &settings - kExtremes;
      }
    }
  }
}

TEST(PartitionedTest, AnyBucketAtomsAndAssignment_HaveTheBitsOfReplicatedParameters) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState whole = Train(spec, 1, kSteps);
  for (const int64_t bucket_bytes : {int64_t{1}, int64_t{10'000}, int64_t{1} << 30}) {
    spec.set_bucket_bytes(bucket_bytes);
    for (const bool overlap : {true, false}) {
      spec.set_overlap_comm(overlap);
      // One rank passes its only contribution on, others hold sums.
      const HowTrained how{.atoms = {{4}, {5, 0, 2}, {3, 1}}};
      EXPECT_TRUE(whole.SameBits(Train(Stage3(spec), 3, kSteps, how)))
          << "bucket " << bucket_bytes << ", overlap " << overlap;
    }
  }
  spec.set_micro_batches_per_atom(4);  // atoms of four and of two
  EXPECT_TRUE(Train(spec, 1, kSteps).SameBits(Train(Stage3(spec), 2, kSteps)));
}

TEST(PartitionedTest, LlamaTiedAndUntied_HasTheBitsOfReplicatedParameters) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  ModelSpec model = FindPreset("llama-nano").value();
  model.num_layers = 2;
  model.hidden_size = 32;
  model.num_attention_heads = 4;
  model.query_groups = 2;
  model.ffn_hidden_size = 48;
  model.seq_length = 16;
  for (const bool untied : {false, true}) {
    model.untied_output = untied;
    ASSERT_TRUE(Validate(model).ok()) << Validate(model);
    ToProto(model, spec.mutable_model());
    const TrainedState whole = Train(spec, 1, kSteps);
    for (const int width : {2, 3}) {
      EXPECT_TRUE(whole.SameBits(Train(Stage3(spec), width, kSteps))) << "width " << width;
      EXPECT_TRUE(whole.SameBits(Train(With(kExtremes[0], spec), width, kSteps)));
    }
  }
}

TEST(PartitionedTest, FrozenTensors_ArePartitionedToo) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  // The lower block with its tables: backward ends above it; and a tied table alone.
  for (const bool lower : {true, false}) {
    spec.clear_frozen();
    for (const LogicalTensor& tensor : LogicalTensors(FromProto(spec.model()))) {
      if (tensor.name == "wte.weight" ||
          (lower && (tensor.name.starts_with("h.0.") || tensor.name.starts_with("wpe.")))) {
        spec.add_frozen(tensor.name);
      }
    }
    const TrainedState whole = Train(spec, 1, kSteps);
    for (const int width : {1, 2, 3, 4}) {
      EXPECT_TRUE(whole.SameBits(Train(Stage3(spec), width, kSteps))) << "width " << width;
      EXPECT_TRUE(whole.SameBits(Train(With(kExtremes[0], spec), width, kSteps)));
    }
  }
}

// No rank has memory for the whole model: by the plan, which is what it allocates
// (planned_memory_test.cc).
TEST(PartitionedTest, AtWidth4_NoRankHoldsTheWholeModel) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  spec.mutable_model()->set_num_layers(12);
  spec.mutable_model()->set_hidden_size(256);
  const auto parameters = [&](const proto::TrainSpec& of, int rank) {
    MemoryInput input = MemoryInputFromProto(of);
    input.width = 4;
    input.rank = rank;
    int64_t bytes = 0;
    for (const PlannedBuffer& line : PlanMemory(input).buffers) {
      if (line.group == std::string("parameters")) bytes += line.bytes();
    }
    return bytes;
  };
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_LT(2 * parameters(Stage3(spec), rank), parameters(spec, rank)) << "rank " << rank;
  }
}

TEST(PartitionedTest, WithGathered_ShowsATensorToAllAndScattersWhatTheRootChanged) {
  const proto::TrainSpec spec = Stage3(TinySpec(/*micro_batches=*/3));
  for (const char* const name : {"wte.weight", "h.1.ln_2.bias"}) {  // gathered; persistent
    OnRanks(spec, 3, [&](Trainer::Setup& setup) {
      const int rank = setup.communicator->rank();
      const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
      ASSERT_TRUE(trainer->InitializeParameters(spec.seed()).ok());
      ASSERT_TRUE(trainer->TrainStep(false).ok());
      ASSERT_TRUE(trainer->Settle().ok());
      PartitionedParameters& store = trainer->partitioned();
      std::vector<float> before;
      ASSERT_TRUE(store
                      .WithGathered(name, -1,
                                    [&](std::span<float> all) {
                                      before.assign(all.begin(), all.end());
                                      all[0] = 77;  // is lost
                                    })
                      .ok());
      ASSERT_TRUE(store
                      .WithGathered(name, 1,
                                    [&](std::span<float> all) {
                                      EXPECT_EQ(std::vector<float>(all.begin(), all.end()), before);
                                      for (float& one : all) one += static_cast<float>(1 + rank);
                                    })
                      .ok());
      std::vector<float> expected = before;
      for (float& one : expected) one += 2;  // rank 1's
      ASSERT_TRUE(store
                      .WithGathered(name, -1,
                                    [&](std::span<float> all) {
                                      EXPECT_EQ(std::vector<float>(all.begin(), all.end()),
                                                expected);
                                    })
                      .ok());
      EXPECT_TRUE(trainer->TrainStep(false).ok());
      EXPECT_EQ(store.WithGathered("nothing", -1, [](std::span<float>) {}).code(),
                absl::StatusCode::kInvalidArgument);
      EXPECT_EQ(store.WithGathered(name, 3, [](std::span<float>) {}).code(),
                absl::StatusCode::kInvalidArgument);
    });
  }
}

// What the plan says is what travels.
TEST(PartitionedTest, Traffic_IsThePlansToTheElement) {
  for (const Settings& settings : kExtremes) {
    const proto::TrainSpec spec = With(settings, TinySpec(/*micro_batches=*/4));
    std::atomic<int64_t> received = 0;
    OnRanks(spec, 4, [&](Trainer::Setup& setup) {
      const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
      ASSERT_TRUE(trainer->InitializeParameters(spec.seed()).ok());
      ASSERT_TRUE(trainer->TrainStep(false).ok());
      received += trainer->partitioned().received_elements();
    });
    const ModelPlan model = PlanModel(FromProto(spec.model()));
    const FlatLayout layout(model.tensors);
    const ZeroSettings zero = WithDefaults(MemoryInputFromProto(spec).zero, model, layout);
    // Every element comes to three ranks from its owner.
    EXPECT_EQ(received,
              3 * PlanGathers(model, layout, 0, PassKind::kTraining, zero).gathered_elements);
  }
}

proto::JobSpec JobOf(int stage) {
  proto::JobSpec job = Job();
  job.mutable_train()->set_zero_stage(stage);
  return job;
}

TEST(PartitionedTest, ResumeFromStage1Into3AndBack_EndsWithTheUndisturbedHash) {
  FaultyFileSystem fs;
  const auto until = [&](int stage, int width, int64_t step) {
    WorkerCluster cluster(JobOf(stage), fs);
    cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
      if (message.has_step_done() && message.step_done().step() == step) cluster.Announce();
    };
    return cluster.Run(width);
  };
  // Superseded after the saves of steps 2 and 4, in whatever exchange a rank is.
  EXPECT_TRUE(absl::IsAborted(until(1, 2, 3)[0].status()));
  EXPECT_TRUE(absl::IsAborted(until(3, 3, 5)[0].status()));
  EXPECT_TRUE(absl::IsAborted(until(1, 4, 7)[0].status()));
  for (const auto& outcome : until(3, 4, -1)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

TEST(PartitionedTest, Sampling_IsPlayedByAllRanksAndReportedByTheFirst) {
  std::string expected;
  for (const int stage : {1, 3}) {
    FaultyFileSystem fs;
    proto::JobSpec job = JobOf(stage);
    job.mutable_train()->set_train_iters(2);
    job.mutable_train()->set_prompt("rank ");
    job.mutable_train()->set_sample_tokens(12);
    WorkerCluster cluster(job, fs);
    const auto outcomes = cluster.Run(3);
    for (const auto& outcome : outcomes) ASSERT_TRUE(outcome.ok()) << outcome.status();
    if (stage == 1) expected = outcomes[0]->sample();
    EXPECT_EQ(outcomes[0]->sample(), expected);
    EXPECT_EQ(outcomes[0]->sample().size(), 12u);
    EXPECT_EQ(outcomes[1]->sample(), "");
  }
}

// Calls `then` before the n-th exchange of its name.
class BeforeExchange : public CommunicatorWrapper {
 public:
  BeforeExchange(std::unique_ptr<Communicator> inner, std::string name, int times,
                 std::function<void()> then)
      : CommunicatorWrapper(*inner),
        owned_(std::move(inner)),
        name_(std::move(name)),
        left_(times),
        then_(std::move(then)) {}
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    if (what.starts_with(name_) && --left_ == 0) then_();
    return CommunicatorWrapper::Exchange(sends, recvs, what);
  }

 private:
  const std::unique_ptr<Communicator> owned_;
  const std::string name_;
  int left_;
  const std::function<void()> then_;
};

// All ranks end with the same byte: none waits for another's gather.
TEST(PartitionedTest, StopInASample_EndsItOnAllRanks) {
  FaultyFileSystem fs;
  proto::JobSpec job = JobOf(3);
  job.mutable_train()->set_train_iters(2);
  job.mutable_train()->set_prompt("rank ");
  job.mutable_train()->set_sample_tokens(100'000);
  WorkerCluster cluster(job, fs);
  cluster.wrap_communicator =
      [&](Rank rank, std::unique_ptr<Communicator> inner) -> std::unique_ptr<Communicator> {
    if (rank != Rank(1)) return inner;
    return std::make_unique<BeforeExchange>(std::move(inner), "who is to stop sampling", 6,
                                            [&] { cluster.RequestStop(); });
  };
  const auto outcomes = cluster.Run(3);
  for (const auto& outcome : outcomes) ASSERT_TRUE(outcome.ok()) << outcome.status();
  // Some bytes were there: to ask takes an exchange or two.
  EXPECT_GE(outcomes[0]->sample().size(), 2u);
  EXPECT_LE(outcomes[0]->sample().size(), 6u);
  int told = 0;
  for (const std::string& warning : cluster.warnings()) {
    told += warning.find("the sample ends after") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(told, 1);
}

// Calls `in_gather` in the n-th gather of a rank.
class InGather : public CommunicatorWrapper {
 public:
  InGather(std::unique_ptr<Communicator> inner, int gather,
           std::function<void(InGather&)> in_gather)
      : CommunicatorWrapper(*inner),
        owned_(std::move(inner)),
        left_(gather),
        in_gather_(std::move(in_gather)) {}
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    if (what.starts_with("all-gather p") && --left_ == 0) in_gather_(*this);
    return CommunicatorWrapper::Exchange(sends, recvs, what);
  }

 private:
  const std::unique_ptr<Communicator> owned_;
  int left_;  // the communication thread's
  const std::function<void(InGather&)> in_gather_;
};

// The first one, which is that of persistent parameters; ones of forward, backward and later steps.
constexpr int kGathers[] = {1, 2, 4, 6, 8, 9, 10, 11, 30};

TEST(PartitionedTest, ARankThatEndsInAGather_EndsAllOfThem) {
  for (const int gather : kGathers) {
    FaultyFileSystem fs;
    WorkerCluster cluster(JobOf(3), fs);
    cluster.wrap_communicator =
        [&](Rank rank, std::unique_ptr<Communicator> inner) -> std::unique_ptr<Communicator> {
      if (rank != Rank(1)) return inner;
      return std::make_unique<InGather>(std::move(inner), gather,
                                        [](InGather& mine) { mine.Abort("it ends here"); });
    };
    const auto outcomes = cluster.Run(3);
    for (size_t rank = 0; rank < outcomes.size(); ++rank) {
      const absl::Status status = outcomes[rank].status();
      EXPECT_TRUE(rank == 1 ? absl::IsAborted(status) : absl::IsUnavailable(status))
          << "gather " << gather << ", rank " << rank << ": " << status;
    }
  }
}

TEST(PartitionedTest, AGenerationThatIsSupersededInAGather_EndsAndTheNextHasTheSameBits) {
  for (const int gather : kGathers) {
    FaultyFileSystem fs;
    WorkerCluster cluster(JobOf(3), fs);
    bool announced = false;
    cluster.wrap_communicator =
        [&](Rank rank, std::unique_ptr<Communicator> inner) -> std::unique_ptr<Communicator> {
      if (rank != Rank(1) || announced) return inner;
      announced = true;
      return std::make_unique<InGather>(std::move(inner), gather,
                                        [&](InGather&) { cluster.Announce(); });
    };
    for (const auto& outcome : cluster.Run(3)) {
      EXPECT_FALSE(outcome.ok()) << "gather " << gather;
    }
    for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(NewestHash(fs), UndisturbedHash()) << "gather " << gather;
  }
}

}  // namespace
}  // namespace dsrun::worker
