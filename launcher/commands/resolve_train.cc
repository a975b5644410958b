// The job of our own engine: model, text, batch, optimizer, checkpoints.

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/differences.h"
#include "common/base/file_system.h"
#include "common/base/patience.h"
#include "common/config/nearest.h"
#include "common/corpus/corpus_files.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/frozen_in.h"
#include "common/format/model_tensors.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/shard_plan.h"
#include "common/rpc/loopback.h"
#include "launcher/commands/checkpoint_differences.h"
#include "launcher/commands/checkpoint_place.h"
#include "launcher/commands/checkpoint_tags.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;

// A person waits.
constexpr Patience::Limits kReadPatience = {
    .first = absl::Milliseconds(100), .most = absl::Seconds(1), .total = absl::Seconds(5)};

class TrainResolver {
 public:
  explicit TrainResolver(ResolveContext& context)
      : c_(context),
        v_(context.values),
        train_(*context.resolved.job.mutable_train()),
        width_(static_cast<int64_t>(context.resolved.ranks.size())) {}

  // What bytes of memory depend on, alone.
  bool ResolvePlanned() {
    Model();
    batch_ok_ = ResolveBatchOfJob(c_, preset_, nullptr);
    ResolvePrecision(c_, nullptr);
    ResolveDropout(c_, nullptr);
    Optimizer();
    PlannedEngine();
    if (!model_ok_ || !batch_ok_) return false;
    ResolveRecompute(c_, model_);
    return true;
  }

  void Resolve() {
    FindCheckpoint();
    Model();
    Data();
    const Manifest* const manifest = checkpoint_.has_value() ? &checkpoint_->manifest() : nullptr;
    batch_ok_ = ResolveBatchOfJob(c_, preset_, manifest);
    ResolvePrecision(c_, manifest);
    ResolveDropout(c_, manifest);
    Optimizer();
    Folders();
    Engine();
    CompareCheckpoint();
    if (model_ok_ && batch_ok_) ResolveRecompute(c_, model_);
    if (model_ok_ && batch_ok_) CheckMemory(c_);
  }

 private:
  void FindCheckpoint();
  void CompareCheckpoint();
  void NoteOtherFrozen(const Manifest& manifest);
  std::string HashOfText();
  void Model();
  void FamilyShape(const ModelSpec& unshaped);
  void RopeScaling();
  bool HeadsDivideTheWidth();
  void Data();
  void Optimizer();
  void Folders();
  void CheckSaveFolder(bool given);
  // Absent stays absent: the engine's default.
  void ZeroStage();
  void PlannedEngine();
  void Engine();
  std::string IsaCap();
  void Device();
  int64_t LocalRanks() const;
  void Error(const std::string& flag, const std::string& text) { c_.findings.AddFlag(flag, text); }
  const ManifestFacts* loaded() const {
    return checkpoint_.has_value() ? &checkpoint_->manifest().facts : nullptr;
  }

  ResolveContext& c_;
  FlagValues& v_;
  proto::TrainSpec& train_;
  const int64_t width_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<CorpusFile> corpus_;  // empty: there is a finding
  ModelSpec model_;
  PresetDefaults preset_{32, 4, 2e-3};
  bool model_ok_ = false;
  bool batch_ok_ = false;
};

// What --load goes on from: the newest checkpoint of which every byte is right, or that of
// --load-step.
void TrainResolver::FindCheckpoint() {
  train_.set_allow_rewind(v_.Switch("allow-rewind"));
  const auto folder = LoadFolder(c_);
  if (!folder.has_value()) return;
  train_.set_load_dir(*folder);
  FindOptions options;
  if (v_.Has("load-step")) {
    options.step = v_.Int("load-step", 0, kMaxSize);
    if (!options.step.has_value()) return;  // there is a finding
    train_.set_load_step(*options.step);
  }
  Patience patience(
      Clock::Real(), [](absl::Duration wait) { return SleepUnless(wait, nullptr); }, kReadPatience);
  options.patience = &patience;
  options.pass_unreadable = train_.allow_rewind();
  std::vector<std::string> rejected;
  auto found = FindNewestCheckpoint(FileSystem::Real(), *folder, options, &rejected);
  if (!found.ok()) {
    std::string text(found.status().message());
    if (const auto steps = StepsIn(FileSystem::Real(), *folder);
        options.step.has_value() && absl::IsNotFound(found.status()) && steps.ok()) {
      text += "; the steps that are there: " + *steps;
    }
    if (!absl::IsNotFound(found.status()) && !absl::IsFailedPrecondition(found.status())) {
      text +=
          "; so it cannot be told which checkpoint is the newest: make it readable, or give "
          "--allow-rewind to go on from the newest that can be read";
    }
    Error(options.step.has_value() ? "--load-step" : "--load", text);
    return;
  }
  for (const std::string& line : rejected) c_.Note("not used: " + line);
  // It is whole: no older one is taken for it, and no rank could begin with it.
  if (const absl::Status contents = CheckModelTensors(found->manifest()); !contents.ok()) {
    Error(options.step.has_value() ? "--load-step" : "--load",
          *folder + "/" + found->manifest_name() + ": " + std::string(contents.message()) +
              "; name another step with --load-step, or move this manifest out of the folder");
    return;
  }
  checkpoint_ = *std::move(found);
  // The ranks load what was compared here, also if their view of the folder is older or newer.
  train_.set_load_step(loaded()->key.step.value());
  c_.Note("goes on from step " + std::to_string(loaded()->counters.optimizer_steps) + " of " +
          *folder + "/" + checkpoint_->manifest_name());
}

