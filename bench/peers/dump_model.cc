// What the engine computes of a small model, written down for bench/peers/compare_transformers.py:
// logits of every position, the gradient that the optimizer is given, and loss, norm and parameters
// of every step. All of it is the engine's own: BuildEngine, the trainer on one rank, its store.
//
//   dump_model JOB.json WEIGHTS.safetensors SAMPLES.safetensors OUT.safetensors
//
//   JOB.json   a TrainSpec (proto/job.proto) in the JSON of Protocol Buffers, with AdamW;
//              train_iters steps are taken
//   WEIGHTS    every tensor of the model, by the model's names, F32
//   SAMPLES    "tokens" and "targets", I32, (samples, seq_length); a target below 0 is masked. Step
//              i, from 0, takes global_batch_size of them from i global_batch_size on
//   OUT        "logits", F32 (global_batch_size, seq_length, vocab_size), before the first step;
//              "gradient/NAME", F32, of the mean loss of the first step, after clipping, as the
//              first moment says it; "loss" and "grad_norm", F64 (steps); "NAME@STEP", F32, the
//              parameters after STEP steps, from 1

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/cpu_isa.h"
#include "common/base/file_system.h"
#include "common/base/range.h"
#include "common/base/status_macros.h"
#include "common/format/safetensors.h"
#include "common/model/model_plan.h"
#include "common/plan/gather_plan.h"
#include "common/plan/shard_plan.h"
#include "proto/job.pb.h"
#include "worker/comm/in_process/in_process_communicator.h"
#include "worker/data/sample_values.h"
#include "worker/engine/engine_factory.h"
#include "worker/engine/trace.h"
#include "worker/engine/trainer.h"
#include "worker/model/model.h"

namespace dsrun::worker {
namespace {

// Safetensors files whose elements have four bytes, in memory.
class Tensors {
 public:
  static absl::StatusOr<Tensors> Read(const std::string& path) {
    ASSIGN_OR_RETURN(const std::string bytes, ReadFile(FileSystem::Real(), path));
    const auto size = static_cast<int64_t>(bytes.size());
    const absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(bytes, size);
    RETURN_IF_ERROR(header.status()) << path;
    Tensors tensors;
    tensors.path_ = path;
    for (const SafetensorsEntry& entry : header->entries) {
      tensors.bytes_[entry.name] = {
          entry.dtype, bytes.substr(static_cast<size_t>(header->data_start + entry.begin),
                                    static_cast<size_t>(entry.end - entry.begin))};
    }
    return tensors;
  }

  template <typename T>
  absl::StatusOr<std::vector<T>> Get(const std::string& name, const std::string& dtype) const {
    static_assert(sizeof(T) == 4);
    const auto found = bytes_.find(name);
    if (found == bytes_.end() || found->second.first != dtype) {
      return absl::NotFoundError(absl::StrCat(path_, ": expected ", name, " of ", dtype));
    }
    std::vector<T> values(found->second.second.size() / sizeof(T));
    std::memcpy(values.data(), found->second.second.data(), found->second.second.size());
    return values;
  }

 private:
  std::string path_;
  std::map<std::string, std::pair<std::string, std::string>> bytes_;  // by name: type, data
};

// A safetensors file of F32 and F64 that grows.
class Output {
 public:
  template <typename T>
  void Add(const std::string& name, const std::vector<int64_t>& shape, std::span<const T> values) {
    const auto begin = static_cast<int64_t>(data_.size());
    data_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
    header_.entries.push_back({.name = name,
                               .dtype = sizeof(T) == 4 ? "F32" : "F64",
                               .shape = shape,
                               .begin = begin,
                               .end = static_cast<int64_t>(data_.size())});
  }
  absl::Status Write(const std::string& path) const {
    return WriteAndSync(FileSystem::Real(), path, EncodeSafetensorsHeader(header_) + data_);
  }

 private:
  SafetensorsHeader header_;
  std::string data_;
};

struct Samples {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
};

absl::StatusOr<proto::TrainSpec> ReadJob(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(FileSystem::Real(), path));
  proto::TrainSpec spec;
  const auto parsed = google::protobuf::util::JsonStringToMessage(text, &spec);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", parsed.ToString()));
  }
  spec.set_device("cpu");
  spec.set_isa_cap(IsaName(BestLibraryIsa()));
  spec.set_threads_per_rank(1);
  spec.set_bucket_bytes(64 << 10);
  return spec;
}

absl::StatusOr<Samples> ReadSamples(const std::string& path, const proto::TrainSpec& spec) {
  ASSIGN_OR_RETURN(const Tensors tensors, Tensors::Read(path));
  Samples samples;
  ASSIGN_OR_RETURN(samples.tokens, tensors.Get<int32_t>("tokens", "I32"));
  ASSIGN_OR_RETURN(samples.targets, tensors.Get<int32_t>("targets", "I32"));
  const auto expected = static_cast<size_t>(spec.train_iters() * spec.global_batch_size() *
                                            spec.model().seq_length());
  if (samples.tokens.size() != expected || samples.targets.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected ", expected, " tokens, got ",
                                                   samples.tokens.size(), ", and ",
                                                   samples.targets.size(), " targets"));
  }
  return samples;
}

absl::Status CheckSamples(const Samples& samples, const ModelPlan& plan) {
  const auto length = static_cast<size_t>(plan.spec.seq_length);
  for (size_t at = 0; at < samples.tokens.size(); at += length) {
    RETURN_IF_ERROR(CheckSample(plan, {samples.tokens.data() + at, length},
                                {samples.targets.data() + at, length}))
        << "sample " << at / length;
  }
  return absl::OkStatus();
}

