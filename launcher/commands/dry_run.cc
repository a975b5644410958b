#include "launcher/commands/dry_run.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/spec_fields.h"
#include "common/numerics/dropout.h"
#include "common/numerics/fingerprint.h"
#include "common/numerics/loss_scaler.h"
#include "common/numerics/precision.h"
#include "common/plan/batch_plan.h"
#include "common/plan/loss_scale_of_spec.h"
#include "common/plan/memory_input.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/traffic_plan.h"
#include "common/plan/zero_stage.h"
#include "common/schedule/lr_schedule.h"
#include "common/schedule/schedule_of_spec.h"
#include "common/topology/rank_environment.h"
#include "common/topology/rank_files.h"
#include "launcher/commands/dry_run_memory.h"
#include "launcher/commands/optimizer_text.h"
#include "launcher/commands/recompute_text.h"
#include "launcher/commands/text_table.h"
#include "nlohmann/json.hpp"

namespace dsrun::launcher {
namespace {

using Variables = std::vector<std::pair<std::string, std::string>>;
using Json = nlohmann::ordered_json;

std::string Short(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

Variables EnvironmentOf(const Resolved& resolved, const Machine& machine, const RankPlace& place) {
  RankEnvironmentInput input;
  input.place = place;
  input.world_size = static_cast<int32_t>(resolved.ranks.size());
  input.master_addr = resolved.job.master_addr();
  input.master_port = resolved.job.master_port();
  input.job_id = resolved.job.job_id();
  input.error_file =
      FilesOfRank(resolved.job.run_dir(), resolved.job.nodes(place.node.value()).host(), place.rank,
                  /*generation=*/1)
          .error;
  input.max_restarts = resolved.job.limits().max_restarts();
  if (machine.gpus > 0 && !resolved.job.has_train()) {
    for (const int32_t slot : resolved.job.nodes(place.node.value()).slots()) {
      input.visible_gpus.push_back(Slot(slot));
    }
  }
  Variables variables = RankEnvironment(input);
  for (auto& [name, value] : variables) {
    if (name == "MASTER_PORT" && input.master_port == 0) value = "picked";  // by rank 0's agent
  }
  return variables;
}

std::string Line(const std::string& name, const std::string& value) {
  std::string out = "  " + name;
  out.resize(std::max<size_t>(out.size() + 1, 16), ' ');
  return out + value + "\n";
}

// ", in 4 atoms of up to 2"; nothing where an atom is a micro-batch and sums are exact.
std::string Atoms(const proto::TrainSpec& t) {
  const std::string sums =
      t.sums() == kSumsFastFlag ? ", fast sums: other bits at every width" : "";
  if (t.micro_batches_per_atom() <= 1) return sums;
  const int64_t micro_batches = t.global_batch_size() / t.micro_batch_size();
  return ", in " + Counted(AtomCount(micro_batches, t.micro_batches_per_atom()), "atom") +
         " of up to " + std::to_string(t.micro_batches_per_atom()) + sums;
}

// "fp16, loss scale 65536 at first"
std::string PrecisionText(const proto::TrainSpec& t) {
  const auto policy = FromProto(t.loss_scale());
  if (t.precision() != "fp16" || !policy.ok()) return t.precision();
  const std::string scale = Short(LossScaler(*policy).scale());
  return t.precision() + ", loss scale " + scale + (policy->fixed_power ? ", fixed" : " at first");
}

// "hidden 0.1, attention 0.1"; empty: nothing is dropped.
std::string DropoutText(const proto::TrainSpec& t) {
  const std::string hidden = DropoutWord(t.hidden_dropout());
  const std::string attention = DropoutWord(t.attention_dropout());
  return (hidden.empty() ? "" : "hidden " + hidden) +
         (hidden.empty() || attention.empty() ? "" : ", ") +
         (attention.empty() ? "" : "attention " + attention);
}

// "lr 0.002 to 0 after 30 of warm-up", or what another schedule than ours gives at some steps.
std::string ScheduleText(const proto::TrainSpec& t) {
  if (!t.has_lr_schedule() || t.lr_schedule().name() == "linear") {
    return "lr " + Short(t.lr()) + " to " + Short(t.min_lr()) + " after " +
           std::to_string(t.lr_warmup_iters()) + " of warm-up";
  }
  const auto schedule = ScheduleOfSpec(t);
  if (!schedule.ok()) return t.lr_schedule().name();
  std::string out = "lr by " + schedule->name();
  int64_t shown = 0;
  for (const int64_t tenths : {0, 1, 2, 5, 10}) {
    const int64_t step = std::max<int64_t>(1, t.train_iters() * tenths / 10);
    if (step == shown) continue;
    shown = step;
    out += (step == 1 ? ": " : ", ") + Short(schedule->At(step - 1).lr) + " at step " +
           std::to_string(step);
  }
  return out;
}

// "32 heads, 8 of keys and values".
std::string Heads(const ModelSpec& model) {
  const int64_t of_keys = model.heads_of_keys();
  return Counted(model.num_attention_heads, "head") +
         (of_keys == model.num_attention_heads
              ? ""
              : ", " + std::to_string(of_keys) + " of keys and values");
}

Json ModelJson(const ModelSpec& model) {
  Json json = {{"preset", model.preset},
               {"parameters", ParameterCount(model)},
               {"num_layers", model.num_layers},
               {"hidden_size", model.hidden_size},
               {"num_attention_heads", model.num_attention_heads},
               {"seq_length", model.seq_length},
               {"vocab_size", model.vocab_size}};
  for (const SpecField& field : FamilyFields()) {
    if (SameValue(field, model, ModelSpec{})) continue;
    json[field.key] = std::visit([&](auto member) { return Json(model.*member); }, field.member);
  }
  return json;
}

// "1,234 of 5,678 parameters (4.8 KiB of 22.2 KiB); 2 tensors frozen: wte.weight, wpe.weight".
std::string TrainedText(const proto::TrainSpec& t, const ModelSpec& model) {
  const std::set<std::string> frozen(t.frozen().begin(), t.frozen().end());
  int64_t all = 0, trained = 0;
  for (const LogicalTensor& tensor : LogicalTensors(model)) {
    all += tensor.size();
    if (!frozen.contains(tensor.name)) trained += tensor.size();
  }
  const auto bytes = [](int64_t elements) {
    return BytesText(elements * static_cast<int64_t>(sizeof(float)));
  };
  constexpr int kMostNamed = 4;
  std::string names;
  for (int i = 0; i < std::min(kMostNamed, t.frozen_size()); ++i) {
    names += (i == 0 ? "" : ", ") + t.frozen(i);
  }
  return CountText(trained) + " of " + CountText(all) + " parameters (" + bytes(trained) + " of " +
         bytes(all) + "); " + Counted(t.frozen_size(), "tensor") + " frozen: " + names +
         (t.frozen_size() > kMostNamed ? ", ..." : "");
}

std::string TrainText(const Resolved& resolved) {
  const proto::TrainSpec& t = resolved.job.train();
  const ModelSpec model = FromProto(t.model());
  std::string paths;
  for (const std::string& path : t.data_paths()) paths += (paths.empty() ? "" : ", ") + path;
  std::string out =
      Line("model", t.model().preset() + ", " + CountText(ParameterCount(model)) +
                        " parameters: " + Counted(model.num_layers, "layer") + ", width " +
                        std::to_string(model.hidden_size) + ", " + Heads(model) + ", " +
                        Counted(model.seq_length, "byte") + " of context");
  if (t.frozen_size() > 0) out += Line("trains", TrainedText(t, model));
  if (const std::string again = RecomputeText(t); !again.empty()) out += Line("recomputes", again);
  out += Line("data", CountText(resolved.corpus_bytes) + " bytes in " +
                          CountText(resolved.corpus_files) +
                          (resolved.corpus_files == 1 ? " file: " : " files: ") + paths);
  out += Line("batch", Counted(t.global_batch_size(), "sequence") + " a step = " +
                           Counted(t.global_batch_size() / t.micro_batch_size(), "micro-batch") +
                           " of " + std::to_string(t.micro_batch_size()) + Atoms(t));
  out += Line("steps", std::to_string(t.train_iters()) + ", " + ScheduleText(t) + ", clip " +
                           Short(t.clip_grad()) + ", seed " + std::to_string(t.seed()));
  if (!FingerprintPrecision(t.precision()).empty()) out += Line("precision", PrecisionText(t));
  if (const std::string dropout = DropoutText(t); !dropout.empty()) out += Line("dropout", dropout);
  out += Line("optimizer", OptimizerText(t));
  const std::string matrices = MatricesText(t, static_cast<int64_t>(resolved.ranks.size()));
  if (!matrices.empty()) out += Line("matrices", matrices);
  out += Line("engine", t.device() + ", " + t.isa_cap() + ", threads a rank " +
                            std::to_string(t.threads_per_rank()) + ", buckets of " +
                            BytesText(t.bucket_bytes()) +
                            (t.overlap_comm() ? ", overlapped" : ", not overlapped") +
                            (t.shared_memory() ? ", shared memory on a node" : ", TCP everywhere"));
  out += Line(
      "checkpoints",
      t.save_dir() +
          (t.save_interval() == 0 ? ", at the end"
                                  : ", every " + Counted(t.save_interval(), "step")) +
          ", the newest " + std::to_string(t.keep_last()) + " stay" +
          (t.keep_every() > 0 ? ", and those of every " + Counted(t.keep_every(), "step") : "") +
          (t.tag().empty() ? "" : ", the last with the tag " + t.tag()));
  if (!t.load_dir().empty()) {
    out +=
        Line("goes on from",
             t.load_dir() + (t.has_load_step() ? ", step " + std::to_string(t.load_step()) : ""));
  }
  return out;
}

std::string ProgramText(const proto::ProgramSpec& program) {
  std::string out = Line("program", program.executable());
  for (int i = 0; i < program.argv_size(); ++i) {
    out += Line("argv[" + std::to_string(i) + "]", Quoted(program.argv(i)));
  }
  if (program.append_local_rank()) out += Line("argv[last]", "\"--local_rank=<LOCAL_RANK>\"");
  return out;
}

std::string RankTable(const Resolved& resolved) {
  std::vector<std::vector<std::string>> rows = {
      {"rank", "node", "address", "agent port", "slot", "local", "tp", "cp", "ep", "dp", "pp"}};
  const bool train = resolved.job.has_train();
  if (train) {
    rows[0].push_back("micro-batches");
    rows[0].push_back("engine's memory");
  }
  for (const RankPlace& p : resolved.ranks) {
    const proto::NodeSpec& node = resolved.job.nodes(p.node.value());
    rows.push_back({std::to_string(p.rank.value()), node.host(),
                    node.address().empty() ? "unknown" : node.address(),
                    node.agent_port() == 0 ? "picked" : std::to_string(node.agent_port()),
                    std::to_string(p.slot.value()), std::to_string(p.local_rank),
                    std::to_string(p.at.tp), std::to_string(p.at.cp), std::to_string(p.at.ep),
                    std::to_string(p.at.dp), std::to_string(p.at.pp)});
    if (!train) continue;
    const proto::TrainSpec& t = resolved.job.train();
    const BatchPlan batch(t.global_batch_size() / t.micro_batch_size(), t.micro_batches_per_atom(),
                          static_cast<int64_t>(resolved.ranks.size()));
    const Range range = batch.RankMicroBatches(p.rank.value());
    rows.back().push_back(std::to_string(range.begin) + "-" + std::to_string(range.end - 1));
    rows.back().push_back(
        BytesText(resolved.memory[static_cast<size_t>(p.rank.value())].total_bytes()));
  }
  return "Ranks\n" + TextTable(rows);
}

// REQUIRES: the memory is planned.
std::vector<PlannedTraffic> TrafficOf(const Resolved& resolved) {
  MemoryInput input = MemoryInputFromProto(resolved.job.train());
  input.width = static_cast<int64_t>(resolved.ranks.size());
  return PlanTraffic(input);
}

std::string TrafficTable(const Resolved& resolved) {
  if (resolved.memory.empty()) return "";
  const proto::TrainSpec& train = resolved.job.train();
  const int stage = train.has_zero_stage() ? train.zero_stage() : kDefaultZeroStage;
  std::vector<std::vector<std::string>> rows = {{"rank", "reduction", "gather"}};
  const bool matrices = OrthogonalisesMatrices(OptimizerPlanOfSpec(train));
  if (matrices) rows[0].push_back("matrices");
  for (const PlannedTraffic& sent : TrafficOf(resolved)) {
    rows.push_back(
        {std::to_string(rows.size() - 1), BytesText(sent.reduce), BytesText(sent.gather)});
    if (matrices) rows.back().push_back(BytesText(sent.matrices));
  }
  return "\nSent in a step, ZeRO stage " + std::to_string(stage) + "\n" + TextTable(rows);
}

// What all ranks share is said once; then one line a rank with its own.
std::string EnvironmentText(const Resolved& resolved, const Machine& machine) {
  std::vector<Variables> all;
  for (const RankPlace& place : resolved.ranks) {
    all.push_back(EnvironmentOf(resolved, machine, place));
  }
  std::string common;
  std::set<std::string> own;
  for (const auto& [name, value] : all.front()) {
    const bool same = std::all_of(all.begin(), all.end(), [&](const Variables& variables) {
      return std::find(variables.begin(), variables.end(), std::make_pair(name, value)) !=
             variables.end();
    });
    if (same) {
      common += " " + name + "=" + value;
    } else {
      own.insert(name);
    }
  }
  const std::string inherited = std::to_string(resolved.job.environment_size());
  std::string out =
      resolved.job.has_train()
          ? "\nEnvironment: " + inherited +
                " variables are handed on; ranks of `train` hear their place from their agent, "
                "anew in every generation. A program in their place would find\n"
          : "\nEnvironment, besides " + inherited + " variables that are handed on\n";
  out += "  all ranks:" + common + "\n";
  for (size_t rank = 0; rank < all.size() && !own.empty(); ++rank) {
    out += "  rank " + std::to_string(rank) + ":";
    for (const auto& [name, value] : all[rank]) {
      if (own.count(name) > 0) out += " " + name + "=" + value;
    }
    out += "\n";
  }
  return out;
}

Json ScheduleJson(const proto::TrainSpec& t) {
  const auto& params = t.lr_schedule().params();
  return {{"name", t.lr_schedule().name()},
          {"params", std::map<std::string, double>(params.begin(), params.end())}};
}

// What was said; the others follow the model.
Json Zero3Json(const proto::ZeroSettings& zero) {
  Json json = Json::object();
  if (zero.has_prefetch()) json["prefetch"] = zero.prefetch();
  if (zero.has_persistence_threshold()) {
    json["persistence_threshold"] = zero.persistence_threshold();
  }
  if (zero.has_max_live_parameters()) json["max_live_parameters"] = zero.max_live_parameters();
  if (zero.has_max_reuse_distance()) json["max_reuse_distance"] = zero.max_reuse_distance();
  if (zero.has_sub_group_size()) json["sub_group_size"] = zero.sub_group_size();
  return json;
}

Json TrainJson(const Resolved& resolved) {
  const proto::TrainSpec& t = resolved.job.train();
  const ModelSpec model = FromProto(t.model());
  return {{"model", ModelJson(model)},
          {"data_paths", std::vector<std::string>(t.data_paths().begin(), t.data_paths().end())},
          {"data_files", resolved.corpus_files},
          {"data_bytes", resolved.corpus_bytes},
          {"global_batch_size", t.global_batch_size()},
          {"micro_batch_size", t.micro_batch_size()},
          {"micro_batches_per_atom", t.micro_batches_per_atom()},
          {"sums", t.sums()},
          {"precision", t.precision()},
          {"train_iters", t.train_iters()},
          {"lr", t.lr()},
          {"min_lr", t.min_lr()},
          {"lr_warmup_iters", t.lr_warmup_iters()},
          {"lr_schedule", ScheduleJson(t)},
          {"optimizer", OptimizerJson(t)},
          {"adam_beta1", t.adam_beta1()},
          {"adam_beta2", t.adam_beta2()},
          {"adam_eps", t.adam_eps()},
          {"weight_decay", t.weight_decay()},
          {"clip_grad", t.clip_grad()},
          {"seed", t.seed()},
          {"frozen", std::vector<std::string>(t.frozen().begin(), t.frozen().end())},
          {"save", t.save_dir()},
          {"load", t.load_dir()},
          {"load_step", t.has_load_step() ? Json(t.load_step()) : Json()},
          {"save_interval", t.save_interval()},
          {"keep_last", t.keep_last()},
          {"keep_every", t.keep_every()},
          {"tag", t.tag()},
          {"device", t.device()},
          {"isa_cap", t.isa_cap()},
          {"threads_per_rank", t.threads_per_rank()},
          {"bucket_bytes", t.bucket_bytes()},
          {"zero_stage", t.has_zero_stage() ? t.zero_stage() : kDefaultZeroStage},
          {"zero3", Zero3Json(t.zero())},
          {"recompute",
           {{"every", t.recompute().every()}, {"budget_bytes", t.recompute().budget_bytes()}}},
          {"overlap", t.overlap_comm()},
          {"shared_memory", t.shared_memory()}};
}

// Jobs that drop nothing say nothing of it.
void AddDropout(const proto::TrainSpec& t, Json& train) {
  if (t.hidden_dropout() != 0) train["hidden_dropout"] = t.hidden_dropout();
  if (t.attention_dropout() != 0) train["attention_dropout"] = t.attention_dropout();
}

Json RankJson(const Resolved& resolved, const Machine& machine, const RankPlace& p) {
  const proto::NodeSpec& node = resolved.job.nodes(p.node.value());
  Json out = {{"rank", p.rank.value()},
              {"node", node.host()},
              {"address", node.address()},
              {"agent_port", node.agent_port()},
              {"slot", p.slot.value()},
              {"local_rank", p.local_rank},
              {"tp", p.at.tp},
              {"cp", p.at.cp},
              {"ep", p.at.ep},
              {"dp", p.at.dp},
              {"pp", p.at.pp}};
  Json environment = Json::object();
  for (const auto& [name, value] : EnvironmentOf(resolved, machine, p)) environment[name] = value;
  out["environment"] = std::move(environment);
  if (!resolved.memory.empty()) {
    out["memory_bytes"] = MemoryJson(resolved, p);
  }
  return out;
}

}  // namespace

std::string DryRunText(const Resolved& resolved, const Machine& machine) {
  const proto::JobSpec& job = resolved.job;
  std::string out = "job " + job.job_id() + ": " + Counted(resolved.ranks.size(), "rank") + " on " +
                    Counted(job.nodes_size(), "node") + ", as user " + job.run_as_user() +
                    " (dry run: nothing is started)\n";
  out += job.has_train() ? TrainText(resolved) : ProgramText(job.program());
  out += Line("run folder", job.run_dir());
  out += Line("works in", job.working_dir()) + "\n";
  if (job.has_train()) out += TextTable(ParameterGroupRows(job.train())) + "\n";
  out += RankTable(resolved) + MemoryText(resolved) + TrafficTable(resolved) +
         EnvironmentText(resolved, machine);
  return Escaped(out, "\n\t");
}

std::string DryRunJson(const Resolved& resolved, const Machine& machine) {
  const proto::JobSpec& job = resolved.job;
  Json out = {{"job_id", job.job_id()},
              {"run_as_user", job.run_as_user()},
              {"run_dir", job.run_dir()},
              {"working_dir", job.working_dir()},
              {"master_addr", job.master_addr()},
              {"master_port", job.master_port()},
              {"inherited_variables", job.environment_size()}};
  if (job.has_train()) {
    out["train"] = TrainJson(resolved);
    AddDropout(job.train(), out["train"]);
  } else {
    out["program"] = {{"executable", job.program().executable()},
                      {"argv", std::vector<std::string>(job.program().argv().begin(),
                                                        job.program().argv().end())},
                      {"append_local_rank", job.program().append_local_rank()}};
  }
  out["ranks"] = Json::array();
  for (const RankPlace& place : resolved.ranks) {
    out["ranks"].push_back(RankJson(resolved, machine, place));
  }
  if (!resolved.memory.empty()) {
    out["memory_of_rank_0"] = MemoryLinesJson(resolved);
    out["sent_bytes_of_a_step"] = Json::array();  // by rank
    for (const PlannedTraffic& sent : TrafficOf(resolved)) {
      out["sent_bytes_of_a_step"].push_back(
          {{"reduction", sent.reduce}, {"gather", sent.gather}, {"once", sent.once}});
      if (sent.matrices > 0) out["sent_bytes_of_a_step"].back()["matrices"] = sent.matrices;
    }
  }
  out["notes"] = resolved.notes;
  // Paths and arguments are bytes; what is not UTF-8 is replaced, as JSON must be text.
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace dsrun::launcher