void TrainResolver::Model() {
  const std::string name = v_.Text("model").value_or(PresetNames().front());
  const auto spec = FindPreset(name);
  const auto defaults = FindPresetDefaults(name);
  if (spec.ok() && defaults.ok()) {
    model_ = *spec;
    preset_ = *defaults;
  } else {
    Error("--model", std::string(spec.status().message()) + DidYouMean(name, PresetNames()));
  }
  // A checkpoint knows its model: nobody has to repeat it, and what is said besides is compared.
  if (loaded() != nullptr && !v_.Has("model")) model_ = loaded()->model;
  const ModelSpec unshaped = model_;
  model_.num_layers = v_.Int("num-layers", 1, 100000).value_or(model_.num_layers);
  model_.hidden_size = v_.Int("hidden-size", 1, 1000000).value_or(model_.hidden_size);
  model_.num_attention_heads =
      v_.Int("num-attention-heads", 1, 100000).value_or(model_.num_attention_heads);
  model_.seq_length = v_.Int("seq-length", 1, 10000000).value_or(model_.seq_length);
  FamilyShape(unshaped);
  if (spec.ok()) {
    if (!(model_ == unshaped)) model_.preset = "custom";
    // Those of a checkpoint were never looked at.
    model_ok_ =
        model_.num_attention_heads < 1 || model_.head_channels != 0 || HeadsDivideTheWidth();
    const absl::Status valid = model_ok_ ? Validate(model_) : absl::OkStatus();
    if (!valid.ok()) Error("--model", std::string(valid.message()));
    model_ok_ = model_ok_ && valid.ok();
  }
  ToProto(model_, train_.mutable_model());
  if (model_ok_) ResolveFreeze(c_, model_);
}

// What only some families have; Validate refuses it for the others.
void TrainResolver::FamilyShape(const ModelSpec& unshaped) {
  const auto size = [&](const char* flag, int64_t least, int64_t* value) {
    if (const auto given = v_.Int(flag, least, 10'000'000)) *value = *given;
  };
  const auto on = [&](const char* flag, bool* value) { *value = *value || v_.Switch(flag); };
  if (model_.hidden_size != unshaped.hidden_size && model_.ffn_hidden_size > 0) {
    model_.ffn_hidden_size = (8 * model_.hidden_size / 3 + 63) / 64 * 64;
  }
  size("num-query-groups", 1, &model_.query_groups);
  size("kv-channels", 1, &model_.head_channels);
  size("ffn-hidden-size", 1, &model_.ffn_hidden_size);
  size("window-size", 0, &model_.window);
  model_.norm_epsilon = v_.Real("norm-epsilon", 0, 1).value_or(model_.norm_epsilon);
  model_.rope_base = v_.Real("rotary-base", 1).value_or(model_.rope_base);
  on("untie-embeddings-and-output-weights", &model_.untied_output);
  on("add-qkv-bias", &model_.qkv_bias);
  on("qk-layernorm", &model_.qk_norm);
  RopeScaling();
  model_ = Canonical(model_);
}

