#include "launcher/commands/resolve_plan.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "common/base/units.h"
#include "common/config/byte_size.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/plan/batch_plan.h"
#include "common/plan/memory_input.h"
#include "common/plan/zero_stage.h"
#include "launcher/commands/flag_values.h"
#include "launcher/commands/resolve.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

// A table of more is no help, and a plan of more ranks takes long.
constexpr int64_t kMostWidth = 65536;
constexpr size_t kMostWidths = 64;

class PlanResolver {
 public:
  explicit PlanResolver(ResolveContext& context)
      : c_(context), v_(context.values), findings_(context.findings) {}

  std::optional<PlanQuestion> Resolve() {
    RefuseWhatIsNotPlanned();
    Nodes();
    Memory();
    c_.resolved.ranks.resize(1);
    const bool valid = ResolvePlannedTrain(c_);
    question_.train = c_.resolved.job.train();
    if (findings_.has_errors() || !valid) return std::nullopt;
    question_.sweep.job = MemoryInputFromProto(question_.train);
    if (const absl::Status fits = CheckPlannable(question_.sweep.job); !fits.ok()) {
      findings_.AddFlag("--micro-batch-size", std::string(fits.message()));
    }
    Stages();
    Widths();
    question_.sweep.may_recompute = !v_.Has("recompute");
    question_.sweep.default_buckets = !v_.Has("bucket-bytes");
    question_.json = v_.Switch("json");
    if (findings_.has_errors()) return std::nullopt;
    return std::move(question_);
  }

 private:
  void RefuseWhatIsNotPlanned() {
    for (const char* flag : {"load", "load-step"}) {
      if (!v_.Has(flag)) continue;
      findings_.AddFlag(
          std::string("--") + flag,
          "no checkpoint is read for a plan; give the model as it was given to train");
    }
    for (const char* flag : {"deepspeed_config", "deepspeed"}) {
      if (!v_.Has(flag)) continue;
      findings_.AddFlag(
          std::string("--") + flag,
          "no JSON is read for a plan; give its sizes as flags (dsrun --dry-run train "
          "prints the plan of the job that it says)");
    }
    if (v_.Has("gradient-accumulation-steps")) {
      findings_.AddFlag("--gradient-accumulation-steps",
                        "it says the batch of one width, and a plan is of several; give "
                        "--global-batch-size");
    }
  }

  void Nodes() {
    question_.sweep.ranks_of_node = v_.Int("ranks-per-node", 1, kMostWidth).value_or(1);
    // What train would divide this machine's cores among.
    c_.resolved.job.add_nodes()->set_address("127.0.0.1");
    for (int64_t slot = 0; slot < question_.sweep.ranks_of_node; ++slot) {
      c_.resolved.job.mutable_nodes(0)->add_slots(static_cast<int32_t>(slot));
    }
  }

  void Memory() {
    const Machine& machine = c_.machine;
    if (const auto text = v_.Text("memory")) {
      const std::optional<int64_t> bytes = ParseByteSize(*text);
      if (!bytes || *bytes < 1) {
        findings_.AddFlag("--memory",
                          "expected a size above 0, such as 80GiB or 24GB, got " + Quoted(*text));
        return;
      }
      question_.sweep.node_bytes = *bytes;
      question_.memory_source = "--memory";
      return;
    }
    if (machine.memory_available <= 0) {
      findings_.AddFlag("--memory",
                        "how much this machine has cannot be read; say it, such as "
                        "--memory 80GiB");
      return;
    }
    question_.sweep.node_bytes = machine.memory_available;
    question_.memory_source = "available on this machine now, of " +
                              BytesText(machine.memory_total) + " of " + machine.memory_limited_by;
  }

  void Stages() {
    const MemoryInput& job = question_.sweep.job;
    for (const ZeroStage& stage : kZeroStages) {
      if (v_.Has("zero-stage") && stage.number != job.zero_stage) continue;
      question_.sweep.stages.push_back(stage.number);
    }
  }

  void Widths() {
    const MemoryInput& job = question_.sweep.job;
    const int64_t atoms = AtomCount(job.micro_batches, job.micro_batches_per_atom);
    std::vector<int64_t>& widths = question_.sweep.widths;
    const auto text = v_.Text("widths");
    if (!text) {
      for (int64_t width = 1; width <= std::min(atoms, kMostWidth); width *= 2) {
        widths.push_back(width);
      }
      // With one atom each a rank holds no sums.
      if (atoms <= kMostWidth && widths.back() != atoms) widths.push_back(atoms);
      return;
    }
    std::string_view rest = *text;
    while (true) {
      const size_t comma = std::min(rest.find(','), rest.size());
      if (!AddWidth(rest.substr(0, comma))) return;
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
    std::sort(widths.begin(), widths.end());
    widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
    if (widths.size() > kMostWidths) {
      findings_.AddFlag("--widths", "expected at most " + std::to_string(kMostWidths) +
                                        " widths, got " + std::to_string(widths.size()));
    }
  }

  bool AddWidth(std::string_view word) {
    int64_t width = 0;
    const char* const end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, width);
    if (error != std::errc() || stop != end || width < 1 || width > kMostWidth) {
      findings_.AddFlag("--widths", "expected numbers of ranks from 1 to " +
                                        std::to_string(kMostWidth) +
                                        " with commas between them, such as 1,8,64, got " +
                                        Quoted(*v_.Text("widths")));
      return false;
    }
    const MemoryInput& job = question_.sweep.job;
    const absl::Status fits =
        ValidateBatchPlan(job.micro_batches, job.micro_batches_per_atom, width);
    if (!fits.ok()) {
      findings_.AddFlag("--widths", std::string(fits.message()));
      return false;
    }
    question_.sweep.widths.push_back(width);
    return true;
  }

  ResolveContext& c_;
  FlagValues& v_;
  Findings& findings_;
  PlanQuestion question_;
};

}  // namespace

std::optional<PlanQuestion> ResolvePlan(const CommandLine& line, const Machine& machine,
                                        Findings& findings, std::vector<std::string>& notes) {
  Resolved resolved;
  FlagValues values(line.flags, findings);
  ResolveContext context{line, machine, values, findings, resolved};
  std::optional<PlanQuestion> question = PlanResolver(context).Resolve();
  notes.insert(notes.end(), resolved.notes.begin(), resolved.notes.end());
  return question;
}

}  // namespace dsrun::launcher
