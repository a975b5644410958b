// Frozen tensors: parameters that do not change, without gradient, sum, exponent and moments
// (docs/design/0017-frozen-tensors.md).

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/frozen_in.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/shard_plan.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"
#include "worker/checkpoint/checkpoint_loader.h"
#include "worker/model/init.h"

namespace dsrun::worker {
namespace {

using Names = std::vector<std::string>;
using Values = std::map<std::string, std::vector<float>>;  // by tensor

template <typename Which>
Names NamesWhere(const Which& which) {
  Names names;
  for (const LogicalTensor& tensor : LogicalTensors(FromProto(TinySpec(1).model()))) {
    if (which(tensor.name)) names.push_back(tensor.name);
  }
  return names;
}

// What the tests freeze: a tied table alone, all but it, all but the last layer's norm, one half of
// each norm, the lower block, and all but one bias.
std::vector<Names> Sets() {
  return {
      {"wte.weight"},
      NamesWhere([](const std::string& name) { return name != "wte.weight"; }),
      NamesWhere([](const std::string& name) { return !name.starts_with("ln_f."); }),
      NamesWhere([](const std::string& name) {
        return name.ends_with("ln_1.weight") || name.ends_with("ln_2.bias") || name == "ln_f.bias";
      }),
      NamesWhere([](const std::string& name) {
        return name.starts_with("h.0.") || name.starts_with("wte.") || name.starts_with("wpe.");
      }),
      NamesWhere([](const std::string& name) { return name != "h.1.mlp.c_fc.bias"; }),
  };
}

proto::TrainSpec Freezing(proto::TrainSpec spec, const Names& frozen) {
  spec.clear_frozen();
  for (const std::string& name : frozen) spec.add_frozen(name);
  return spec;
}

FlatLayout LayoutOf(const proto::TrainSpec& spec) {
  return FlatLayout(
      PlanModel(FromProto(spec.model()), Names(spec.frozen().begin(), spec.frozen().end()))
          .tensors);
}

Values ByTensor(const proto::TrainSpec& spec, const std::vector<float>& arena) {
  const FlatLayout layout = LayoutOf(spec);
  Values values;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    values[entry.tensor.name] =
        std::vector<float>(arena.begin() + entry.flat().begin, arena.begin() + entry.flat().end);
  }
  return values;
}

TEST(FrozenTest, GradientsOfTheOthers_HaveTheBitsThatTheyHaveWhenAllTrain) {
  proto::TrainSpec all = TinySpec(/*micro_batches=*/4);
  all.set_clip_grad(0);
  const TrainedState whole = Train(all, 1, 1);
  // Of one step, exp_avg is the gradient times a constant.
  const Values gradients = ByTensor(all, whole.adam_m);
  for (const int64_t per_atom : {1, 2}) {
    for (const Names& frozen : Sets()) {
      proto::TrainSpec spec = Freezing(all, frozen);
      spec.set_micro_batches_per_atom(per_atom);
      proto::TrainSpec unfrozen = Freezing(spec, {});
      const TrainedState reference = per_atom == 1 ? whole : Train(unfrozen, 1, 1);
      const TrainedState state = Train(spec, 1, 1);
      EXPECT_EQ(state.losses, reference.losses);
      const Values expected = ByTensor(unfrozen, reference.adam_m);
      const Values moments = ByTensor(spec, state.adam_m);
      for (const auto& [name, values] : moments) {
        if (std::count(frozen.begin(), frozen.end(), name) > 0) continue;
        EXPECT_EQ(values, expected.at(name)) << name << " of " << frozen.front();
      }
      EXPECT_EQ(state.exponents.size() + frozen.size(), whole.exponents.size());
    }
  }
  EXPECT_NE(gradients.at("wte.weight"), Values::mapped_type(gradients.at("wte.weight").size()));
}

// Every use of every layer of the other family, its optional ones too: each tensor alone frozen,
// and each alone trained.
TEST(FrozenTest, AnyTensorOfLlama_IsFrozenOrTrainedAloneWithTheSameBits) {
  proto::TrainSpec all = TinySpec(/*micro_batches=*/2);
  all.set_clip_grad(0);
  ModelSpec model = FindPreset("llama-nano").value();
  model.num_layers = 1;
  model.hidden_size = 32;
  model.num_attention_heads = 4;
  model.query_groups = 2;
  model.ffn_hidden_size = 48;
  model.seq_length = 16;
  model.qkv_bias = model.attention_out_bias = model.mlp_bias = model.qk_norm = true;
  for (const bool untied : {false, true}) {
    model.untied_output = untied;
    ASSERT_TRUE(Validate(model).ok()) << Validate(model);
    ToProto(model, all.mutable_model());
    const TrainedState whole = Train(all, 1, 1);
    const Values expected = ByTensor(all, whole.adam_m);
    for (const auto& [one, gradient] : expected) {
      Names others;
      for (const auto& [name, values] : expected) {
        if (name != one) others.push_back(name);
      }
      for (const Names& frozen : {Names{one}, others}) {
        const proto::TrainSpec spec = Freezing(all, frozen);
        const TrainedState state = Train(spec, 1, 1);
        EXPECT_EQ(state.losses, whole.losses);
        for (const auto& [name, values] : ByTensor(spec, state.adam_m)) {
          if (std::count(frozen.begin(), frozen.end(), name) > 0) continue;
          EXPECT_EQ(values, expected.at(name)) << name << " beside " << one;
        }
      }
    }
  }
}

TEST(FrozenTest, FrozenParametersStay_AndEveryWidthHasTheSameBits) {
  for (const Names& frozen : Sets()) {
    const proto::TrainSpec spec = Freezing(TinySpec(/*micro_batches=*/3), frozen);
    const TrainedState one = Train(spec, 1, 20);
    for (const int width : {2, 3}) {
      EXPECT_TRUE(one.SameBits(Train(spec, width, 20))) << "width " << width;
    }
    const FlatLayout layout = LayoutOf(spec);
    std::vector<float> start(static_cast<size_t>(layout.size()));
    InitParameters(layout, spec.seed(), start.data());
    const Values before = ByTensor(spec, start);
    for (const auto& [name, values] : ByTensor(spec, one.parameters)) {
      const bool stays = std::count(frozen.begin(), frozen.end(), name) > 0;
      EXPECT_EQ(values == before.at(name), stays) << name << " of " << frozen.front();
    }
    // One tensor alone moves the loss less than another batch does.
    if (2 * frozen.size() <= layout.entries().size()) {
      EXPECT_LT(one.losses.back(), one.losses.front());
    }
  }
}

TEST(FrozenTest, AllFrozen_OrANameThatIsNotThere_IsRefusedBeforeAnythingStarts) {
  for (const Names& frozen : {NamesWhere([](const std::string&) { return true; }), Names{"wte"}}) {
    const proto::TrainSpec spec = Freezing(TinySpec(1), frozen);
    OnRanks(spec, 1, [](Trainer::Setup& setup) {
      const auto trainer = Trainer::Create(setup);
      EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument) << trainer.status();
    });
  }
}

