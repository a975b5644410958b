#include "worker/api/layers.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace dsrun {
namespace {

size_t Bytes(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }

PlannedActivation OfRow(std::string name, int64_t elements) {
  return {.name = std::move(name), .elements = elements, .formula = std::to_string(elements)};
}

LogicalTensor Matrix(std::string name, int64_t in, int64_t out, double stddev) {
  return {std::move(name), {in, out}, Init::kNormal, stddev, /*weight_decay=*/true};
}

LogicalTensor Vector(std::string name, int64_t size, Init init = Init::kZeros) {
  return {std::move(name), {size}, init, 0, /*weight_decay=*/false};
}

class DenseLayer final : public Layer {
 public:
  enum Tensor { kWeight, kBias };
  enum Kept { kSlope };             // with an activation
  enum Work { kDInput, kDOutput };  // the second with an activation

  DenseLayer(int64_t in, int64_t out, Activation activation)
      : in_(in), out_(out), activation_(activation) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    const float* const x = in == nullptr ? pass.Inputs() : in.f32();
    if (activation_ == Activation::kGelu) {
      pass.kernels.LinearGeluForward(Shape(pass), x, pass.parameters[kWeight],
                                     pass.parameters[kBias], pass.Kept(kSlope), out);
    } else {
      pass.kernels.LinearForward(Shape(pass), x, pass.parameters[kWeight], pass.parameters[kBias],
                                 out);
    }
  }

  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    const float* const x = in == nullptr ? pass.Inputs() : in.f32();
    const float* dout = dstream.f32();
    if (activation_ == Activation::kGelu) {
      float* const dpre = pass.WorkF32(kDOutput);
      const float* const slope = pass.KeptF32(kSlope);
      for (int64_t i = 0; i < pass.rows() * out_; ++i) dpre[i] = dout[i] * slope[i];
      dout = dpre;
    }
    pass.kernels.LinearBackwardWeight(Shape(pass), x, dout, pass.gradients[kWeight]);
    pass.kernels.LinearBackwardBias(Shape(pass), dout, pass.gradients[kBias]);
    if (in == nullptr) return;
    // Not in place: a product reads all of its input while it writes.
    pass.kernels.LinearBackwardInput(Shape(pass), dout, pass.parameters[kWeight],
                                     pass.Work(kDInput));
    pass.kernels.stream().Copy(dstream.f32(), pass.WorkF32(kDInput), Bytes(pass.rows() * in_));
  }

 private:
  worker::LinearShape Shape(const Pass& pass) const { return {pass.rows(), in_, out_}; }

  const int64_t in_;
  const int64_t out_;
  const Activation activation_;
};

// Of heads without tensors: the stream that they get is what they give, and what backward and Loss
// work on is a copy of it.
class PlainHead : public Head {
 public:
  enum Kept { kOutputs };

  explicit PlainHead(int64_t outputs) : outputs_(outputs) {}

  void Forward(const Pass& pass, ConstReals in, Reals) override {
    const float* const x = in == nullptr ? pass.Inputs() : in.f32();
    pass.kernels.stream().Copy(pass.KeptF32(kOutputs), x, Bytes(pass.rows() * outputs_));
  }
  void Logits(const Pass& pass, int64_t row, float* logits) override {
    pass.kernels.stream().Copy(logits, pass.KeptF32(kOutputs) + row * outputs_, Bytes(outputs_));
  }

 protected:
  const int64_t outputs_;
};

class CrossEntropyHead final : public PlainHead {
 public:
  enum Work { kLogits };
  using PlainHead::PlainHead;

  void Backward(const Pass& pass, ConstReals, Reals dstream) override { Play(pass, dstream.f32()); }
  void Loss(const Pass& pass) override { Play(pass, pass.WorkF32(kLogits)); }

 private:
  // Overwrites `logits` with their gradient.
  void Play(const Pass& pass, float* logits) {
    pass.kernels.stream().Copy(logits, pass.KeptF32(kOutputs), Bytes(pass.rows() * outputs_));
    pass.kernels.CrossEntropy({pass.rows(), outputs_, outputs_, outputs_}, pass.gradient_scale,
                              pass.targets, logits, pass.losses);
  }
};

class SquaredErrorHead final : public PlainHead {
 public:
  using PlainHead::PlainHead;

