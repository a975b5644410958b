#include "tests/worker/api/own_models.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "common/base/philox.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/numerics/dropout.h"
#include "gtest/gtest.h"
#include "worker/comm/in_process/in_process_communicator.h"

namespace dsrun {
namespace {

float Unit(int64_t index, uint32_t stream) {
  const PhiloxBlock bits =
      RandomAt(7, RandomPurpose::kDataOrder, stream, static_cast<uint64_t>(index));
  return 2 * RandomUnitFloat(bits[0]) - 1;
}

class ScaleLayer final : public Layer {
 public:
  ScaleLayer(int64_t width, Mistake mistake) : width_(width), mistake_(mistake) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    for (int64_t i = 0; i < pass.rows() * width_; ++i) {
      out.f32()[i] = in.f32()[i] * pass.parameters[0].f32()[i % width_];
    }
  }
  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    float* const dscale = pass.gradients[0];
    const int64_t written = mistake_ == Mistake::kNotWritten ? width_ - 1 : width_;
    if (mistake_ != Mistake::kAdds) std::fill_n(dscale, written, 0.0f);
    float factor = mistake_ == Mistake::kFactor ? 1.1f : 1.0f;
    if (mistake_ == Mistake::kInfinite) factor = std::numeric_limits<float>::infinity();
    if (mistake_ == Mistake::kKeepsState) factor += 1e-3f * static_cast<float>(++passes_);
    for (int64_t i = 0; i < pass.rows() * width_; ++i) {
      if (i % width_ < written) dscale[i % width_] += factor * in.f32()[i] * dstream.f32()[i];
    }
    for (int64_t i = 0; i < pass.rows() * width_; ++i) {
      if (mistake_ != Mistake::kStream) dstream.f32()[i] *= pass.parameters[0].f32()[i % width_];
    }
  }

 private:
  const int64_t width_;
  const Mistake mistake_;
  int passes_ = 0;  // which no layer may count
};

// out = in / 2, without anything to learn.
class HalveLayer final : public Layer {
 public:
  explicit HalveLayer(int64_t width) : width_(width) {}
  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    for (int64_t i = 0; i < pass.rows() * width_; ++i) out.f32()[i] = in.f32()[i] / 2;
  }
  void Backward(const Pass& pass, ConstReals, Reals dstream) override {
    for (int64_t i = 0; i < pass.rows() * width_; ++i) dstream.f32()[i] /= 2;
  }

 private:
  const int64_t width_;
};

class DropLayer final : public Layer {
 public:
  DropLayer(int64_t width, double rate) : width_(width), rate_(rate) {}
  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    pass.kernels.Dropout({pass.batch, pass.seq_length, width_}, pass.Mask(rate_, kFirstOwnUse), in,
                         out);
  }
  // By hand, element by element, what the kernel does.
  void Backward(const Pass& pass, ConstReals, Reals dstream) override {
    const DropoutMask mask = pass.Mask(rate_, kFirstOwnUse);
    for (int64_t row = 0; row < pass.rows(); ++row) {
      const PhiloxKey key = mask.KeyOf(row / pass.seq_length);
      for (int64_t i = 0; i < width_; ++i) {
        const bool kept = KeepsElement(mask, key, row % pass.seq_length, i);
        dstream.f32()[row * width_ + i] *= kept ? mask.scale : 0;
      }
    }
  }

 private:
  const int64_t width_;
  const double rate_;
};

OwnLayer Halve(std::string name, int64_t width) {
  return {{.name = std::move(name), .in = width, .out = width},
          [width]() -> std::unique_ptr<Layer> { return std::make_unique<HalveLayer>(width); }};
}

}  // namespace

OwnLayer Scale(std::string name, int64_t width, std::string shared) {
  OwnLayer layer = ScaleWith(Mistake::kNone, std::move(name), width);
  if (shared.empty()) return layer;
  layer.plan.tensors.clear();
  layer.plan.shared = {std::move(shared)};
  return layer;
}

OwnLayer ScaleWith(Mistake mistake, std::string name, int64_t width) {
  LayerDescription plan{.name = name, .in = width, .out = width};
  plan.tensors = {{name + ".scale", {width}, Init::kOnes, 0, /*weight_decay=*/false}};
  return {std::move(plan), [width, mistake]() -> std::unique_ptr<Layer> {
            return std::make_unique<ScaleLayer>(width, mistake);
          }};
}

OwnLayer Drop(std::string name, int64_t width, double rate) {
  return {{.name = std::move(name), .in = width, .out = width},
          [width, rate]() -> std::unique_ptr<Layer> {
            return std::make_unique<DropLayer>(width, rate);
          }};
}

OwnModel DroppingModel() {
  OwnModel model = SumsModel();
  model.layers.insert(model.layers.begin() + 1, Drop("drop", 16, 0.2));
  return model;
}

