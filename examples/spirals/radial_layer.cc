#include "examples/spirals/radial_layer.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace dsrun::examples {
namespace {

class RadialLayer final : public Layer {
 public:
  // The order of what Radial describes.
  enum Tensor { kCentres, kScales };
  enum Kept { kOut };
  enum Work { kDInput };

  RadialLayer(int64_t in, int64_t units) : in_(in), units_(units) {}

  void Forward(const Pass& pass, ConstReals in, Reals out) override {
    const float* const inputs = in == nullptr ? pass.Inputs() : in.f32();
    const float* const scales = pass.parameters[kScales].f32();
    float* const outputs = out.f32();
    for (int64_t row = 0; row < pass.rows(); ++row) {
      const float* const x = inputs + row * in_;
      for (int64_t unit = 0; unit < units_; ++unit) {
        const float* const centre = pass.parameters[kCentres].f32() + unit * in_;
        float square = 0;
        for (int64_t k = 0; k < in_; ++k) square += (x[k] - centre[k]) * (x[k] - centre[k]);
        const float value = 1 / (1 + scales[unit] * scales[unit] * square);
        outputs[row * units_ + unit] = value;
        pass.KeptF32(kOut)[row * units_ + unit] = value;
      }
    }
  }

  // With r = |x - c|^2 and y = out:  dy/dr = -s^2 y^2,  dy/ds = -2 s r y^2,  dr/dx = 2 (x - c) =
  // -dr/dc.
  void Backward(const Pass& pass, ConstReals in, Reals dstream) override {
    const float* const inputs = in == nullptr ? pass.Inputs() : in.f32();
    const float* const scales = pass.parameters[kScales].f32();
    float* const dcentres = pass.gradients[kCentres];
    float* const dscales = pass.gradients[kScales];
    float* const dinput = pass.WorkF32(kDInput);
    float* const doutputs = dstream.f32();
    std::fill_n(dcentres, units_ * in_, 0.0f);
    std::fill_n(dscales, units_, 0.0f);
    std::fill_n(dinput, pass.rows() * in_, 0.0f);
    // Rows in order: a sum of floats has other bits in another one.
    for (int64_t row = 0; row < pass.rows(); ++row) {
      const float* const x = inputs + row * in_;
      for (int64_t unit = 0; unit < units_; ++unit) {
        const float* const centre = pass.parameters[kCentres].f32() + unit * in_;
        const float y = pass.KeptF32(kOut)[row * units_ + unit];
        const float dout_y2 = doutputs[row * units_ + unit] * y * y;
        const float s = scales[unit];
        float square = 0;
        for (int64_t k = 0; k < in_; ++k) {
          const float away = x[k] - centre[k];
          square += away * away;
          dcentres[unit * in_ + k] += 2 * s * s * dout_y2 * away;
          dinput[row * in_ + k] -= 2 * s * s * dout_y2 * away;
        }
        dscales[unit] -= 2 * s * square * dout_y2;
      }
    }
    if (in != nullptr) std::copy_n(dinput, pass.rows() * in_, doutputs);
  }

 private:
  const int64_t in_;
  const int64_t units_;
};

}  // namespace

OwnLayer Radial(std::string name, int64_t in, int64_t units, double spread) {
  LayerDescription plan{.name = name, .in = in, .out = units};
  plan.tensors = {{name + ".centres", {units, in}, Init::kNormal, spread, /*weight_decay=*/false},
                  {name + ".scales", {units}, Init::kOnes, 0, /*weight_decay=*/false}};
  plan.kept = {{.name = "out", .elements = units, .formula = "units"}};
  plan.workspace = {{.name = "dinput", .elements = in, .formula = "inputs"}};
  plan.flops_of_row = 4 * static_cast<double>(units) * static_cast<double>(in);
  return {std::move(plan), [in, units]() -> std::unique_ptr<Layer> {
            return std::make_unique<RadialLayer>(in, units);
          }};
}

}  // namespace dsrun::examples
