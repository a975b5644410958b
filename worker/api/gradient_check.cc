#include "worker/api/gradient_check.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/status_macros.h"
#include "common/plan/shard_plan.h"
#include "worker/api/config.h"
#include "worker/api/spec_of_config.h"
#include "worker/data/sample_values.h"
#include "worker/engine/engine_factory.h"
#include "worker/model/init.h"
#include "worker/parallel/replicated_parameters.h"

namespace dsrun {
namespace {

// A place for every use, summed into a place for every tensor.
class GradientsOfTensors final : public worker::GradientSink {
 public:
  explicit GradientsOfTensors(const ModelPlan& model) : model_(model) {
    for (const LogicalTensor& tensor : model.tensors) {
      sums_.emplace_back(static_cast<size_t>(tensor.size()), 0.0f);
    }
  }

  std::span<float* const> Begin(size_t layer) override {
    uses_.clear();
    pointers_.clear();
    for (const size_t tensor : model_.layers[layer].uses) {
      uses_.emplace_back(sums_[tensor].size(), std::numeric_limits<float>::quiet_NaN());
    }
    for (std::vector<float>& use : uses_) pointers_.push_back(use.data());
    return pointers_;
  }
  absl::Status End(size_t layer) override {
    const std::vector<size_t>& tensors = model_.layers[layer].uses;
    for (size_t use = 0; use < tensors.size(); ++use) {
      std::vector<float>& sum = sums_[tensors[use]];
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += uses_[use][i];
    }
    return absl::OkStatus();
  }

  const std::vector<std::vector<float>>& sums() const { return sums_; }

 private:
  const ModelPlan& model_;
  std::vector<std::vector<float>> sums_;  // by tensor
  std::vector<std::vector<float>> uses_;  // of the layer that is played
  std::vector<float*> pointers_;
};

class Checker {
 public:
  Checker(const ModelPlan& plan, worker::Model& model, const GradientCheckOptions& options)
      : plan_(plan),
        model_(model),
        options_(options),
        layout_(plan.tensors),
        parameters_(static_cast<size_t>(layout_.size())),
        store_(plan, layout_, parameters_.data()),
        inputs_(static_cast<size_t>(options.samples * plan.InputsOfSample())),
        targets_(static_cast<size_t>(options.samples * plan.TargetsOfSample())) {
    worker::InitParameters(layout_, options.seed, parameters_.data());
  }

