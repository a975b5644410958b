#include "common/plan/activation_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

int64_t Bytes(const PlannedActivation& activation, const ActivationInput& input, int64_t rows) {
  int64_t count = rows;
  if (activation.per == PlannedActivation::Per::kHeadRow) count = std::min(rows, kHeadRows);
  if (activation.per == PlannedActivation::Per::kThread) count = input.threads;
  return count * activation.elements * BytesOf(activation.dtype.value_or(DType::kF32));
}

// Both passes in words: every byte belongs to who wrote it last, until it is read for the last
// time.
class Passes {
 public:
  Passes(const ModelPlan& model, const ActivationInput& input)
      : model_(model),
        input_(input),
        plan_(model, input),
        rows_(input.micro_batch_size * model.spec.seq_length),
        owner_(static_cast<size_t>(plan_.total_bytes() / 64), -1) {
    EXPECT_EQ(plan_.tables().size(), model.tables.size());
    for (size_t i = 0; i < model.tables.size(); ++i) {
      Write(plan_.tables()[i], TableBytes(i), Table(i));
    }
  }

  void Forward(int64_t slot) {
    const ActivationPlan::Slot& at = plan_.slot(static_cast<size_t>(slot));
    Write(at.tokens, 4 * rows_, Id(slot, 0, 0));
    Write(at.targets, 4 * rows_, Id(slot, 0, 1));
    for (size_t layer = 0; layer < model_.layers.size(); ++layer) {
      ReadInput(slot, layer);
      WriteAll(model_.layers[layer].workspace, plan_.forward_workspace(layer), Id(-1, layer, 100));
      WriteAll(model_.layers[layer].kept, at.kept[layer], Id(slot, layer, 200));
      if (layer + 1 < model_.layers.size()) {
        Write(at.streams[layer], Stream(), Id(slot, layer, 2));
      }
      ReadInput(slot, layer);
      ReadAll(model_.layers[layer].workspace, plan_.forward_workspace(layer), Id(-1, layer, 100));
      ReadTables();
    }
  }
  void Backward(int64_t slot) {
    const ActivationPlan::Slot& at = plan_.slot(static_cast<size_t>(slot));
    for (size_t layer = model_.layers.size(); layer-- > 0;) {
      const Range* const segment = SegmentOf(layer);
      if (segment != nullptr && segment->end == static_cast<int64_t>(layer) + 1) {
        PlayAgain(slot, *segment);
      }
      if (layer + 1 < model_.layers.size()) Read(plan_.stream_gradient(), Stream(), -7);
      ReadTables();
      WriteAll(model_.layers[layer].workspace, plan_.backward_workspace(layer), Id(-1, layer, 300));
      Write(plan_.stream_gradient(), Stream(), -7);
      ReadBackwardInput(slot, layer);
      ReadAll(model_.layers[layer].kept,
              segment != nullptr ? plan_.replay(layer).kept : at.kept[layer],
              Id(slot, layer, segment != nullptr ? 500 : 200));
      ReadAll(model_.layers[layer].workspace, plan_.backward_workspace(layer), Id(-1, layer, 300));
      Read(at.tokens, 4 * rows_, Id(slot, 0, 0));
      Read(at.targets, 4 * rows_, Id(slot, 0, 1));
    }
  }