OwnModel QuarterModel() {
  OwnModel model;
  model.name = "quarters";
  model.sample = {.inputs = SampleShape::Elements::kFloats,
                  .inputs_of_row = 2,
                  .targets = SampleShape::Elements::kIds,
                  .target_ids = 4};
  model.outputs = 4;
  // More than a leaf of elements, so that there is something to divide.
  model.layers = {Dense("lift", 2, 48, Activation::kGelu), Dense("mix", 48, 48, Activation::kGelu),
                  Dense("scores", 48, 4, Activation::kNone)};
  model.head = SoftmaxCrossEntropy("loss", 4);
  return model;
}

void QuarterSample(int64_t index, const Sample& sample) {
  sample.inputs[0] = Unit(index, 0);
  sample.inputs[1] = Unit(index, 1);
  const int32_t quarter = (sample.inputs[0] > 0 ? 1 : 0) + (sample.inputs[1] > 0 ? 2 : 0);
  sample.target_ids[0] = index % 7 == 6 ? -1 : quarter;
}

OwnModel SumsModel() {
  OwnModel model;
  model.name = "sums";
  model.rows = 6;
  model.sample = {.inputs = SampleShape::Elements::kFloats,
                  .inputs_of_row = 2,
                  .targets = SampleShape::Elements::kFloats,
                  .targets_of_row = 2};
  model.outputs = 2;
  model.heads = 2;
  constexpr int64_t kWidth = 16;
  model.layers = {Dense("lift", 2, kWidth, Activation::kNone),
                  Scale("first", kWidth),
                  AttentionBlock("attn", kWidth, 2),
                  Halve("halve", kWidth),
                  MlpBlock("mlp", kWidth, 2),
                  Scale("again", kWidth, "first.scale"),
                  Dense("sums", kWidth, 2, Activation::kNone)};
  model.head = SquaredError("loss", 2);
  return model;
}

void SumsSample(int64_t index, const Sample& sample) {
  float sums[2] = {0, 0};
  for (size_t i = 0; i < sample.inputs.size(); ++i) {
    sample.inputs[i] = Unit(index, static_cast<uint32_t>(i));
    sums[i % 2] += sample.inputs[i];
    sample.targets[i] = sums[i % 2];
  }
}

Config SmallConfig() {
  Config config;
  config.global_batch_size = 12;
  config.micro_batch_size = 2;
  config.train_iters = 20;
  config.lr = 1e-2;
  config.lr_warmup_iters = 2;
  config.bucket_bytes = 4096;
  config.threads_per_rank = 1;
  return config;
}

namespace {

class Asking final : public worker::Communicator {
 public:
  Asking(std::unique_ptr<worker::Communicator> inner, const HowToRun& how)
      : inner_(std::move(inner)), how_(how) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  absl::Status Exchange(std::span<const worker::SendOp> sends,
                        std::span<const worker::RecvOp> recvs, const std::string& what) override {
    if (how_.before != nullptr) {
      const absl::Status status = how_.before(rank(), what);
      if (!status.ok()) {
        inner_->Abort("a test ends it");
        return status;
      }
    }
    return inner_->Exchange(sends, recvs, what);
  }
  void SetTimeout(absl::Duration timeout) override { inner_->SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<worker::Communicator> inner_;
  const HowToRun& how_;
};

}  // namespace

void OnRanks(const OwnModel& model, const SampleFn& sample, const Config& config,
             const HowToRun& how, FileSystem& fs, const std::function<void(Engine&)>& body) {
  std::vector<std::unique_ptr<worker::Communicator>> group =
      worker::CreateInProcessGroup(how.width, {});
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < how.width; ++rank) {
    ranks.emplace_back([&, rank] {
      const JobPlace place{.rank = rank,
                           .size = how.width,
                           .local_size = how.width,
                           .job = how.job,
                           .generation = how.generation};
      auto communicator =
          std::make_unique<Asking>(std::move(group[static_cast<size_t>(rank)]), how);
      auto engine = Engine::Create(model, sample, config, place, std::move(communicator), fs);
      ASSERT_TRUE(engine.ok()) << engine.status();
      body(**engine);
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

Trained Train(const OwnModel& model, const SampleFn& sample, const Config& config, int width,
              int steps) {
  Trained trained;
  FaultyFileSystem fs;
  OnRanks(model, sample, config, {.width = width}, fs, [&](Engine& engine) {
    for (int step = 0; step < steps; ++step) {
      const auto batch = engine.TrainBatch();
      ASSERT_TRUE(batch.ok()) << "rank " << engine.rank() << ": " << batch.status();
      if (engine.rank() != 0) continue;
      trained.losses.push_back(batch->loss);
      trained.grad_norms.push_back(batch->grad_norm);
    }
    const auto outputs = engine.Outputs(sample, 0, 5);
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    if (engine.rank() == 0) trained.outputs = *outputs;
    const auto saved = engine.Save(kFolder);
    ASSERT_TRUE(saved.ok()) << saved.status();
  });
  trained.hash = NewestHash(fs);
  return trained;
}

std::string NewestHash(FileSystem& fs) {
  absl::StatusOr<Checkpoint> checkpoint = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *ContentHash(*checkpoint) : "";
}

}  // namespace dsrun
