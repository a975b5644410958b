#include "worker/api/spec_of_config.h"

#include <cstdint>
#include <map>
#include <string>

#include "common/base/cpu_isa.h"
#include "common/base/status_macros.h"
#include "common/model/model_spec_proto.h"
#include "common/plan/optimizer_settings.h"
#include "common/plan/shard_plan.h"
#include "common/schedule/lr_schedule.h"

namespace dsrun {
namespace {

int64_t WarmupOf(const Config& config) {
  return config.lr_warmup_iters < 0 ? config.train_iters / 10 : config.lr_warmup_iters;
}

// What the fields say already, of whatever the schedule has.
absl::StatusOr<LrSchedule> ScheduleOf(const Config& config) {
  std::map<std::string, double> params = config.lr_schedule_params;
  const ScheduleForm* const form = FindScheduleForm(config.lr_schedule);
  const auto steps = static_cast<double>(config.train_iters);
  const std::map<std::string, double> said = {{"lr", config.lr},
                                              {"min_lr", config.min_lr},
                                              {"warmup", static_cast<double>(WarmupOf(config))},
                                              {"steps", steps},
                                              {"total_num_steps", steps},
                                              {"warmup_max_lr", config.lr}};
  for (const auto& [key, value] : said) {
    if (form != nullptr && FindScheduleParam(*form, key) != nullptr) params.emplace(key, value);
  }
  return LrSchedule::Create(config.lr_schedule, params);
}

void SetOptimizer(const Config& config, proto::TrainSpec& spec) {
  const OptimizerForm& form = *FindOptimizer(config.optimizer);
  proto::OptimizerSpec& optimizer = *spec.mutable_optimizer();
  optimizer.set_name(config.optimizer);
  for (const OptimizerParam& param : form.params) {
    const auto given = config.optimizer_params.find(std::string(param.key));
    (*optimizer.mutable_params())[std::string(param.key)] =
        given == config.optimizer_params.end() ? param.fallback : given->second;
  }
  spec.set_weight_decay(config.weight_decay < 0 ? form.weight_decay : config.weight_decay);
}

int64_t BucketBytes(const Config& config, const ModelPlan& model) {
  if (config.bucket_bytes > 0) return config.bucket_bytes;
  int64_t parameters = 0;
  for (const LogicalTensor& tensor : model.tensors) parameters += tensor.size();
  return DefaultBucketBytes(parameters);
}

}  // namespace

absl::StatusOr<proto::TrainSpec> SpecOfConfig(const Config& config, const ModelPlan& model,
                                              int processors) {
  RETURN_IF_ERROR(config.Check());
  const absl::StatusOr<LrSchedule> schedule = ScheduleOf(config);
  RETURN_IF_ERROR(schedule.status()) << "--lr-schedule";
  proto::TrainSpec spec;
  ToProto(model.spec, spec.mutable_model());
  spec.set_global_batch_size(config.global_batch_size);
  spec.set_micro_batch_size(config.micro_batch_size);
  spec.set_micro_batches_per_atom(config.micro_batches_per_atom);
  spec.set_train_iters(config.train_iters);
  spec.set_seed(config.seed);
  spec.set_lr(config.lr);
  spec.set_min_lr(config.min_lr);
  spec.set_lr_warmup_iters(WarmupOf(config));
  spec.mutable_lr_schedule()->set_name(schedule->name());
  for (const auto& [key, value] : schedule->params()) {
    (*spec.mutable_lr_schedule()->mutable_params())[key] = value;
  }
  SetOptimizer(config, spec);
  spec.set_clip_grad(config.clip_grad);
  spec.set_hidden_dropout(config.hidden_dropout);
  spec.set_attention_dropout(config.attention_dropout);
  spec.set_sums(config.sums);
  spec.set_precision(config.precision);
  spec.set_bucket_bytes(BucketBytes(config, model));
  spec.set_threads_per_rank(static_cast<int32_t>(
      config.threads_per_rank > 0 ? config.threads_per_rank : std::max(1, processors)));
  spec.set_overlap_comm(config.overlap);
  spec.set_shared_memory(config.shared_memory);
  spec.set_device("cpu");
  spec.set_isa_cap(config.isa_cap.empty() ? IsaName(BestIsa()) : config.isa_cap);
  spec.set_check_collectives(config.check_collectives);
  spec.set_accept_fingerprint(config.accept_fingerprint);
  spec.set_zero_stage(static_cast<int32_t>(config.zero_stage));
  if (config.zero3_prefetch >= 0) spec.mutable_zero()->set_prefetch(config.zero3_prefetch);
  if (config.zero3_persistence_threshold >= 0) {
    spec.mutable_zero()->set_persistence_threshold(config.zero3_persistence_threshold);
  }
  spec.set_keep_last(config.keep_last);
  spec.set_keep_every(config.keep_every);
  return spec;
}

}  // namespace dsrun
