// Config's fields as flags: one table, which reads them and explains them.

#include <charconv>
#include <cstdio>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/base/time_text.h"
#include "worker/api/config.h"

namespace dsrun {
namespace {

template <typename Number>
std::optional<Number> ParseNumber(const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

absl::Status Expected(const char* what, const std::string& got) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", got \"", got, "\""));
}

template <typename Number>
std::function<absl::Status(const std::string&)> Into(Number* into, const char* what) {
  return [into, what](const std::string& text) {
    const std::optional<Number> value = ParseNumber<Number>(text);
    if (!value.has_value()) return Expected(what, text);
    *into = *value;
    return absl::OkStatus();
  };
}

OwnFlag Whole(std::string name, std::string about, int64_t* into) {
  return {std::move(name), "N", std::move(about), Into(into, "a whole number")};
}
OwnFlag Real(std::string name, std::string about, double* into) {
  return {std::move(name), "X", std::move(about), Into(into, "a number")};
}
OwnFlag Word(std::string name, std::string about, std::string* into) {
  return OwnFlag::Text(std::move(name), std::move(about), into);
}
OwnFlag OnOff(std::string name, std::string about, bool* into) {
  return {std::move(name), "on|off", std::move(about), [into](const std::string& text) {
            if (text != "on" && text != "off") return Expected("on or off", text);
            *into = text == "on";
            return absl::OkStatus();
          }};
}
OwnFlag Time(std::string name, std::string about, absl::Duration* into) {
  return {std::move(name), "DURATION", std::move(about), [into](const std::string& text) {
            const std::optional<absl::Duration> time = ParseTime(text);
            if (!time) return Expected("a time such as 90s or 10m", text);
            *into = *time;
            return absl::OkStatus();
          }};
}
constexpr char kParams[] = "KEY=X";

// "beta1=0.9,eps=1e-8", added to what is there.
OwnFlag Params(std::string name, std::string about, std::map<std::string, double>* into) {
  return {std::move(name), kParams, std::move(about), [into](const std::string& text) {
            for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, ','))) {
              const size_t equals = part.find('=');
              const auto value = equals == std::string::npos
                                     ? std::nullopt
                                     : ParseNumber<double>(part.substr(equals + 1));
              if (!value.has_value()) return Expected("KEY=X, X a number", part);
              (*into)[part.substr(0, equals)] = *value;
            }
            return absl::OkStatus();
          }};
}

std::vector<OwnFlag> FlagsOf(Config* c) {
  return {
      Whole("zero-stage", "who holds the optimizer's state and the parameters (1)", &c->zero_stage),
      Whole("global-batch-size", "samples of a step, of all ranks (32)", &c->global_batch_size),
      Whole("micro-batch-size", "samples of one pass (4)", &c->micro_batch_size),
      Whole("micro-batches-per-atom", "micro-batches summed in fp32 (1)",
            &c->micro_batches_per_atom),
      Whole("train-iters", "steps (1000)", &c->train_iters),
      {"seed", "N", "of the first parameters (1234)", Into(&c->seed, "a whole number from 0 on")},
      Real("lr", "peak learning rate (0.001)", &c->lr),
      Real("min-lr", "learning rate of the last step (0)", &c->min_lr),
      Whole("lr-warmup-iters", "steps of linear warm-up (a tenth of --train-iters)",
            &c->lr_warmup_iters),
      Word("lr-schedule", "linear, cosine, constant, ... (linear)", &c->lr_schedule),
      Params("lr-schedule-param", "of --lr-schedule", &c->lr_schedule_params),
      Word("optimizer", "adamw, adam, lion, lamb, adagrad, sgd, ... (adamw)", &c->optimizer),
      Params("optimizer-param", "of --optimizer", &c->optimizer_params),
      Real("weight-decay", "of tensors that decay (the optimizer's)", &c->weight_decay),
      Real("clip-grad", "largest global gradient norm; 0: no clipping (1)", &c->clip_grad),
      Real("hidden-dropout", "share of what blocks add that a step drops (0)", &c->hidden_dropout),
      Real("attention-dropout", "share of attention's probabilities, likewise (0)",
           &c->attention_dropout),
      Word("sums", "exact or fast (exact)", &c->sums),
      Word("precision", "fp32", &c->precision),
      Whole("bucket-bytes", "gradient bytes that are reduced together (by the model's size)",
            &c->bucket_bytes),
      Whole("threads-per-rank", "(processors / ranks of this machine)", &c->threads_per_rank),
      OnOff("overlap", "reduce inside the backward pass (on)", &c->overlap),
      OnOff("shared-memory", "between the ranks of one node (on)", &c->shared_memory),
      Word("isa-cap", "avx512, avx2 or baseline at most (what the CPU has)", &c->isa_cap),
      Word("check-collectives", "start, always or off (start)", &c->check_collectives),
      OnOff("accept-fingerprint", "go on from a checkpoint with another curve (off)",
            &c->accept_fingerprint),
      Whole("zero3-prefetch", "of ZeRO 3, elements gathered ahead", &c->zero3_prefetch),
      Whole("zero3-persistence-threshold", "of ZeRO 3, smaller tensors stay gathered",
            &c->zero3_persistence_threshold),
      Whole("keep-last", "newest checkpoints of this job that stay (3)", &c->keep_last),
      Whole("keep-every", "checkpoints of every N-th step stay for ever (none)", &c->keep_every),
      Time("join-timeout", "until all ranks have met (60s)", &c->join_timeout),
      Time("collective-timeout", "until a blocked exchange is given up (10m)",
           &c->collective_timeout),
      Time("save-timeout", "of Save and Load (30m)", &c->save_timeout),
  };
}