 private:
  const Range* SegmentOf(size_t layer) const {
    for (const Range& segment : plan_.segments()) {
      const auto index = static_cast<int64_t>(layer);
      if (segment.begin <= index && index < segment.end) return &segment;
    }
    return nullptr;
  }
  void PlayAgain(int64_t slot, const Range& segment) {
    for (int64_t index = segment.begin; index < segment.end; ++index) {
      const auto layer = static_cast<size_t>(index);
      const ActivationPlan::Replay& at = plan_.replay(layer);
      WriteAll(model_.layers[layer].workspace, at.workspace, Id(-1, layer, 400));
      WriteAll(model_.layers[layer].kept, at.kept, Id(slot, layer, 500));
      Write(at.out, Stream(), Id(slot, layer, 3));
      ReadBackwardInput(slot, layer);
      ReadAll(model_.layers[layer].workspace, at.workspace, Id(-1, layer, 400));
      ReadTables();
    }
  }
  void ReadBackwardInput(int64_t slot, size_t layer) {
    const Range* const segment = SegmentOf(layer);
    if (segment == nullptr || segment->begin == static_cast<int64_t>(layer)) {
      ReadInput(slot, layer);
    } else {
      Read(plan_.replay(layer - 1).out, Stream(), Id(slot, layer - 1, 3));
    }
  }
  static int64_t Id(int64_t slot, size_t layer, int64_t what) {
    return ((slot + 1) * 1000 + static_cast<int64_t>(layer)) * 1000 + what;
  }
  static int64_t Table(size_t index) { return -100 - static_cast<int64_t>(index); }
  int64_t TableBytes(size_t index) const {
    return model_.spec.seq_length * model_.tables[index].elements * 4;
  }
  void ReadTables() {
    for (size_t i = 0; i < model_.tables.size(); ++i) {
      Read(plan_.tables()[i], TableBytes(i), Table(i));
    }
  }
  int64_t Stream() const { return rows_ * model_.spec.hidden_size * 4; }
  void ReadInput(int64_t slot, size_t layer) {
    if (layer == 0) return;
    Read(plan_.slot(static_cast<size_t>(slot)).streams[layer - 1], Stream(),
         Id(slot, layer - 1, 2));
  }
  void WriteAll(const std::vector<PlannedActivation>& what, const std::vector<int64_t>& offsets,
                int64_t id) {
    ASSERT_EQ(what.size(), offsets.size());
    for (size_t i = 0; i < what.size(); ++i) {
      Write(offsets[i], Bytes(what[i], input_, rows_), id + static_cast<int64_t>(i));
    }
  }
  void ReadAll(const std::vector<PlannedActivation>& what, const std::vector<int64_t>& offsets,
               int64_t id) {
    for (size_t i = 0; i < what.size(); ++i) {
      Read(offsets[i], Bytes(what[i], input_, rows_), id + static_cast<int64_t>(i));
    }
  }
  void Write(int64_t offset, int64_t bytes, int64_t id) {
    ASSERT_EQ(offset % 64, 0);
    ASSERT_LE(offset + bytes, plan_.total_bytes());
    for (int64_t at = offset / 64; at * 64 < offset + bytes; ++at) {
      owner_[static_cast<size_t>(at)] = id;
    }
  }
  void Read(int64_t offset, int64_t bytes, int64_t id) {
    for (int64_t at = offset / 64; at * 64 < offset + bytes; ++at) {
      ASSERT_EQ(owner_[static_cast<size_t>(at)], id) << "written over before it was read";
    }
  }

  const ModelPlan& model_;
  const ActivationInput input_;
  const ActivationPlan plan_;
  const int64_t rows_;
  std::vector<int64_t> owner_;  // by 64 bytes
};

// One that rotates, so that it has tables, and normalises queries and keys.
ModelSpec Rotated() {
  ModelSpec spec{"", 2, 48, 4, 200, 300};
  spec.family = "llama";
  spec.query_groups = 2;
  spec.head_channels = 16;
  spec.ffn_hidden_size = 80;
  spec.norm_epsilon = 1e-5;
  spec.rope_base = 1e4;
  spec.qk_norm = true;
  return spec;
}

TEST(ActivationPlanTest, NothingIsWrittenOverWhileItIsNeeded) {
  for (const ModelPlan& model : {PlanModel({"", 3, 48, 4, 200, 300}), PlanModel(Rotated())}) {
    for (const ActivationInput input : {ActivationInput{1, 1, 1}, ActivationInput{5, 2, 1}}) {
      Passes passes(model, input);
      for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
        passes.Forward(0);
        passes.Backward(0);
      }
    }
  }
}

TEST(ActivationPlanTest, MicroBatchesInFlight_DoNotTouchOneAnother) {
  const ModelPlan model = PlanModel({"", 2, 16, 2, 40, 30});
  Passes passes(model, {.micro_batch_size = 2, .threads = 1, .slots = 3});
  passes.Forward(0);
  passes.Forward(1);
  passes.Forward(2);
  passes.Backward(0);
  passes.Forward(0);
  passes.Backward(1);
  passes.Backward(2);
  passes.Backward(0);
}

