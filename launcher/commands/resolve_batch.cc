// The batch of a training and the ranks' shares of it.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "common/base/counted.h"
#include "common/config/batch_size.h"
#include "common/config/elastic_batch.h"
#include "common/numerics/fingerprint.h"
#include "common/plan/batch_plan.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;

class BatchResolver {
 public:
  BatchResolver(ResolveContext& context, const PresetDefaults& preset, const Manifest* manifest)
      : c_(context),
        v_(context.values),
        train_(*context.resolved.job.mutable_train()),
        width_(static_cast<int64_t>(context.resolved.ranks.size())),
        preset_(preset),
        loaded_(manifest == nullptr ? nullptr : &manifest->facts) {}

  bool Resolve() {
    BatchRequest request;
    request.global_batch = v_.Int("global-batch-size", 1, kMaxSize);
    request.micro_batch = v_.Int("micro-batch-size", 1, kMaxSize);
    request.accumulation = v_.Int("gradient-accumulation-steps", 1, kMaxSize);
    const auto per_atom = v_.Int("micro-batches-per-atom", 1, kMaxSize);
    if (width_ == 0 || (v_.Has("global-batch-size") && !request.global_batch.has_value()) ||
        (v_.Has("micro-batch-size") && !request.micro_batch.has_value()) ||
        (v_.Has("gradient-accumulation-steps") && !request.accumulation.has_value()) ||
        (v_.Has("micro-batches-per-atom") && !per_atom.has_value())) {
      return false;  // there is a finding
    }
    request.world_size = width_;
    request.default_global_batch = preset_.global_batch_size;
    request.default_micro_batch = preset_.micro_batch_size;
    if (loaded_ != nullptr) {  // what is not said is the checkpoint's
      request.default_global_batch = loaded_->batch.global_batch_size;
      request.default_micro_batch = loaded_->batch.micro_batch_size;
    }
    if (c_.line.elastic.has_value() && !Elastic(request)) return false;
    const auto sizes = ResolveBatch(request, c_.findings);
    if (!sizes.has_value()) return false;
    int64_t resolved_per_atom = 1;
    if (loaded_ != nullptr) {
      // As far as another batch, if one is asked for, allows.
      resolved_per_atom = std::clamp<int64_t>(loaded_->fingerprint.micro_batches_per_atom, 1,
                                              sizes->micro_batches());
    }
    resolved_per_atom = per_atom.value_or(resolved_per_atom);
    const absl::Status valid = ValidateBatchPlan(sizes->micro_batches(), resolved_per_atom, width_);
    if (!valid.ok()) {
      const bool too_wide = width_ > sizes->micro_batches();
      Error(resolved_per_atom > 1 && !too_wide ? "--micro-batches-per-atom" : "--global-batch-size",
            std::string(valid.message()));
      return false;
    }
    NoteShares(request, *sizes, BatchPlan(sizes->micro_batches(), resolved_per_atom, width_));
    train_.set_global_batch_size(sizes->global_batch);
    train_.set_micro_batch_size(sizes->micro_batch);
    train_.set_micro_batches_per_atom(resolved_per_atom);
    const bool fast = loaded_ != nullptr && loaded_->fingerprint.sums == kFastSums;
    train_.set_sums(v_.OneOf("sums", {"exact", "fast"})
                        .value_or(std::string(fast ? kSumsFastFlag : kSumsExactFlag)));
    return true;
  }

 private:
  // The batch of the "elasticity" block, at this width. False: there is a finding.
  bool Elastic(BatchRequest& request) {
    for (const char* const flag :
         {"global-batch-size", "micro-batch-size", "gradient-accumulation-steps"}) {
      if (!v_.Has(flag)) continue;
      Error(std::string("--") + flag,
            "elasticity of the JSON says the batch; leave one of them out");
      return false;
    }
    ElasticRequest elastic = *c_.line.elastic;
    elastic.world_size = width_;
    const absl::StatusOr<ElasticBatch> batch = ResolveElasticBatch(elastic);
    if (!batch.ok()) {
      Error("--deepspeed_config", "elasticity: " + std::string(batch.status().message()));
      return false;
    }
    request.global_batch = batch->global_batch;
    request.micro_batch = batch->micro_batch;
    return true;
  }

  // What follows from the numbers that were given and may not be expected: another micro-batch,
  // ranks that wait for others.
  void NoteShares(const BatchRequest& request, const BatchSizes& sizes, const BatchPlan& plan) {
    if (!request.micro_batch.has_value() && !request.accumulation.has_value() &&
        sizes.micro_batch != request.default_micro_batch) {
      c_.Note(
          "a global batch of " + std::to_string(sizes.global_batch) +
          " is no whole number of micro-batches of " + std::to_string(request.default_micro_batch) +
          (loaded_ != nullptr ? " (the checkpoint's)" : " (the preset's)") + ": micro-batches of " +
          std::to_string(sizes.micro_batch) + " are used; --micro-batch-size chooses another");
    }
    std::string shares;  // "3 for ranks 0 to 1, 2 for rank 2"
    for (int64_t first = 0, rank = 0; rank < width_; ++rank) {
      const int64_t share = plan.RankMicroBatches(rank).size();
      if (rank + 1 < width_ && plan.RankMicroBatches(rank + 1).size() == share) continue;
      if (first == 0 && rank + 1 == width_) return;  // all alike
      shares += (shares.empty() ? "" : ", ") + std::to_string(share) +
                (first == rank ? " for rank " : " for ranks " + std::to_string(first) + " to ") +
                std::to_string(rank);
      first = rank + 1;
    }
    c_.Note(Counted(plan.micro_batches(), "micro-batch") +
            " a step do not share out evenly: " + shares);
  }

  void Error(const std::string& flag, const std::string& text) { c_.findings.AddFlag(flag, text); }

  ResolveContext& c_;
  FlagValues& v_;
  proto::TrainSpec& train_;
  const int64_t width_;
  const PresetDefaults& preset_;
  const ManifestFacts* const loaded_;
};

}  // namespace

bool ResolveBatchOfJob(ResolveContext& context, const PresetDefaults& preset,
                       const Manifest* manifest) {
  return BatchResolver(context, preset, manifest).Resolve();
}

}  // namespace dsrun::launcher
