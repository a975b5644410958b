// Training with every optimizer: the same bits at every width, through checkpoints and restarts.

#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/frozen_in.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/plan/optimizer_settings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/support/short_lists.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"

namespace dsrun::worker {
namespace {

using Params = std::map<std::string, double>;

struct Choice {
  std::string name;
  Params params = {};
  double lr = 3e-3;
};

std::vector<Choice> All() {
  std::vector<Choice> all;
  for (const OptimizerForm& form : OptimizerForms()) {
    const bool by_gradient = form.rule == OptimizerForm::Rule::kSgd;
    all.push_back({std::string(form.name), {}, by_gradient ? 0.1 : 3e-3});
  }
  all.push_back({"sgd", {{"momentum", 0.9}, {"nesterov", 1}}, 0.03});
  all.push_back({"muon", {{"ns_method", 1}, {"muon_lr", 0.02}}});
  return all;
}

void Choose(const Choice& choice, proto::TrainSpec* spec) {
  spec->set_lr(choice.lr);
  spec->mutable_optimizer()->set_name(choice.name);
  for (const auto& [key, value] : choice.params) {
    (*spec->mutable_optimizer()->mutable_params())[key] = value;
  }
}

TEST(OptimizersTest, EveryOptimizer_LearnsTheSameBitsAtEveryWidth) {
  std::set<double> losses;
  for (const Choice& choice : All()) {
    SCOPED_TRACE(choice.name);
    proto::TrainSpec spec = TinySpec(/*micro_batches=*/3);
    Choose(choice, &spec);
    const TrainedState one = Train(spec, 1, 20);
    EXPECT_LT(one.losses.back(), one.losses.front() - 0.1);
    for (const int width : AllOrLast({2, 3})) {
      EXPECT_TRUE(one.SameBits(Train(spec, width, 20))) << "width " << width;
    }
    // A part of a leaf is asked for: whole ones are updated at a time.
    spec.mutable_zero()->set_sub_group_size(3000);
    for (const int stage : AllOrLast({0, 2, 3})) {
      spec.set_zero_stage(stage);
      EXPECT_TRUE(one.SameBits(Train(spec, 3, 20))) << "stage " << stage;
    }
    losses.insert(one.losses.back());
  }
  EXPECT_EQ(losses.size(), All().size()) << "the comparison can fail";
}

// Not a bit of what was trained before there were others.
TEST(OptimizersTest, AdamWOfTheTable_IsThatOfTheOldFields) {
  proto::TrainSpec old = TinySpec(/*micro_batches=*/2);
  proto::TrainSpec named = old;
  Choose({"adamw"}, &named);
  EXPECT_TRUE(Train(old, 1, 5).SameBits(Train(named, 2, 5)));
}

TEST(OptimizersTest, Groups_HaveTheSameBitsAtEveryWidth_AndChangeThem) {
  for (const char* const name : {"adamw", "lamb"}) {
    proto::TrainSpec plain = TinySpec(/*micro_batches=*/3);
    Choose({name}, &plain);
    proto::TrainSpec spec = plain;
    proto::ParameterGroup& group = *spec.mutable_optimizer()->add_groups();
    group.set_pattern("\\.bias$|ln_");
    group.set_lr_scale(0.5);
    group.set_weight_decay(0.3);
    const TrainedState one = Train(spec, 1, 5);
    EXPECT_TRUE(one.SameBits(Train(spec, 3, 5))) << name;
    EXPECT_FALSE(one.SameBits(Train(plain, 1, 5))) << name;
  }
}

TEST(OptimizersTest, AGroupOfNoTensor_OrNoSuchOptimizer_IsRefusedBeforeAnythingStarts) {
  proto::TrainSpec group = TinySpec(1);
  Choose({"adamw"}, &group);
  group.mutable_optimizer()->add_groups()->set_pattern("zzz");
  proto::TrainSpec unknown = TinySpec(1);
  Choose({"adamx"}, &unknown);
  for (const proto::TrainSpec& spec : {group, unknown}) {
    OnRanks(spec, 1, [](Trainer::Setup& setup) { EXPECT_FALSE(Trainer::Create(setup).ok()); });
  }
}

TEST(OptimizersTest, Muon_HasTheSameBits_WhateverTheBucketsThreadsAndOverlap) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  Choose({"muon", {{"muon_lr", 0.02}}}, &spec);
  spec.mutable_optimizer()->add_groups()->set_pattern("h\\.0\\.");
  spec.mutable_optimizer()->mutable_groups(0)->set_lr_scale(0.5);
  const TrainedState one = Train(spec, 1, 4);
  for (const int64_t bucket : {4 << 10, 20 << 10, 1 << 20}) {
    for (const int stage : {0, 1, 3}) {
      spec.set_bucket_bytes(bucket);
      spec.set_zero_stage(stage);
      spec.set_overlap_comm(bucket != 20 << 10);
      spec.set_threads_per_rank(bucket == 1 << 20 ? 3 : 1);
      EXPECT_TRUE(one.SameBits(Train(spec, stage == 1 ? 4 : 2, 4)))
          << "stage " << stage << ", buckets of " << bucket;
    }
  }
}

// A choice that the table does not have, a rate of 0, and one beside a rate of 0.
TEST(OptimizersTest, MuonsBadParameters_AreRefusedBeforeAnythingStarts) {
  for (const Params& params : {Params{{"muon_lr", 0}}, {{"ns_method", 2}}, {{"adam_lr", -1}}}) {
    proto::TrainSpec spec = TinySpec(1);
    Choose({"muon", params}, &spec);
    OnRanks(spec, 1, [](Trainer::Setup& setup) { EXPECT_FALSE(Trainer::Create(setup).ok()); });
  }
  proto::TrainSpec beside = TinySpec(1);
  Choose({"muon", {{"muon_lr", 0.02}}, /*lr=*/0}, &beside);
  OnRanks(beside, 1, [](Trainer::Setup& setup) { EXPECT_FALSE(Trainer::Create(setup).ok()); });
}

// With and without frozen tensors, which no slot tells of where there are none.
TEST(OptimizersTest, Checkpoints_HaveOneHashThroughARestartAtAnotherWidth) {
  for (const Choice& choice : All()) {
    for (const bool freeze : {false, true}) {
      SCOPED_TRACE(choice.name + (freeze ? ", frozen" : ""));
      proto::JobSpec job = Job();
      Choose(choice, job.mutable_train());
      if (freeze) job.mutable_train()->add_frozen("wte.weight");
      const std::string undisturbed = UndisturbedHash(job);
      job.mutable_train()->set_zero_stage(freeze ? 3 : 0);
      FaultyFileSystem fs;
      EXPECT_EQ(InterruptedHash(fs, job), undisturbed);
      const auto checkpoint = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      EXPECT_EQ(checkpoint->manifest().facts.optimizer.name, choice.name);
      EXPECT_EQ(FrozenIn(checkpoint->manifest()),
                freeze ? std::set<std::string>{"wte.weight"} : std::set<std::string>());
    }
  }
}

// Nothing has a second moment then: the slot is there, and empty.
TEST(OptimizersTest, MuonOfHiddenMatricesAlone_GoesThroughARestartAtAnotherWidth) {
  proto::JobSpec job = Job();
  Choose({"muon"}, job.mutable_train());
  for (const LogicalTensor& tensor : LogicalTensors(FromProto(job.train().model()))) {
    if (!tensor.hidden_matrix) job.mutable_train()->add_frozen(tensor.name);
  }
  const std::string undisturbed = UndisturbedHash(job);
  for (const int stage : {0, 1, 3}) {
    job.mutable_train()->set_zero_stage(stage);
    FaultyFileSystem fs;
    EXPECT_EQ(InterruptedHash(fs, job), undisturbed) << stage;
  }
}

TEST(OptimizersTest, ACheckpointOfAnotherOptimizer_IsRefused) {
  FaultyFileSystem fs;
  proto::JobSpec first = Job("first");
  first.mutable_train()->set_save_dir("/first");
  first.mutable_train()->set_train_iters(4);
  WorkerCluster cluster(first, fs);
  for (const auto& outcome : cluster.Run(2)) ASSERT_TRUE(outcome.ok()) << outcome.status();
  for (const Choice& choice : {Choice{"adam"}, Choice{"sgd"}, Choice{"lion"}, Choice{"muon"}}) {
    proto::JobSpec second = Job("second");
    second.mutable_train()->set_load_dir("/first");
    Choose(choice, second.mutable_train());
    WorkerCluster next(second, fs);
    for (const auto& outcome : next.Run(2)) {
      EXPECT_EQ(outcome.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(outcome.status().message()),
                  testing::HasSubstr("another optimizer: expected " + choice.name));
      EXPECT_THAT(std::string(outcome.status().message()),
                  testing::HasSubstr("got adamw with state exp_avg, exp_avg_sq; give --optimizer "
                                     "adamw"));
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