// As above, where layers are played again.
TEST(ActivationPlanTest, SegmentsArePlayedAgainFromWhatIsStillThere) {
  for (const ModelPlan& model : {PlanModel({"", 5, 48, 4, 40, 300}), PlanModel(Rotated())}) {
    const int64_t most = KeptBytes(model, 40 * 3, 1, {});
    for (const Recompute recompute :
         {Recompute{.every = 1}, Recompute{.every = 2}, Recompute{.every = 9},
          Recompute{.budget_bytes = most / 2}, Recompute{.budget_bytes = 1}}) {
      SCOPED_TRACE("every " + std::to_string(recompute.every));
      ActivationInput input{
          .micro_batch_size = 3, .threads = 2, .slots = 1, .recompute = recompute};
      Passes one(model, input);
      for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
        one.Forward(0);
        one.Backward(0);
      }
      input.slots = 2;
      Passes two(model, input);
      two.Forward(0);
      two.Forward(1);
      two.Backward(0);
      two.Forward(0);
      two.Backward(1);
      two.Backward(0);
    }
  }
}

// From forward to backward the streams between segments stay, and of one segment what it computes.
TEST(ActivationPlanTest, ArenaOfRecomputedLayersHasTheirInputsAndOneSet) {
  const ModelPlan model = PlanModel({"", 24, 64, 4, 128, 300});
  ActivationInput input{.micro_batch_size = 4};
  const int64_t plain = ActivationPlan(model, input).total_bytes();
  input.recompute.every = 1;
  const ActivationPlan all(model, input);
  const int64_t rows = 4 * 128;
  const int64_t inputs = KeptBytes(model, rows, 1, all.segments());
  const int64_t of_all_blocks = KeptBytes(model, rows, 1, {}) - inputs;
  EXPECT_LT(all.total_bytes(), inputs + 3 * of_all_blocks / 24);
  EXPECT_LT(all.total_bytes(), plain / 5);
  int64_t kept = 0;
  for (const PlannedBuffer& line : all.lines()) {
    if (line.group == "activations" && line.name != "activations.tokens") kept += line.bytes();
  }
  EXPECT_EQ(kept, inputs);
  input.recompute.every = 5;  // fewer inputs, a larger set
  EXPECT_LT(ActivationPlan(model, input).total_bytes(), plain / 2);
}

TEST(ActivationPlanTest, LinesAddUpToTheArena) {
  for (const ModelPlan& model : {PlanModel({"", 3, 48, 4, 20, 300}), PlanModel(Rotated())}) {
    for (const int64_t every : {0, 1, 2}) {
      const ActivationPlan plan(
          model, {.micro_batch_size = 3, .threads = 2, .slots = 2, .recompute = {.every = every}});
      int64_t total = 0;
      std::vector<std::string> names;
      for (const PlannedBuffer& line : plan.lines()) {
        EXPECT_EQ(std::count(names.begin(), names.end(), line.name), 0) << line.name;
        EXPECT_FALSE(line.formula.empty()) << line.name;
        EXPECT_GE(line.bytes(), 0) << line.name;
        names.push_back(line.name);
        total += line.bytes();
      }
      EXPECT_EQ(total, plan.total_bytes());
    }
  }
}

// The arena is what lives at the turn of the passes: all that is kept, and the head's workspace.
TEST(ActivationPlanTest, ArenaNeedsWhatTheTurnNeeds) {
  for (const int64_t vocab_size : {2, 50257}) {
    const ModelPlan model = PlanModel({"", 6, 64, 4, 128, vocab_size});
    const ActivationInput input{.micro_batch_size = 4, .threads = 2};
    const ActivationPlan plan(model, input);
    int64_t kept = 0;
    for (const PlannedBuffer& line : plan.lines()) {
      if (line.group == "activations") kept += line.bytes();
    }
    const int64_t rows = 4 * 128;
    int64_t at_the_turn = kept + rows * 64 * 4;  // the stream's gradient
    for (const PlannedActivation& work : model.layers.back().workspace) {
      at_the_turn += Bytes(work, input, rows);
    }
    EXPECT_LE(plan.total_bytes(), at_the_turn * 102 / 100);
    EXPECT_GE(plan.total_bytes(), kept);
  }
}

// The whole matrix of logits never exists: beyond kHeadRows rows it does not grow.
TEST(ActivationPlanTest, LogitsDoNotGrowWithTheMicroBatch) {
  const ModelPlan model = PlanModel({"", 1, 8, 1, 1024, 50257});
  for (const int64_t batch : {1, 4}) {
    const ActivationPlan plan(model, {.micro_batch_size = batch});
    EXPECT_GE(plan.total_bytes(), kHeadRows * 50257 * 4);
    EXPECT_LE(plan.total_bytes(), kHeadRows * 50272 * 4 + batch * 1024 * 8 * 4 * 60);
  }
}

}  // namespace
}  // namespace dsrun