void TrainResolver::RopeScaling() {
  const auto kind = v_.OneOf("rope-scaling", {"none", "linear", "llama3", "yarn"});
  if (kind.has_value() && *kind != model_.rope_scaling) {
    model_.rope_scaling = *kind == "none" ? "" : *kind;
    const bool by_turns = *kind == "llama3" || *kind == "yarn";
    model_.rope_low_turns = by_turns ? 1 : 0;
    model_.rope_high_turns = *kind == "llama3" ? 4 : *kind == "yarn" ? 32 : 0;
    model_.rope_magnitude = 0;
    if (*kind == "none") model_.rope_factor = 0;
    if (!by_turns) model_.rope_original_length = 0;
  }
  model_.rope_factor = v_.Real("rope-scaling-factor", 0).value_or(model_.rope_factor);
  model_.rope_original_length =
      v_.Int("rope-original-length", 1, 10'000'000).value_or(model_.rope_original_length);
}

// The finding names the flag that was given, and the nearest values that fit.
bool TrainResolver::HeadsDivideTheWidth() {
  const int64_t width = model_.hidden_size;
  const int64_t heads = model_.num_attention_heads;
  if (width % heads == 0) return true;
  if (v_.Has("hidden-size")) {
    const int64_t below = width / heads * heads;
    Error("--hidden-size",
          "expected a multiple of " + std::to_string(heads) + " (the attention heads), got " +
              std::to_string(width) + "; nearest that " +
              (below > 0 ? "fit: " + std::to_string(below) + " or " : std::string("fits: ")) +
              std::to_string(below + heads));
    return false;
  }
  int64_t below = std::min(heads, width);
  while (width % below != 0) --below;
  int64_t above = heads + 1;
  while (above < width && width % above != 0) ++above;
  Error("--num-attention-heads", "expected heads that divide the width " + std::to_string(width) +
                                     ", got " + std::to_string(heads) +
                                     "; nearest that do: " + std::to_string(below) +
                                     (above <= width ? " or " + std::to_string(above) : ""));
  return false;
}

void TrainResolver::Data() {
  std::vector<std::string> paths;
  for (const std::string& path : v_.Texts("data")) {
    if (path.empty()) {
      Error("--data", "expected a file or folder of text, got an empty name");
      return;
    }
    paths.push_back(c_.Absolute(path));
    train_.add_data_paths(paths.back());
  }
  if (paths.empty()) {
    Error("--data",
          "is missing: name a file or folder of text to train on, such as "
          "--data /usr/share/common-licenses");
    return;
  }
  auto files = ListCorpus(paths);
  if (!files.ok()) {
    Error("--data", std::string(files.status().message()));
    return;
  }
  corpus_ = *std::move(files);
  for (const CorpusFile& file : corpus_) c_.resolved.corpus_bytes += file.bytes;
  c_.resolved.corpus_files = static_cast<int64_t>(corpus_.size());
  const int64_t needed = model_.seq_length + 1;
  if (model_ok_ && c_.resolved.corpus_bytes < needed) {
    Error("--data", "expected at least " + Counted(needed, "byte") + " of text (seq-length " +
                        std::to_string(model_.seq_length) + " and one to predict), got " +
                        std::to_string(c_.resolved.corpus_bytes) +
                        "; add text or make --seq-length smaller");
  }
}

void TrainResolver::Optimizer() {
  const int64_t iters = v_.Int("train-iters", 1, kMaxSize).value_or(300);
  train_.set_train_iters(iters);
  ResolveSchedule(c_, preset_.lr);
  ResolveOptimizer(c_, model_ok_ ? &model_ : nullptr,
                   checkpoint_.has_value() ? &checkpoint_->manifest() : nullptr);
  train_.set_clip_grad(v_.Real("clip-grad", 0, 1e12).value_or(1.0));
  const int64_t seed = loaded() != nullptr ? static_cast<int64_t>(loaded()->batch.seed) : 1234;
  train_.set_seed(static_cast<uint64_t>(v_.Int("seed", 0).value_or(seed)));
}