absl::Status LoadWeights(const Tensors& weights, Trainer& trainer) {
  {
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access, trainer.OpenState());
    for (const FlatLayout::Entry& entry : trainer.layout().entries()) {
      ASSIGN_OR_RETURN(const std::vector<float> values,
                       weights.Get<float>(entry.tensor.name, "F32"));
      if (static_cast<int64_t>(values.size()) != entry.tensor.size()) {
        return absl::InvalidArgumentError(absl::StrCat(entry.tensor.name, ": expected ",
                                                       entry.tensor.size(), " elements, got ",
                                                       values.size()));
      }
      std::copy(values.begin(), values.end(), trainer.state().parameters + entry.offset);
    }
  }
  trainer.ParametersChanged();
  return trainer.Settle();
}

absl::Status AddLogits(const proto::TrainSpec& spec, const Samples& samples, Model& model,
                       Trainer& trainer, Output& out) {
  const int64_t rows = spec.micro_batch_size() * spec.model().seq_length();
  const int64_t all = spec.global_batch_size() * spec.model().seq_length();
  const int64_t vocabulary = spec.model().vocab_size();
  std::vector<float> logits(static_cast<size_t>(all * vocabulary));
  for (int64_t row = 0; row < all; row += rows) {
    trainer.parameters().BeginPass(PassKind::kForwardOnly);
    RETURN_IF_ERROR(model.Forward(0, samples.tokens.data() + row, samples.targets.data() + row,
                                  trainer.parameters()));
    RETURN_IF_ERROR(model.Outputs(0, trainer.parameters(), logits.data() + row * vocabulary));
  }
  out.Add<float>("logits", {spec.global_batch_size(), spec.model().seq_length(), vocabulary},
                 logits);
  return absl::OkStatus();
}

// The first moment of the first step is (1 - beta1) times the gradient. The rank owns everything,
// in ranges whose moments stand one after the other.
void AddGradients(double beta1, const Trainer& trainer, Output& out) {
  std::vector<float> gradients(static_cast<size_t>(trainer.layout().size()));
  const float* from = trainer.state().slots[0];
  for (const Range& range : trainer.owned_with_slot(0)) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      gradients[static_cast<size_t>(i)] = static_cast<float>(*from++ / (1 - beta1));
    }
  }
  for (const FlatLayout::Entry& entry : trainer.layout().entries()) {
    out.Add<float>("gradient/" + entry.tensor.name, entry.tensor.shape,
                   {gradients.data() + entry.offset, static_cast<size_t>(entry.tensor.size())});
  }
}

absl::Status TakeSteps(const proto::TrainSpec& spec, Trainer& trainer, Output& out) {
  std::vector<double> losses;
  std::vector<double> norms;
  for (int64_t step = 1; step <= spec.train_iters(); ++step) {
    ASSIGN_OR_RETURN(const StepResult result, trainer.TrainStep(/*stop_requested=*/false));
    RETURN_IF_ERROR(trainer.Settle());
    if (result.skipped) return absl::OutOfRangeError(absl::StrCat("a step with ", result.note));
    losses.push_back(result.loss);
    norms.push_back(result.grad_norm);
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access, trainer.OpenState());
    if (step == 1) AddGradients(spec.adam_beta1(), trainer, out);
    for (const FlatLayout::Entry& entry : trainer.layout().entries()) {
      out.Add<float>(
          absl::StrCat(entry.tensor.name, "@", step), entry.tensor.shape,
          {trainer.state().parameters + entry.offset, static_cast<size_t>(entry.tensor.size())});
    }
  }
  out.Add<double>("loss", {spec.train_iters()}, losses);
  out.Add<double>("grad_norm", {spec.train_iters()}, norms);
  return absl::OkStatus();
}

absl::Status Dump(const std::string& job, const std::string& weights_path,
                  const std::string& samples_path, const std::string& out_path) {
  ASSIGN_OR_RETURN(const proto::TrainSpec spec, ReadJob(job));
  ASSIGN_OR_RETURN(const Samples samples, ReadSamples(samples_path, spec));
  ASSIGN_OR_RETURN(const Tensors weights, Tensors::Read(weights_path));
  RETURN_IF_ERROR(CapLibraryOnce(spec.isa_cap()));
  ASSIGN_OR_RETURN(const Engine engine, BuildEngine(spec));
  RETURN_IF_ERROR(CheckSamples(samples, engine.model->plan()));
  const auto group = CreateInProcessGroup(1, {});
  Trace trace(/*enabled=*/false, /*rank=*/0);
  Trainer::Setup setup;
  setup.spec = &spec;
  setup.communicator = group.front().get();
  setup.device = engine.device.get();
  setup.model = engine.model.get();
  setup.kernels = engine.kernels.get();
  setup.comm_kernels = engine.comm_kernels.get();
  setup.sample = [&](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
    const int64_t at = index * spec.model().seq_length();
    std::copy_n(samples.tokens.data() + at, tokens.size(), tokens.data());
    std::copy_n(samples.targets.data() + at, targets.size(), targets.data());
  };
  setup.cancelled = [] { return false; };
  setup.trace = &trace;
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(setup));
  RETURN_IF_ERROR(LoadWeights(weights, *trainer));
  Output out;
  RETURN_IF_ERROR(AddLogits(spec, samples, *engine.model, *trainer, out));
  RETURN_IF_ERROR(TakeSteps(spec, *trainer, out));
  return out.Write(out_path);
}

}  // namespace
}  // namespace dsrun::worker

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "dump_model: expected JOB.json WEIGHTS SAMPLES OUT, got %d arguments\n",
                 argc - 1);
    return 2;
  }
  const absl::Status status = dsrun::worker::Dump(argv[1], argv[2], argv[3], argv[4]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "dump_model: %s\n", status.ToString().c_str());
  return 1;
}
