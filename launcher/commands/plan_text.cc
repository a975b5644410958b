// The two ways in which an answer is written.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/base/counted.h"
#include "common/base/dtype.h"
#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/numerics/precision.h"
#include "common/plan/batch_plan.h"
#include "common/plan/recompute_plan.h"
#include "launcher/commands/plan_answer.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostLines = 8;

// "gpt2-1558m: 1,557,611,200 parameters, 48 layers, width 1600, 25 heads, ..."
std::string ModelText(const ModelSpec& spec) {
  std::string text = absl::StrCat(spec.preset == "custom" ? spec.family : spec.preset, ": ",
                                  CountText(ParameterCount(spec)), " parameters, ",
                                  Counted(spec.num_layers, "layer"), ", width ", spec.hidden_size,
                                  ", ", Counted(spec.num_attention_heads, "head"));
  if (spec.ffn_hidden_size > 0) absl::StrAppend(&text, ", MLP ", spec.ffn_hidden_size);
  return absl::StrCat(text, ", sequence ", spec.seq_length, ", vocabulary ", spec.vocab_size);
}

// "--recompute all", "--recompute budget=1234 (3 of 12 layers twice forward)"; empty: none.
std::string RecomputeFlag(const MemoryInput& job, const Recompute& recompute) {
  if (!recompute.any()) return "";
  if (recompute.every == 1) return " --recompute all";
  if (recompute.every > 0) return absl::StrCat(" --recompute every=", recompute.every);
  const ModelPlan model = ModelOf(job);
  const int64_t rows = job.micro_batch_size * job.model.seq_length;
  const int64_t blocks = BlocksOf(model, RecomputedSegments(model, rows, /*slots=*/1, recompute));
  return absl::StrCat(" --recompute budget=", recompute.budget_bytes, " (", blocks, " of ",
                      Counted(job.model.num_layers, "layer"), " twice forward)");
}

// "8 ranks, --zero-stage 3 --recompute all"
std::string SettingText(const PlanAnswer& answer, const SweepCell& cell) {
  return absl::StrCat(Counted(cell.width, "rank"), ", --zero-stage ", cell.zero_stage,
                      RecomputeFlag(answer.question.sweep.job, cell.recompute));
}

// Sizes of a setting: "12.1 GiB a rank", "12.1 GiB a rank, 96.8 GiB a node".
std::string SizeText(const PlanAnswer& answer, const SweepCell& cell) {
  std::string text = BytesText(cell.rank_bytes) + " a rank";
  if (answer.question.sweep.ranks_of_node > 1) {
    absl::StrAppend(&text, ", ", BytesText(cell.node_bytes), " a node");
  }
  return text;
}

std::string Head(const PlanAnswer& answer) {
  const SweepInput& sweep = answer.question.sweep;
  const MemoryInput& job = sweep.job;
  const proto::TrainSpec& train = answer.question.train;
  std::string text = absl::StrCat(
      ModelText(job.model), "\nglobal batch of ", train.global_batch_size(),
      " in micro-batches of ", job.micro_batch_size, " (",
      Counted(job.micro_batches, "micro-batch"),
      job.micro_batches_per_atom > 1 ? absl::StrCat(", ", job.micro_batches_per_atom, " an atom")
                                     : "",
      "), ", std::string(job.optimizer.name), ", ", job.fast_sums ? "fast" : "exact", " sums",
      job.precision == DType::kF32 ? ""
                                   : absl::StrCat(", ", std::string(PrecisionName(job.precision))),
      job.recompute.any() ? "," : "", RecomputeFlag(job, job.recompute), ", buckets of ",
      BytesText(job.bucket_bytes), ", ", Counted(job.threads, "thread"), " a rank\n");
  if (!job.frozen.empty()) {
    absl::StrAppend(&text, Counted(job.frozen.size(), "frozen tensor"), "\n");
  }
  if (job.model.preset == "gpt3-175b") {
    absl::StrAppend(&text,
                    "attention is dense in every layer; GPT-3's was sparse in every other one\n");
  }
  return absl::StrCat(text, "a node of ", Counted(sweep.ranks_of_node, "rank"), " has ",
                      BytesText(sweep.node_bytes), " (", answer.question.memory_source, ")\n");
}