  absl::Status Fill(const SampleFn& sample) {
    const auto fill = SampleWords(plan_.sample, sample);
    const auto inputs = static_cast<size_t>(plan_.InputsOfSample());
    const auto targets = static_cast<size_t>(plan_.TargetsOfSample());
    for (int64_t i = 0; i < options_.samples; ++i) {
      const std::span one(inputs_.data() + static_cast<size_t>(i) * inputs, inputs);
      const std::span its(targets_.data() + static_cast<size_t>(i) * targets, targets);
      fill(i, one, its);
      RETURN_IF_ERROR(worker::CheckSample(plan_, one, its)) << "sample " << i;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<GradientCheck>> Check() {
    ASSIGN_OR_RETURN(const std::vector<std::vector<float>> gradients, Gradients());
    ASSIGN_OR_RETURN(const std::vector<std::vector<float>> again, Gradients());
    std::vector<GradientCheck> checks;
    for (size_t tensor = 0; tensor < gradients.size(); ++tensor) {
      const std::vector<float>& of_tensor = gradients[tensor];
      for (size_t i = 0; i < of_tensor.size(); ++i) {
        if (!std::isfinite(of_tensor[i])) {
          return Wrong(tensor, i, "Backward has not written it, or as no number");
        }
        if (of_tensor[i] != again[tensor][i]) {
          return Wrong(tensor, i,
                       absl::StrCat("it was ", of_tensor[i], " at first, and ", again[tensor][i],
                                    " when the same pass was played "
                                    "again"));
        }
      }
      ASSIGN_OR_RETURN(const double worst, WorstOf(tensor, of_tensor));
      checks.push_back({plan_.tensors[tensor].name, worst});
    }
    return checks;
  }

 private:
  absl::Status Wrong(size_t tensor, size_t element, const std::string& what) const {
    return absl::FailedPreconditionError(absl::StrCat(
        "the gradient of ", plan_.tensors[tensor].name, ", element ", element, ": ", what));
  }

  // As in training; with the same random bits each time, which finite differences need.
  absl::Status Forward() {
    store_.BeginPass(PassKind::kTraining);
    return model_.Forward(0, inputs_.data(), targets_.data(),
                          PassDraws{.seed = options_.seed, .rates = options_.dropout}, store_);
  }
  absl::StatusOr<std::vector<std::vector<float>>> Gradients() {
    GradientsOfTensors sink(plan_);
    RETURN_IF_ERROR(Forward());
    RETURN_IF_ERROR(model_.Backward(0, store_, sink).status());
    return sink.sums();
  }
  absl::StatusOr<double> LossAt(float* parameter, float value) {
    *parameter = value;
    RETURN_IF_ERROR(Forward());
    ASSIGN_OR_RETURN(const worker::LossSum loss, model_.Loss(0, store_));
    return loss.loss;
  }

  // The largest, which a wrong factor shows in first, and others.
  std::set<size_t> Chosen(size_t tensor, const std::vector<float>& gradient) const {
    const size_t size = gradient.size();
    const auto largest = std::max_element(gradient.begin(), gradient.end(), [](float a, float b) {
      return std::fabs(double{a}) < std::fabs(double{b});
    });
    std::set<size_t> chosen = {static_cast<size_t>(largest - gradient.begin())};
    const auto wanted = std::min(size, static_cast<size_t>(options_.elements));
    for (uint64_t draw = 0; chosen.size() < wanted; ++draw) {
      const PhiloxBlock bits =
          RandomAt(options_.seed, RandomPurpose::kSampling, static_cast<uint32_t>(tensor), draw);
      chosen.insert(static_cast<size_t>(RandomU64(bits) % size));
    }
    return chosen;
  }

  absl::StatusOr<double> WorstOf(size_t tensor, const std::vector<float>& gradient) {
    double largest = 1e-6;  // of a tensor without a gradient, rounding is no difference
    for (const float value : gradient) largest = std::max(largest, std::fabs(double{value}));
    double worst = 0;
    for (const size_t element : Chosen(tensor, gradient)) {
      float* const at = parameters_.data() + layout_.entries()[tensor].offset + element;
      const float before = *at;
      const auto above = static_cast<float>(before + options_.step);
      const auto below = static_cast<float>(before - options_.step);
      ASSIGN_OR_RETURN(const double up, LossAt(at, above));
      ASSIGN_OR_RETURN(const double down, LossAt(at, below));
      *at = before;
      const double expected = (up - down) / (double{above} - double{below});
      const double off = std::fabs(expected - double{gradient[element]}) / largest;
      worst = std::max(worst, off);
      if (!(off <= options_.tolerance)) {  // nor is what is no number
        return Wrong(
            tensor, element,
            absl::StrCat("finite differences say ", expected, ", Backward says ", gradient[element],
                         ": ", off, " of the tensor's largest, more than ", options_.tolerance));
      }
    }
    return worst;
  }

  const ModelPlan& plan_;
  worker::Model& model_;
  const GradientCheckOptions options_;
  const FlatLayout layout_;
  std::vector<float> parameters_;
  worker::ReplicatedParameters store_;
  std::vector<int32_t> inputs_;
  std::vector<int32_t> targets_;
};

}  // namespace

absl::StatusOr<std::vector<GradientCheck>> CheckGradients(const OwnModel& model,
                                                          const SampleFn& sample,
                                                          const GradientCheckOptions& options) {
  ASSIGN_OR_RETURN(const worker::OwnModel own, PlanModel(model));
  Config config;
  config.micro_batch_size = options.samples;
  config.global_batch_size = options.samples;
  ASSIGN_OR_RETURN(const proto::TrainSpec spec, SpecOfConfig(config, own.plan, 1));
  RETURN_IF_ERROR(worker::CapLibraryOnce(spec.isa_cap()));
  ASSIGN_OR_RETURN(const worker::Engine engine, worker::BuildEngine(spec, &own));
  Checker checker(own.plan, *engine.model, options);
  RETURN_IF_ERROR(checker.Fill(sample));
  return checker.Check();
}

}  // namespace dsrun
