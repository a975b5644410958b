// What a trainer does with a step whose loss or gradients are not all numbers: an error that names
// the layer where it began, or in fp16, where gradients overflow now and then, a smaller loss
// scale.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/model_tensors.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {
namespace {

// The layer that backward reaches first, of those with such a gradient; a tensor that several use
// tells of none of them. Empty: none is to be named.
std::string FirstInBackward(const ModelPlan& model, const std::set<size_t>& bad) {
  std::vector<int> uses(model.tensors.size());
  for (const LayerPlan& layer : model.layers) {
    for (const size_t tensor : layer.uses) ++uses[tensor];
  }
  for (size_t index = model.layers.size(); index-- > 0;) {
    const LayerPlan& layer = model.layers[index];
    for (const size_t tensor : layer.uses) {
      if (uses[tensor] == 1 && bad.contains(tensor)) {
        return absl::StrCat(layer.name, " (", model.tensors[tensor].name, ")");
      }
    }
  }
  return bad.empty() ? "" : model.tensors[*bad.begin()].name;
}

}  // namespace

int Trainer::GradientShift() const {
  if (!scaler_) return 0;
  // Sums over tokens are not divided: less of the scale is left for them (docs/numerics.md).
  const auto tokens = static_cast<uint64_t>(spec_.micro_batch_size() * spec_.model().seq_length());
  return static_cast<int>(scaler_->power()) - (std::bit_width(tokens) - 1);
}

double Trainer::Unscaled() const {
  return input_.fast_sums ? std::ldexp(1.0, -GradientShift()) : 1;
}

bool Trainer::IsFinite(const StepExchange::Sums& sums, double loss, double norm) const {
  return std::isfinite(loss) && std::isfinite(norm) &&
         std::all_of(sums.magnitudes.begin(), sums.magnitudes.end(), &GradientExponents::IsFinite);
}

// For those that the rank with the most micro-batches plays beyond this one's.
absl::Status Trainer::PlayIdleForwardPasses() {
  if (partitioned_ == nullptr) return absl::OkStatus();
  const auto micro_batches_of = [&](int64_t rank) {
    int64_t count = 0;
    for (int64_t round = 0; round < rounds_.rounds(); ++round) {
      count += rounds_.MicroBatches(rank, round);
    }
    return count;
  };
  int64_t most = 0;
  for (int64_t rank = 0; rank < batch_.width(); ++rank) {
    most = std::max(most, micro_batches_of(rank));
  }
  for (int64_t pass = micro_batches_of(rank_); pass < most; ++pass) {
    RETURN_IF_ERROR(
        partitioned_->PlayIdle(PassKind::kForwardOnly, [](size_t) { return absl::OkStatus(); }));
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Trainer::FirstBadLayer() {
  constexpr size_t kSlot = 0;
  RETURN_IF_ERROR(PlayIdleForwardPasses());
  auto first = static_cast<int64_t>(model_.layers.size()) - 1;
  for (const Place& place : places_) {
    RETURN_IF_ERROR(ReadSamples(place.micro_batch));
    store_->BeginPass(PassKind::kForwardOnly);
    RETURN_IF_ERROR(
        setup_.model->Forward(kSlot, tokens_, targets_, DrawsOf(place.micro_batch), *store_));
    ASSIGN_OR_RETURN(const size_t layer, setup_.model->FirstBadLayer(kSlot));
    RETURN_IF_ERROR(setup_.model->Loss(kSlot, *store_).status());
    first = std::min(first, static_cast<int64_t>(layer));
  }
  RETURN_IF_ERROR(comm_thread_.Wait());  // the communicator is free
  std::vector<int64_t> all(static_cast<size_t>(setup_.communicator->size()));
  all[static_cast<size_t>(rank_)] = first;
  RETURN_IF_ERROR(AllGatherBlocks(*setup_.communicator, &first, sizeof(first), all.data(),
                                  "the first layer that is not finite"));
  all[static_cast<size_t>(rank_)] = first;
  return static_cast<size_t>(*std::min_element(all.begin(), all.end()));
}

absl::StatusOr<std::string> Trainer::WhereNotFinite(const StepExchange::Sums& sums, double loss) {
  if (!std::isfinite(loss)) {
    ASSIGN_OR_RETURN(const size_t layer, FirstBadLayer());
    return absl::StrCat("; the first layer whose output is not finite is ",
                        model_.layers[layer].name);
  }
  std::set<size_t> bad;
  for (size_t tensor = 0; tensor < sums.magnitudes.size(); ++tensor) {
    if (!GradientExponents::IsFinite(sums.magnitudes[tensor])) bad.insert(tensor);
  }
  const std::string layer = FirstInBackward(model_, bad);
  return layer.empty()
             ? std::string()
             : absl::StrCat("; the first gradient that is not, from the loss back, is of ", layer);
}

absl::StatusOr<StepResult> Trainer::NotFinite(const StepExchange::Sums& sums, StepResult result) {
  ASSIGN_OR_RETURN(const std::string where, WhereNotFinite(sums, result.loss));
  const bool sums_mean_something =
      std::all_of(sums.magnitudes.begin(), sums.magnitudes.end(), &GradientExponents::IsFinite);
  if (!sums_mean_something) result.grad_norm = std::nan("");
  const std::string what = absl::StrCat("step ", result.step, ": loss ", result.loss,
                                        " and gradient norm ", result.grad_norm);
  if (!scaler_) {
    return absl::OutOfRangeError(absl::StrCat(
        what, " must be finite", where,
        "; the run has diverged: lower --lr, add --lr-warmup-iters or set --clip-grad, and go on "
        "from the last checkpoint"));
  }
  const double before = scaler_->scale();
  if (const absl::Status status = scaler_->Update(/*overflow=*/true); !status.ok()) {
    return absl::OutOfRangeError(absl::StrCat(
        what, ": ", std::string(status.message()), where,
        "; the run has diverged: lower --lr, add --lr-warmup-iters, set --clip-grad or train in "
        "bf16, and go on from the last checkpoint"));
  }
  result.note = absl::StrCat(
      what, " under a loss scale of ", before, where, "; the step is skipped, ",
      scaler_->scale() == before ? "the loss scale stays"
                                 : absl::StrCat("the loss scale is ", scaler_->scale(), " now"));
  ++state_.skipped;
  result.skipped = true;
  return result;
}

std::vector<float> Trainer::LossScale() const {
  if (!scaler_) return {};
  const auto values = scaler_->Write();
  std::vector<float> all(values.begin(), values.end());
  all.push_back(static_cast<float>(state_.skipped));
  return all;
}

absl::Status Trainer::RestoreLossScale(std::span<const float> values) {
  if (!scaler_) return absl::OkStatus();
  if (values.size() != kLossScaleValues || !(values.back() >= 0) ||
      values.back() != std::floor(values.back())) {
    return absl::DataLossError(absl::StrCat(std::string(kLossScale), ": expected ",
                                            kLossScaleValues, " numbers, got ", values.size(),
                                            " or one that is none"));
  }
  RETURN_IF_ERROR(scaler_->Read(values.first(LossScaler::kValues)));
  state_.skipped = static_cast<int64_t>(values.back());
  return absl::OkStatus();
}

}  // namespace dsrun::worker