std::string Table(const PlanAnswer& answer, bool terminal) {
  const SweepInput& sweep = answer.question.sweep;
  const int64_t atoms = AtomCount(sweep.job.micro_batches, sweep.job.micro_batches_per_atom);
  std::string text = absl::StrCat("\nBytes of the largest rank; * its node fits\n",
                                  absl::StrFormat("  %6s  %12s", "ranks", "atoms a rank"));
  for (const int stage : sweep.stages) {
    absl::StrAppendFormat(&text, "  %12s", absl::StrCat("stage ", stage, " "));
  }
  for (size_t i = 0; i < answer.table.size(); ++i) {
    const SweepCell& cell = answer.table[i];
    if (i % sweep.stages.size() == 0) {
      absl::StrAppendFormat(&text, "\n  %6d  %12d", cell.width,
                            (atoms + cell.width - 1) / cell.width);
    }
    const std::string size =
        absl::StrFormat("%12s", BytesText(cell.rank_bytes) + (cell.fits ? "*" : " "));
    absl::StrAppend(&text, "  ", terminal && cell.fits ? "\x1b[1m" + size + "\x1b[0m" : size);
  }
  return absl::StrReplaceAll(text + "\n", {{" \n", "\n"}});
}

std::string Choice(const PlanAnswer& answer) {
  const std::string order =
      "\nSmallest setting that fits (fewest ranks, then fewest layers computed again, then the "
      "lowest stage)\n  ";
  if (answer.smallest) {
    return absl::StrCat(order, SettingText(answer, *answer.smallest), ": ",
                        SizeText(answer, *answer.smallest), "\n");
  }
  return absl::StrCat(order, "none of these; what takes least is ",
                      SettingText(answer, answer.roomiest), ": ", SizeText(answer, answer.roomiest),
                      "\n  a smaller micro-batch, shorter sequences, more ranks or a smaller model "
                      "take less\n");
}

int64_t Total(const std::vector<PlannedBuffer>& lines) {
  int64_t total = 0;
  for (const PlannedBuffer& line : lines) total += line.bytes();
  return total;
}

bool IsActivation(const PlannedBuffer& line) {
  return line.group == "activations" || line.group == "workspace";
}

std::string Consumers(const PlanAnswer& answer) {
  const int64_t total = Total(answer.lines);
  std::string text = absl::StrCat("\nWhat takes most of its largest rank (",
                                  SettingText(answer, answer.shown), ")\n");
  const size_t shown = std::min(answer.lines.size(), kMostLines);
  size_t name_width = 0;
  for (size_t i = 0; i < shown; ++i) name_width = std::max(name_width, answer.lines[i].name.size());
  int64_t rest = total;
  const auto add = [&](const std::string& name, int64_t bytes, const std::string& formula) {
    absl::StrAppendFormat(&text, "  %-*s  %10s  %4.1f %%  %s\n", static_cast<int>(name_width), name,
                          BytesText(bytes),
                          100 * static_cast<double>(bytes) / static_cast<double>(total), formula);
  };
  for (size_t i = 0; i < shown; ++i) {
    const PlannedBuffer& line = answer.lines[i];
    rest -= line.bytes();
    add(line.name, line.bytes(), line.formula);
  }
  add("others", rest, Counted(answer.lines.size() - shown, "line"));
  return text;
}