  void Backward(const Pass& pass, ConstReals, Reals dstream) override {
    Loss(pass);
    const float* const outputs = pass.KeptF32(kOutputs);
    float* const doutputs = dstream.f32();
    for (int64_t i = 0; i < pass.rows() * outputs_; ++i) {
      doutputs[i] = outputs[i] - pass.Targets()[i];
    }
  }
  void Loss(const Pass& pass) override {
    for (int64_t row = 0; row < pass.rows(); ++row) {
      double sum = 0;
      for (int64_t i = row * outputs_; i < (row + 1) * outputs_; ++i) {
        const double difference =
            static_cast<double>(pass.KeptF32(kOutputs)[i]) - static_cast<double>(pass.Targets()[i]);
        sum += difference * difference;
      }
      pass.losses[row] = sum / 2;
    }
  }
};

absl::Status CheckOutputs(const OwnModel& model, int64_t outputs) {
  if (model.outputs == outputs) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("it gives ", outputs,
                                                 " numbers for a row; expected the outputs of the "
                                                 "model, ",
                                                 model.outputs));
}

absl::Status CheckClasses(const OwnModel& model, int64_t classes) {
  const SampleShape& sample = model.sample;
  if (sample.targets == SampleShape::Elements::kIds && sample.targets_of_row == 1 &&
      sample.target_ids <= classes) {
    return CheckOutputs(model, classes);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("it takes one id for a row as target, below its ", classes, " classes"));
}

absl::Status CheckNumbers(const OwnModel& model, int64_t outputs) {
  const SampleShape& sample = model.sample;
  if (sample.targets == SampleShape::Elements::kFloats && sample.targets_of_row == outputs) {
    return CheckOutputs(model, outputs);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("it takes ", outputs, " floats for a row as targets"));
}

double ResidualDeviation(int64_t layers) {
  return 0.02 / std::sqrt(static_cast<double>(std::max<int64_t>(layers, 1)));
}

}  // namespace

OwnLayer Dense(std::string name, int64_t in, int64_t out, Activation activation) {
  LayerDescription plan{.name = name, .in = in, .out = out};
  const double stddev = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(in, 1)));
  plan.tensors = {Matrix(name + ".weight", in, out, stddev), Vector(name + ".bias", out)};
  plan.workspace = {OfRow("dinput", in)};
  if (activation != Activation::kNone) {
    plan.kept.push_back(OfRow("slope", out));
    plan.workspace.push_back(OfRow("doutput", out));
  }
  plan.flops_of_row = 2 * static_cast<double>(in) * static_cast<double>(out);
  return {std::move(plan), [in, out, activation]() -> std::unique_ptr<Layer> {
            return std::make_unique<DenseLayer>(in, out, activation);
          }};
}

OwnLayer AttentionBlock(std::string name, int64_t width, int64_t layers) {
  LayerDescription plan{.name = name, .in = width, .out = width, .kind = LayerKind::kAttention};
  plan.tensors = {Vector(name + ".norm.weight", width, Init::kOnes),
                  Vector(name + ".norm.bias", width),
                  Matrix(name + ".qkv.weight", width, 3 * width, 0.02),
                  Vector(name + ".qkv.bias", 3 * width),
                  Matrix(name + ".out.weight", width, width, ResidualDeviation(layers)),
                  Vector(name + ".out.bias", width)};
  return {std::move(plan), nullptr};
}

OwnLayer MlpBlock(std::string name, int64_t width, int64_t layers) {
  LayerDescription plan{.name = name, .in = width, .out = width, .kind = LayerKind::kMlp};
  plan.tensors = {Vector(name + ".norm.weight", width, Init::kOnes),
                  Vector(name + ".norm.bias", width),
                  Matrix(name + ".up.weight", width, 4 * width, 0.02),
                  Vector(name + ".up.bias", 4 * width),
                  Matrix(name + ".down.weight", 4 * width, width, ResidualDeviation(layers)),
                  Vector(name + ".down.bias", width)};
  return {std::move(plan), nullptr};
}

OwnHead SoftmaxCrossEntropy(std::string name, int64_t classes) {
  LayerDescription plan{.name = std::move(name), .in = classes, .out = 0};
  plan.kept = {OfRow("outputs", classes)};
  plan.workspace = {OfRow("dlogits", classes)};
  return {
      std::move(plan),
      [classes]() -> std::unique_ptr<Head> { return std::make_unique<CrossEntropyHead>(classes); },
      [classes](const OwnModel& model) { return CheckClasses(model, classes); }};
}

OwnHead SquaredError(std::string name, int64_t outputs) {
  LayerDescription plan{.name = std::move(name), .in = outputs, .out = 0};
  plan.kept = {OfRow("outputs", outputs)};
  return {
      std::move(plan),
      [outputs]() -> std::unique_ptr<Head> { return std::make_unique<SquaredErrorHead>(outputs); },
      [outputs](const OwnModel& model) { return CheckNumbers(model, outputs); }};
}

}  // namespace dsrun