void PrintHelp(const char* program, const std::vector<OwnFlag>& own,
               const std::vector<OwnFlag>& common) {
  std::printf("usage: dsrun --num-gpus N %s [--flag value]...\n", program);
  const auto print = [](const char* title, const std::vector<OwnFlag>& flags) {
    if (flags.empty()) return;
    std::printf("\n%s\n", title);
    for (const OwnFlag& flag : flags) {
      const std::string left = absl::StrCat("--", flag.name, " ", flag.value);
      std::printf("  %-36s %s\n", left.c_str(), flag.about.c_str());
    }
  };
  print("of this program:", own);
  print("of the engine (docs/cli.md says more):", common);
  std::fflush(stdout);
}

}  // namespace

OwnFlag OwnFlag::Text(std::string name, std::string about, std::string* into) {
  return {std::move(name), "TEXT", std::move(about), [into](const std::string& text) {
            *into = text;
            return absl::OkStatus();
          }};
}

OwnFlag OwnFlag::Number(std::string name, std::string about, int64_t least, int64_t* into) {
  return {std::move(name), "N", std::move(about), [into, least](const std::string& text) {
            const std::optional<int64_t> value = ParseNumber<int64_t>(text);
            if (!value.has_value() || *value < least) {
              return Expected(absl::StrCat("a whole number from ", least, " on").c_str(), text);
            }
            *into = *value;
            return absl::OkStatus();
          }};
}

absl::StatusOr<Config> Config::FromFlags(int argc, const char* const* argv,
                                         const std::vector<OwnFlag>& own) {
  Config config;
  const std::vector<OwnFlag> common = FlagsOf(&config);
  std::map<std::string, const OwnFlag*> flags;
  for (const OwnFlag& flag : common) flags[flag.name] = &flag;
  for (const OwnFlag& flag : own) {
    if (flags.emplace(flag.name, &flag).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag.name,
                     ": the engine has a flag of this name, and so has the "
                     "program; call the program's otherwise"));
  }
  std::set<std::string> given;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      PrintHelp(argc > 0 ? argv[0] : "PROGRAM", own, common);
      config.help = true;
      return config;
    }
    const size_t equals = argument.find('=');
    std::string name = argument.substr(0, equals);
    const auto flag = flags.find(name.starts_with("--") ? name.substr(2) : "");
    if (flag == flags.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no flag \"", name, "\"; --help lists those that there are"));
    }
    if (equals == std::string::npos && i + 1 == argc) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected ", flag->second->value, " behind it, got nothing"));
    }
    // Lists of parameters add up, as those of dsrun do.
    if (!given.insert(name).second && flag->second->value != kParams) {
      return absl::InvalidArgumentError(absl::StrCat(name, " is given twice"));
    }
    const std::string text = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
    RETURN_IF_ERROR(flag->second->set(text)) << name;
  }
  return config;
}

}  // namespace dsrun