// "12", "0.5", "-": of a rate, in bytes.
std::string Number(double value) {
  std::string text = absl::StrFormat("%.2f", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

// "8 + 24/N"
std::string RateText(double whole, double shared) {
  const std::string all = Number(whole);
  const std::string part = Number(shared);
  if (part == "0") return all;
  return (all == "0" ? "" : all + " + ") + part + "/N";
}

std::string RatesText(const std::vector<StateRate>& rates) {
  double whole = 0;
  double shared = 0;
  std::string parts;
  for (const StateRate& rate : rates) {
    whole += rate.whole;
    shared += rate.shared;
    absl::StrAppend(&parts, parts.empty() ? "" : ", ", rate.name, " ",
                    RateText(rate.whole, rate.shared));
  }
  return absl::StrCat(RateText(whole, shared), ": ", parts);
}

std::string Formulas(const PlanAnswer& answer) {
  std::string text =
      "\nBytes for each parameter, of N ranks (what grows with the model, from the plan's own "
      "lines)\n";
  for (const PlanAnswer::Rates& rates : answer.rates) {
    absl::StrAppend(&text, "  stage ", rates.zero_stage, "  ", RatesText(rates.several), "\n");
    absl::StrAppend(&text, "    with one atom a rank and step  ", RatesText(rates.one), "\n");
  }
  const MemoryInput& job = answer.question.sweep.job;
  const int64_t rows = job.micro_batch_size * job.model.seq_length;
  int64_t kept = 0;
  int64_t workspace = 0;
  std::string parts;
  for (const PlannedBuffer& line : answer.lines) {
    if (!IsActivation(line)) continue;
    (line.group == "workspace" ? workspace : kept) += line.bytes();
    if (line.group == "workspace" || line.bytes() < rows) continue;
    absl::StrAppend(&parts, "  ", line.name, " = ", line.formula, ", ",
                    std::string(NameOf(line.dtype)), "\n");
  }
  absl::StrAppend(&text, "\nActivations of a micro-batch of ", job.micro_batch_size, " x ",
                  job.model.seq_length, " tokens: ", BytesText(kept), " kept from forward to ",
                  "backward (", BytesText(kept / rows), " a token), ", BytesText(workspace),
                  " beside them\n", parts);
  return text;
}

std::string Largest(const PlanAnswer& answer) {
  const MemoryInput& job = answer.question.sweep.job;
  if (!job.frozen.empty()) return "";
  std::string text = absl::StrCat("\nLargest models that fit with ",
                                  SettingText(answer, answer.roomiest), ", and this batch\n");
  absl::StrAppend(&text, "  preset  ", answer.preset ? ModelText(*answer.preset) : "none", "\n");
  absl::StrAppend(&text, "  scaled  ", answer.scaled ? ModelText(*answer.scaled) : "none", "\n");
  return absl::StrCat(text,
                      "  (scaled: heads as wide as now; their number, width, MLP and layers in "
                      "proportion; sequence and vocabulary stay)\n");
}

// ---- JSON

Json ModelJson(const ModelSpec& spec) {
  Json json = {{"preset", spec.preset},
               {"family", spec.family},
               {"parameters", ParameterCount(spec)},
               {"num_layers", spec.num_layers},
               {"hidden_size", spec.hidden_size},
               {"num_attention_heads", spec.num_attention_heads},
               {"seq_length", spec.seq_length},
               {"vocab_size", spec.vocab_size}};
  if (spec.query_groups > 0) json["num_query_groups"] = spec.query_groups;
  if (spec.ffn_hidden_size > 0) json["ffn_hidden_size"] = spec.ffn_hidden_size;
  return json;
}

Json CellJson(const SweepCell& cell) {
  return {{"ranks", cell.width},
          {"zero_stage", cell.zero_stage},
          {"recompute_every", cell.recompute.every},
          {"recompute_budget_bytes", cell.recompute.budget_bytes},
          {"rank_bytes", cell.rank_bytes},
          {"node_bytes", cell.node_bytes},
          {"fits", cell.fits}};
}

Json RatesJson(const std::vector<StateRate>& rates) {
  Json json = Json::array();
  for (const StateRate& rate : rates) {
    const auto rounded = [](double value) { return std::round(value * 100) / 100 + 0.0; };
    json.push_back({{"name", rate.name},
                    {"whole", rounded(rate.whole)},
                    {"shared", rounded(rate.shared)},
                    {"formula", rate.formula}});
  }
  return json;
}

}  // namespace

std::string PlanText(const PlanAnswer& answer, bool terminal) {
  return Head(answer) + Table(answer, terminal) + Choice(answer) + Consumers(answer) +
         Formulas(answer) + Largest(answer);
}

std::string PlanJson(const PlanAnswer& answer) {
  const SweepInput& sweep = answer.question.sweep;
  Json json = {{"model", ModelJson(sweep.job.model)},
               {"global_batch_size", answer.question.train.global_batch_size()},
               {"micro_batch_size", sweep.job.micro_batch_size},
               {"micro_batches_per_atom", sweep.job.micro_batches_per_atom},
               {"optimizer", std::string(sweep.job.optimizer.name)},
               {"sums", sweep.job.fast_sums ? "fast" : "exact"},
               {"precision", std::string(PrecisionName(sweep.job.precision))},
               {"bucket_bytes", sweep.job.bucket_bytes},
               {"threads_per_rank", sweep.job.threads},
               {"memory_bytes", sweep.node_bytes},
               {"ranks_per_node", sweep.ranks_of_node},
               {"table", Json::array()}};
  for (const SweepCell& cell : answer.table) json["table"].push_back(CellJson(cell));
  json["smallest_that_fits"] = answer.smallest ? CellJson(*answer.smallest) : Json();
  Json shown = CellJson(answer.shown);
  for (const PlannedBuffer& line : answer.lines) {
    shown["lines"].push_back({{"name", line.name},
                              {"group", line.group},
                              {"dtype", std::string(NameOf(line.dtype))},
                              {"bytes", line.bytes()},
                              {"formula", line.formula}});
  }
  json["shown"] = std::move(shown);
  for (const PlanAnswer::Rates& rates : answer.rates) {
    json["bytes_per_parameter"].push_back({{"zero_stage", rates.zero_stage},
                                           {"several_atoms", RatesJson(rates.several)},
                                           {"one_atom", RatesJson(rates.one)}});
  }
  json["roomiest"] = CellJson(answer.roomiest);
  json["largest_preset"] = answer.preset ? ModelJson(*answer.preset) : Json();
  json["largest_scaled"] = answer.scaled ? ModelJson(*answer.scaled) : Json();
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace dsrun::launcher