proto::JobSpec FreezingJob(const Names& frozen, const std::string& id = "job") {
  proto::JobSpec job = Job(id);
  *job.mutable_train() = Freezing(job.train(), frozen);
  return job;
}

TEST(FrozenTest, Checkpoints_HaveOneHashAtEveryWidthAndThroughARestart) {
  const Names frozen = Sets()[4];
  std::string hash;
  for (const int width : {1, 2, 3}) {
    FaultyFileSystem fs;
    WorkerCluster cluster(FreezingJob(frozen), fs);
    if (width > 1) {  // interrupted, and gone on with another width
      cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
        if (message.has_step_done() && message.step_done().step() == 5) cluster.Announce();
      };
      cluster.Run(5 - width);
      cluster.on_message = nullptr;
    }
    for (const auto& outcome : cluster.Run(width)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    const std::string found = NewestHash(fs);
    if (hash.empty()) hash = found;
    EXPECT_EQ(found, hash) << "width " << width;
    auto checkpoint = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const std::set<std::string> there = FrozenIn(checkpoint->manifest());
    EXPECT_EQ(there, std::set<std::string>(frozen.begin(), frozen.end()));
    EXPECT_EQ(checkpoint->manifest().FindTensor("state/exp_avg/wte.weight"), nullptr);
    EXPECT_NE(checkpoint->manifest().FindTensor("model/wte.weight"), nullptr);
  }
  EXPECT_NE(hash, UndisturbedHash()) << "the comparison can fail";
}

TEST(FrozenTest, AnotherSet_IsGoneOnWithFromMomentsOfZero_AndSaidSo) {
  std::string hash;
  for (const int width : {1, 2}) {
    FaultyFileSystem fs;
    proto::JobSpec first = FreezingJob({"wte.weight"}, "first");
    first.mutable_train()->set_save_dir("/first");
    first.mutable_train()->set_train_iters(4);
    WorkerCluster cluster(first, fs);
    for (const auto& outcome : cluster.Run(2)) ASSERT_TRUE(outcome.ok()) << outcome.status();

    auto checkpoint = FindNewestCheckpoint(fs, "/first", {}, nullptr);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const proto::TrainSpec now = Freezing(first.train(), {"wpe.weight"});
    const FlatLayout layout = LayoutOf(now);
    const auto values = LoadSumExponents(*checkpoint, LogicalTensors(FromProto(now.model())),
                                         layout, GradientExponents::kProvisionalInFile);
    ASSERT_TRUE(values.ok()) << values.status();
    ASSERT_EQ(values->size(), layout.trainable_count());
    for (size_t tensor = 0; tensor < values->size(); ++tensor) {
      const bool is_new = layout.entries()[tensor].tensor.name == "wte.weight";
      EXPECT_EQ((*values)[tensor] == GradientExponents::kProvisionalInFile, is_new)
          << layout.entries()[tensor].tensor.name;
    }

    proto::JobSpec second = FreezingJob({"wpe.weight"}, "second");
    second.mutable_train()->set_load_dir("/first");
    WorkerCluster next(second, fs);
    for (const auto& outcome : next.Run(width)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    std::string said;
    for (const std::string& warning : next.warnings()) said += warning + "\n";
    EXPECT_NE(said.find("train from now on, with moments of zero: wte.weight"), std::string::npos)
        << said;
    EXPECT_NE(said.find("moments are dropped: wpe.weight"), std::string::npos) << said;
    const std::string found = NewestHash(fs, "second");
    if (hash.empty()) hash = found;
    EXPECT_EQ(found, hash) << "width " << width;
  }
}

}  // namespace
}  // namespace dsrun::worker