void TrainResolver::Folders() {
  const auto save = v_.Text("save");
  train_.set_save_dir(c_.Absolute(save.value_or(c_.resolved.job.run_dir() + "/checkpoints")));
  CheckSaveFolder(save.has_value());
  if (loaded() != nullptr) NoteNewerInSaveFolder(c_, loaded()->key.step.value());
  train_.set_save_interval(v_.Int("save-interval", 0, kMaxSize).value_or(50));
  ResolveRetention(c_);
  train_.set_log_interval(v_.Int("log-interval", 1, kMaxSize).value_or(10));
  const auto file = [&](const char* flag) -> std::string {
    const auto path = v_.Text(flag);
    if (!path.has_value()) return "";
    const std::string absolute = c_.Absolute(*path);
    std::error_code error;
    const std::filesystem::path folder = std::filesystem::path(absolute).parent_path();
    if (path->empty() || std::filesystem::is_directory(absolute, error)) {
      Error(std::string("--") + flag,
            "expected a file, got " +
                (path->empty() ? "an empty name" : "the folder " + Quoted(*path)));
    } else if (const bool there = std::filesystem::is_directory(folder, error);
               !there && error && error != std::errc::no_such_file_or_directory) {
      Error(std::string("--") + flag, "cannot look at its folder " + folder.string() + ": " +
                                          error.message() + "; choose another file");
    } else if (!there) {
      Error(std::string("--") + flag, "there is no folder " + folder.string() + "; make it first");
    }
    return absolute;
  };
  train_.set_metrics_path(v_.Has("metrics") ? file("metrics")
                                            : c_.resolved.job.run_dir() + "/metrics.jsonl");
  train_.set_trace_path(file("trace"));
  CheckOutputFiles(c_, corpus_);
  CheckOutputsAreNoText(c_, corpus_);
  train_.set_prompt(v_.Text("prompt").value_or(""));
  train_.set_sample_tokens(v_.Int("sample-tokens", 0, 1000000).value_or(200));
}

// Two runs in one folder would take one another's checkpoints for their own.
void TrainResolver::CheckSaveFolder(bool given) {
  if (!given || v_.Has("load")) return;
  const auto manifests = ListManifests(FileSystem::Real(), train_.save_dir());
  if (!manifests.ok() && !absl::IsNotFound(manifests.status())) {
    Error("--save", "it cannot be told whether there are checkpoints of another job: " +
                        std::string(manifests.status().message()) +
                        "; make it readable, or choose another folder");
    return;
  }
  if (!manifests.ok() || manifests->empty()) return;
  const auto newest =
      OpenCheckpoint(FileSystem::Real(), train_.save_dir(), manifests->front(), Verify::kSizes);
  const std::string whose =
      newest.ok() ? "job " + newest->manifest().facts.job_id + " up to step " +
                        std::to_string(newest->manifest().facts.counters.optimizer_steps)
                  : "another job (" + manifests->front() + ")";
  Error("--save", train_.save_dir() + " holds checkpoints of " + whose +
                      "; go on from them with --load " + train_.save_dir() +
                      ", or choose another folder");
}

void TrainResolver::ZeroStage() {
  if (!v_.Has("zero-stage")) return;
  const auto stage = v_.Int("zero-stage", 0, 3);
  if (!stage.has_value()) return;
  train_.set_zero_stage(static_cast<int32_t>(*stage));
}

void TrainResolver::PlannedEngine() {
  const int64_t share = std::max<int64_t>(1, c_.machine.cores / std::max<int64_t>(1, LocalRanks()));
  train_.set_threads_per_rank(
      static_cast<int32_t>(v_.Int("threads-per-rank", 1, 4096).value_or(share)));
  train_.set_bucket_bytes(
      v_.Int("bucket-bytes", 4096, int64_t{1} << 40)
          .value_or(DefaultBucketBytes(model_ok_ ? ParameterCount(model_) : 1)));
  ZeroStage();
  ResolveZero3(c_);
}

void TrainResolver::Engine() {
  Device();
  PlannedEngine();
  train_.set_overlap_comm(v_.OnOff("overlap", true));
  train_.set_shared_memory(v_.OnOff("shared-memory", true));
  train_.set_isa_cap(IsaCap());
  train_.set_accept_fingerprint(v_.Switch("accept-fingerprint"));
  train_.set_check_collectives(
      v_.OneOf("check-collectives", {"start", "always", "off"}).value_or("start"));
  const auto device = v_.Text("device");
  if (!device.has_value() || *device == "auto") {
    c_.Note(std::string(c_.machine.gpus > 0 ? "this build has no GPU engine"
                                            : "no GPU on this machine") +
            ": the CPU engine is used (" + train_.isa_cap() + ", " +
            Counted(train_.threads_per_rank(), "thread") + " a rank)");
  }
}

// What was asked for, else what the checkpoint was trained with, so that its curve goes on; no more
// than this CPU has.
std::string TrainResolver::IsaCap() {
  // The last one has other products of bf16, and of nothing else: others are left what they were.
  const bool bf16 = train_.precision() == "bf16" && !c_.machine.bf16_isa.empty();
  const std::vector<std::string> isas = {"baseline", "avx2", "avx512", "avx512-bf16"};
  const auto rank_of = [&](const std::string& isa) {
    return std::find(isas.begin(), isas.end(), isa) - isas.begin();
  };
  const std::string& here = bf16 ? c_.machine.bf16_isa : c_.machine.isa;
  if (const auto asked = v_.OneOf("isa-cap", isas); asked.has_value()) {
    if (rank_of(*asked) <= rank_of(here)) return *asked;
    c_.Note("--isa-cap " + *asked + ": this CPU has " + here + " at most, which is used");
    return here;
  }
  // One that is not recorded, or not by one of our names, is no less than here.
  const std::string there = loaded() != nullptr ? loaded()->fingerprint.isa : "";
  return rank_of(there) <= rank_of(here) ? there : here;
}

void TrainResolver::Device() {
  const auto device = v_.OneOf("device", {"auto", "cpu", "cuda"});
  if (device == "cuda") {
    Error("--device", "cuda was asked for, but this build has no GPU engine (" +
                          Counted(c_.machine.gpus, "GPU") +
                          " on this machine); use --device cpu or auto");
  }
  train_.set_device("cpu");
}

// Ranks that share this machine's cores and memory.
int64_t TrainResolver::LocalRanks() const {
  int64_t ranks = 0;
  for (const proto::NodeSpec& node : c_.resolved.job.nodes()) {
    if (IsLoopbackAddress(node.address())) ranks += node.slots_size();
  }
  return ranks;
}

// Only a checkpoint that knows its text is worth reading all of ours. Empty: not known.
std::string TrainResolver::HashOfText() {
  if (loaded()->batch.corpus_sha256.empty() || corpus_.empty()) return "";
  const auto hash = CorpusSha256(corpus_);
  if (hash.ok()) return *hash;
  Error("--data", std::string(hash.status().message()));
  return "";
}

// Which tensors are frozen is no part of what must be equal; whoever changes it hears so.
void TrainResolver::NoteOtherFrozen(const Manifest& manifest) {
  const std::set<std::string> frozen(train_.frozen().begin(), train_.frozen().end());
  const std::set<std::string> frozen_then = FrozenIn(manifest);
  int64_t thawed = 0, newly = 0;
  for (const LogicalTensor& tensor : LogicalTensors(model_)) {
    const bool then = frozen_then.contains(tensor.name);
    const bool now = frozen.contains(tensor.name);
    thawed += then && !now ? 1 : 0;
    newly += !then && now ? 1 : 0;
  }
  if (thawed == 0 && newly == 0) return;
  c_.Note("the checkpoint froze other tensors: " + Counted(thawed, "tensor") +
          " begin to train, with moments of zero, and " + Counted(newly, "tensor") +
          " are frozen now, their moments dropped");
}

void TrainResolver::CompareCheckpoint() {
  if (loaded() == nullptr || !model_ok_ || !batch_ok_) return;
  const ManifestFacts& facts = *loaded();
  const std::string name = train_.load_dir() + "/" + checkpoint_->manifest_name();
  const RunDifferences differences = CompareWithCheckpoint(facts, train_, HashOfText());
  const auto table = [](const std::vector<Difference>& list) {
    return DifferenceTable(list, "checkpoint", "this run");
  };
  if (!differences.model.empty()) {
    Error("--load", name + " holds another model:" + table(differences.model) +
                        "\n  leave --model and the sizes out to use the checkpoint's");
    return;
  }
  if (!differences.curve.empty() && train_.accept_fingerprint()) {
    c_.Note("--accept-fingerprint: " + name +
            " goes on with another curve:" + table(differences.curve));
  } else if (!differences.curve.empty()) {
    Error(
        "--load",
        name + " cannot be continued bit for bit:" + table(differences.curve) +
            "\n  give what it has (batch, seed, precision and rates of dropout are taken "
            "from it when they are left out), or --accept-fingerprint to go on with another curve");
  }
  NoteOtherFrozen(checkpoint_->manifest());
  if (facts.counters.optimizer_steps >= train_.train_iters()) {
    Error("--train-iters", "the checkpoint is at step " +
                               std::to_string(facts.counters.optimizer_steps) + " already, got " +
                               std::to_string(train_.train_iters()) + "; ask for more steps");
  }
}

}  // namespace

void ResolveTrain(ResolveContext& context) { TrainResolver(context).Resolve(); }

bool ResolvePlannedTrain(ResolveContext& context) {
  return TrainResolver(context).ResolvePlanned();
}

}  // namespace dsrun::launcher
