#include "launcher/commands/options.h"

#include "common/plan/optimizer_settings.h"

namespace dsrun::launcher {
namespace {

using Kind = Option::Kind;
using Fate = Option::Fate;

Option Value(std::string name, std::string value_name, std::string default_text, std::string help,
             std::vector<std::string> aliases = {}) {
  return {std::move(name),       std::move(aliases),      Kind::kValue,
          std::move(value_name), std::move(default_text), std::move(help)};
}
Option Bare(std::string name, std::string value_name, std::string help) {
  Option option = Value(std::move(name), std::move(value_name), "", std::move(help));
  option.bare = true;
  return option;
}
Option Switch(std::string name, std::string help, std::vector<std::string> aliases = {}) {
  return {std::move(name), std::move(aliases), Kind::kSwitch, "", "", std::move(help)};
}
// Flags of other launchers.
Option Foreign(Fate fate, Kind kind, std::string name, std::string words,
               std::vector<std::string> aliases = {}) {
  Option option;
  option.name = std::move(name);
  option.aliases = std::move(aliases);
  option.kind = kind;
  option.value_name = kind == Kind::kValue ? "X" : "";
  option.fate = fate;
  option.words = std::move(words);
  return option;
}

// "adamw (decoupled decay; ...), adam (...)".
std::string OptimizersText() {
  std::string text;
  for (const OptimizerForm& form : OptimizerForms()) {
    text +=
        (text.empty() ? "" : ", ") + std::string(form.name) + " (" + std::string(form.about) + ")";
  }
  return text;
}

// "adamw beta1=0.9 beta2=0.95; sgd momentum=0 ...": by optimizer, with its defaults.
std::string OptimizerParamsText() {
  std::string text;
  for (const OptimizerForm& form : OptimizerForms()) {
    text += (text.empty() ? "" : "; ") + std::string(form.name);
    for (const OptimizerParam& param : form.params) {
      text += " " + std::string(param.key) + "=" +
              (param.optional ? "--lr" : ValueText(param, param.fallback));
    }
  }
  return text;
}

OptionGroup Hosts() {
  return {
      "Where to run",
      false,
      {
          Value("hostfile", "PATH", "/job/hostfile if there is one, else this machine",
                "hosts and slots, one `HOST slots=N` a line (hostfiles/README.md)", {"H"}),
          Value("include", "NODES", "",
                "use only these: `w1`, `w0@w1:0,2`, `w1:0-3` (no slots: all of the host's)", {"i"}),
          Value("exclude", "NODES", "", "use all but these; same grammar", {"e"}),
          Value("num_nodes", "N", "all", "the first N hosts"),
          Value("num_gpus", "N", "all; without a hostfile 1",
                "the first N slots of every host; without a hostfile N ranks on this machine",
                {"num_accelerators"}),
          Switch("strict", "a hostfile that does not exist is an error, not a warning"),
          Value("master_addr", "ADDRESS", "the first host's", "MASTER_ADDR of a user program"),
          Value("master_port", "PORT", "a free one, another for every generation",
                "MASTER_PORT of a user program; one that is given and in use is refused; 0: the "
                "default"),
      }};
}

OptionGroup Job() {
  return {
      "The job",
      false,
      {
          Switch("dry-run",
                 "print the resolved job (ranks, ports, environment, memory) and "
                 "start nothing"),
          Switch("json", "with --dry-run: print it as JSON"),
          Value("run-dir", "DIR", "runs/<job id> under the current folder",
                "logs, journal and metrics of this job"),
          Value("env-file", "PATH", ".deepspeed_env of the home folder, then of the current one",
                "variables for the ranks, one NAME=VALUE a line; DS_ENV_FILE names another "
                "default"),
          Value("cluster-key-file", "PATH", "",
                "key (mode 0600) that agents which are already running ask for"),
          Switch("append-local-rank", "append --local_rank=N to a user program's arguments"),
          Switch("quiet", "do not show the ranks' output; their files are written all the same",
                 {"q"}),
          Value("agent-binary", "PATH", "dsagent beside dsrun", "for developers"),
      }};
}

OptionGroup TimeLimits() {
  return {
      "Failures and time limits (3s, 500ms, 2m; docs/failure_model.md)",
      false,
      {
          Value("max-restarts", "N", "100 for train, 0 for programs",
                "generations after the first, within --restart-window"),
          Value("restart-window", "DURATION", "24h",
                "--max-restarts counts those of the last so long; 0s: of the whole job"),
          Value(
              "max-restarts-without-progress", "N", "3",
              "generations that fail by themselves without a newer checkpoint or step in between"),
          Value("heartbeat-interval", "DURATION", "500ms", "between all who watch each other"),
          Value("node-silent-after", "DURATION", "3s", "a silent node is lost (1s to 600s)"),
          Value("worker-silent-after", "DURATION", "3s", "a silent worker is killed"),
          Value("agent-stalled-after", "DURATION", "3s", "a stopped agent is killed with its tree"),
          Value("lease", "DURATION", "30s",
                "agents without a coordinator stop their workers after this"),
          Value("stop-grace", "DURATION", "15s", "from TERM to KILL, one period for all ranks"),
          Value("join-timeout", "DURATION", "60s",
                "from the announcement of a generation until all ranks joined it"),
          Value("cause-grace", "DURATION", "250ms",
                "wait for the cause after a rank reports a lost peer"),
          Value("collective-timeout", "DURATION", "10s",
                "least time before a blocked collective is given up; ten median steps if longer"),
          Value("first-step-timeout", "DURATION", "10m",
                "the same in a generation's first step: thirty times what a measured warm-up lets "
                "expect, but no longer than this"),
          Value("initialize-timeout", "DURATION", "10m",
                "a rank that initialises parameters without a move is killed"),
          Value("load-timeout", "DURATION", "30m",
                "a rank that looks for, verifies or reads a checkpoint without a move is killed"),
          Value("save-timeout", "DURATION", "30m",
                "a rank that writes its part of a checkpoint for longer warns; at the last one it "
                "is replaced"),
          Value("commit-timeout", "DURATION", "10m",
                "the last checkpoint of a run may take this to be committed"),
          Value("prune-timeout", "DURATION", "10m",
                "at the end of a run, removing old ones may take this"),
          Value("evaluation-timeout", "DURATION", "10m",
                "a rank is killed that takes this for one byte of a sample or one batch of an "
                "evaluation"),
          Value("progress-timeout", "DURATION", "30s",
                "a worker that beats without progress is killed; ten median steps if longer"),
      }};
}

OptionGroup FromOthers() {
  constexpr Fate kNoted = Fate::kNoted;
  constexpr Fate kRefused = Fate::kRefused;
  constexpr Kind kSwitch = Kind::kSwitch;
  constexpr Kind kValue = Kind::kValue;
  const std::string no_ssh =
      "dsrun uses no ssh: start dsagent on each node and name its port in "
      "the hostfile (HOST:PORT slots=N)";
  const std::string rendezvous =
      "there is no rendezvous to configure: name the hosts with "
      "--hostfile, or leave it out for this machine";
  return {
      "Flags of deepspeed and torchrun",
      false,
      {
          Foreign(kNoted, kSwitch, "no_python", "programs are always started directly"),
          Foreign(kRefused, kSwitch, "module",
                  "programs are started directly: write `python3 -u -m MODULE` as the program"),
          Foreign(kNoted, kSwitch, "no_local_rank",
                  "--local_rank=N is not appended anyway (--append-local-rank does)"),
          Foreign(kNoted, kValue, "launcher", "agents start the ranks; no back-end is used"),
          Foreign(kRefused, kValue, "launcher_args",
                  "there is no back-end command to hand it to; leave it out"),
          Foreign(kNoted, kSwitch, "no_ssh_check", "no ssh is used, so none is checked"),
          Foreign(kNoted, kSwitch, "force_multi", "one node and many take the same path"),
          Foreign(kRefused, kSwitch, "no_ssh", no_ssh),
          Foreign(kRefused, kValue, "node_rank", no_ssh),
          Foreign(kRefused, kValue, "ssh_port", no_ssh),
          Foreign(kRefused, kValue, "venv_script",
                  "no shell runs: activate the environment before dsrun, or use --env-file"),
          Foreign(kRefused, kValue, "enable_each_rank_log",
                  "every rank's log is always written; choose the folder with --run-dir DIR"),
          Foreign(kRefused, kSwitch, "save_pid",
                  "dsrun stays one process until the job ends: use the shell's $!"),
          Foreign(kNoted, kSwitch, "elastic_training",
                  "a job always goes on with the nodes that are left"),
          Foreign(kRefused, kValue, "min_elastic_nodes",
                  "a job goes on with any number of nodes; there is no lower bound to set"),
          Foreign(kRefused, kValue, "max_elastic_nodes", "use --num_nodes N"),
          Foreign(kRefused, kValue, "autotuning", "not available; choose sizes with --dry-run"),
          Foreign(kRefused, kSwitch, "bind_cores_to_rank",
                  "cores are not bound; use --threads-per-rank N of train, or taskset"),
          Foreign(kRefused, kValue, "bind_core_list",
                  "cores are not bound; use --threads-per-rank N of train, or taskset"),
          Foreign(kNoted, kValue, "log_level",
                  "the level of dsrun's own log is GLOG_minloglevel and GLOG_v in the environment"),
          Foreign(kRefused, kValue, "nproc_per_node", "that is torchrun's: write --num_gpus N"),
          Foreign(kRefused, kValue, "nnodes", "that is torchrun's: write --num_nodes N"),
          Foreign(kRefused, kSwitch, "standalone",
                  "that is torchrun's: without a hostfile dsrun uses this machine"),
          Foreign(kRefused, kValue, "rdzv_endpoint", rendezvous, {"rdzv_backend", "rdzv_id"}),
          Foreign(kRefused, kValue, "log_dir", "that is torchrun's: write --run-dir DIR"),
          Foreign(kRefused, kValue, "redirects",
                  "every rank's output is always in a file and on the console", {"tee"}),
      }};
}

OptionGroup Model() {
  return {
      "Model",
      true,
      {
          Value("model", "PRESET", "gpt2-nano",
                "gpt2-nano, gpt2-124m, gpt2-350m, gpt2-774m, gpt2-1558m, gpt3-175b, llama-nano, "
                "llama-135m, llama-1b, llama-7b, llama-70b; what follows changes its shape"),
          Value("num-layers", "N", "the preset's", "transformer blocks"),
          Value("hidden-size", "N", "the preset's", "width"),
          Value("num-attention-heads", "N", "the preset's",
                "must divide the width, unless --kv-channels is given"),
          Value("seq-length", "N", "the preset's", "bytes of context"),
          Value("num-query-groups", "N", "the preset's",
                "llama: heads of keys and values; must divide the heads"),
          Value("kv-channels", "N", "the width divided by the heads",
                "llama: width of a head, an even number"),
          Value("ffn-hidden-size", "N", "the preset's; with --hidden-size 8/3 of it, in whole 64s",
                "llama: width inside the MLP"),
          Value("window-size", "N", "the preset's",
                "llama: how many bytes a byte sees, itself the last; 0: all before it"),
          Value("norm-epsilon", "X", "the preset's", "llama: of every RMSNorm"),
          Switch("untie-embeddings-and-output-weights",
                 "llama: the output head has a table of its own"),
          Switch("add-qkv-bias", "llama: biases of queries, keys and values, as in Qwen 2"),
          Switch("qk-layernorm", "llama: normalise queries and keys, as in Qwen 3"),
          Value("rotary-base", "X", "the preset's", "llama: base of the rotary frequencies"),
          Value("rope-scaling", "none|linear|llama3|yarn", "the preset's",
                "llama: how the frequencies are stretched over a longer context"),
          Value("rope-scaling-factor", "X", "the preset's", "llama: how many times longer"),
          Value("rope-original-length", "N", "the preset's",
                "llama: bytes of context before, for llama3 and yarn"),
      }};
}

OptionGroup Training() {
  return {
      "Training",
      true,
      {
          {"data", {}, Kind::kRepeated, "PATH", "", "file or folder of text; may be repeated"},
          Value("global-batch-size", "N", "the preset's", "sequences a step; never changes"),
          Value("micro-batch-size", "N", "the preset's, or the largest below it that divides",
                "sequences a micro-batch; must divide the global batch"),
          Value("gradient-accumulation-steps", "N", "",
                "micro-batches a rank and step; with the two above it must multiply out"),
          Value("micro-batches-per-atom", "N", "1",
                "micro-batches whose gradients one rank adds up in fp32 before the exact sum over "
                "the batch; cheaper, another curve, and the most ranks are the batch's atoms"),
          Value(
              "sums", "exact|fast", "exact",
              "of gradients over the batch. exact: the same bits at every width; fast: fp32 in the "
              "order in which they come, half the memory and bytes, another curve at every width"),
          Value("precision", "fp32|bf16|fp16", "the checkpoint's, else fp32",
                "what the model computes in; parameters that the optimizer updates, its state, "
                "gradients of parameters and their sums are fp32 in each, so checkpoints fit all; "
                "another precision is another curve"),
          Value("loss-scale", "dynamic|X", "dynamic",
                "of fp16: what the loss is multiplied by, a power of two; dynamic: halved when "
                "gradients overflow, whose step is skipped, doubled after --loss-scale-window "
                "steps without"),
          Value("initial-scale-power", "N", "16",
                "of a dynamic loss scale: it begins as 2 to this"),
          Value("loss-scale-window", "N", "1000", "of a dynamic loss scale"),
          Value("hysteresis", "N", "2",
                "of a dynamic loss scale: overflows until the first that halves it"),
          {"consecutive-hysteresis",
           {},
           Kind::kSwitch,
           "",
           "",
           "of a dynamic loss scale: a step without overflow fills the hysteresis up"},
          Value("min-loss-scale", "X", "1",
                "of a dynamic loss scale: an overflow at this one ends the job"),
          Value("hidden-dropout", "X", "the checkpoint's, else 0",
                "share of the embedding, and of what attention and MLP add to the stream, that a "
                "training step drops, from 0 to below 1; which elements follows from seed, step, "
                "sample and layer alone, so every layout drops the same; another share is another "
                "curve"),
          Value("attention-dropout", "X", "the checkpoint's, else 0",
                "likewise, of the probabilities of attention"),
          Value("train-iters", "N", "300", "optimizer steps"),
          Value("lr", "X", "the preset's", "peak learning rate; falls to --min-lr"),
          Value("min-lr", "X", "0", "learning rate of the last step"),
          Value("lr-warmup-iters", "N", "a tenth of --train-iters", "steps of linear warm-up"),
          Value("lr-schedule", "NAME", "linear",
                "linear, cosine, constant, inverse-square-root, WSD (which use the flags "
                "above), or DeepSpeed's WarmupLR, WarmupDecayLR, WarmupCosineLR, OneCycle, "
                "LRRangeTest"),
          {"lr-schedule-param",
           {},
           Kind::kRepeated,
           "KEY=VALUE",
           "",
           "of --lr-schedule, by DeepSpeed's names (warmup_num_steps=100); decay_steps of WSD; may "
           "be repeated"},
          Value("optimizer", "NAME", "the checkpoint's, else adamw", OptimizersText()),
          {"optimizer-param",
           {},
           Kind::kRepeated,
           "KEY=VALUE",
           OptimizerParamsText(),
           "of --optimizer; several with commas between them; may be repeated"},
          Value("adam-beta1", "X", "", "--optimizer-param beta1=X"),
          Value("adam-beta2", "X", "", "--optimizer-param beta2=X"),
          Value("adam-eps", "X", "", "--optimizer-param eps=X"),
          Value("weight-decay", "X", "0.1 of adamw, 0 of the others",
                "of matrices; norms and biases have none unless a group says so"),
          {"param-group",
           {},
           Kind::kRepeated,
           "PATTERN:lr=X,weight-decay=X",
           "",
           "tensors whose names PATTERN matches somewhere (as of --freeze) have the schedule's "
           "rate times lr, and this decay whatever they are; a tensor belongs to the first group "
           "that matches it; may be repeated"},
          Value("clip-grad", "X", "1", "largest global gradient norm; 0: no clipping"),
          Value("seed", "N", "1234", "of initialisation, data order and sampling"),
          {"freeze",
           {},
           Kind::kRepeated,
           "REGEX",
           "",
           "tensors whose names it matches somewhere (ECMAScript without back-references) keep "
           "their values: no gradient, no optimizer's state; may be repeated"},
      }};
}

OptionGroup Files() {
  return {"Checkpoints, logs, sampling",
          true,
          {
              Value("save", "DIR", "<run dir>/checkpoints", "where checkpoints go"),
              Value("load", "DIR", "",
                    "go on from the newest good checkpoint of this folder, or of a run folder's "
                    "checkpoints/"),
              Value("load-step", "N", "the newest",
                    "of --load, the checkpoint of just this step; an error where it is not there "
                    "or not whole"),
              Value("save-interval", "N", "50", "steps between checkpoints; 0: only at the end"),
              Value("keep-last", "N", "3", "newest checkpoints of this run that stay"),
              Value("keep-every", "K", "none",
                    "checkpoints whose step is a multiple of K stay for ever"),
              Value("tag", "NAME", "",
                    "the last checkpoint of this run gets this tag when it is committed, and stays "
                    "until `dsrun checkpoint untag` removes it; letters, digits, . _ -"),
              Value("log-interval", "N", "10", "steps between lines of progress"),
              Value("metrics", "FILE", "<run dir>/metrics.jsonl",
                    "one JSON object a step; with --load after what is there, else the file of an "
                    "earlier job is kept as FILE.1, FILE.2 ..."),
              Value("prompt", "TEXT", "", "the run ends with a sampled continuation of it"),
              Value("sample-tokens", "N", "200", "bytes of the continuation"),
              Value("trace", "FILE", "",
                    "rank 0 writes a Chrome trace; one of an earlier job is kept as FILE.1 ..."),
              Switch("allow-rewind",
                     "begin although less can be read than was committed, in --save or --load, and "
                     "throw the rest away; without it, nothing is begun until everything can be "
                     "read"),
              Switch("accept-fingerprint",
                     "load a checkpoint although batch, seed, text, libraries or CPU differ from "
                     "those it was written with: the curve is then another one"),
          }};
}

OptionGroup Engine() {
  return {
      "Engine (none of these changes a bit of the result, except --isa-cap)",
      true,
      {
          Value("device", "auto|cpu|cuda", "auto", "auto takes the CPU where there is no GPU"),
          Value("threads-per-rank", "N", "cores / ranks of this machine, at least 1", ""),
          Value("bucket-bytes", "N", "an eighth of the model, 256 KiB to 25 MiB",
                "gradient bytes that are reduced together"),
          Value("recompute", "none|all|every=K|budget=BYTES", "none",
                "keep only the inputs of layers, and compute the rest again in backward: of all "
                "layers, the input of every K-th, or of the fewest that let kept activations fit "
                "into so many bytes"),
          Value("zero-stage", "0|1|2|3", "1",
                "who holds the optimizer's state: 0, every rank all of it; 1, its owner; 2, also "
                "sums of gradients; 3, also parameters, which are gathered for their use"),
          Value("zero3-prefetch", "N", "the largest layer",
                "of ZeRO 3, elements gathered ahead of their use, at most"),
          Value("zero3-persistence-threshold", "N", "a 64th of the largest tensor, at most 100000",
                "of ZeRO 3, tensors of fewer elements stay gathered"),
          Value("zero3-max-live-parameters", "N", "twice the largest layer",
                "of ZeRO 3, elements gathered at a time; a layer that has more gets them"),
          Value("zero3-max-reuse-distance", "N", "the largest layer",
                "of ZeRO 3, a tensor stays gathered if it is used again within so many elements"),
          Value("zero3-sub-group-size", "N", "all",
                "of ZeRO 3, elements that the optimizer updates at a time"),
          {"overlap", {}, Kind::kOnOff, "", "on", "communicate while the model computes"},
          {"shared-memory",
           {},
           Kind::kOnOff,
           "",
           "on",
           "ranks of one node talk through shared memory, not TCP"},
          {"memory-check",
           {},
           Kind::kOnOff,
           "",
           "on",
           "before each generation, plan whether it fits into the memory that its nodes report"},
          Value("isa-cap", "ISA", "the checkpoint's, else what the CPU has",
                "avx512, avx2 or baseline at most; of bf16 also avx512-bf16, whose own products "
                "are faster"),
          Value("check-collectives", "start|always|off", "start",
                "compare operation, type and size on all ranks before data moves"),
          Value("deepspeed_config", "FILE", "",
                "DeepSpeed's JSON (docs/deepspeed_users.md): its keys count as flags before those "
                "that are typed, which win; a file, or base64 of its text"),
          Bare("deepspeed", "FILE", "the same; without FILE it does nothing"),
          Switch("allow-unknown-config-keys",
                 "pass over keys that DeepSpeed does not have, with a line for each"),
          Foreign(Fate::kRefused, Kind::kValue, "data-path", "that is Megatron's: write --data"),
          Foreign(Fate::kRefused, Kind::kValue, "tensor-model-parallel-size",
                  "ranks are data parallel only; leave it out"),
          Foreign(Fate::kRefused, Kind::kValue, "pipeline-model-parallel-size",
                  "ranks are data parallel only; leave it out"),
          Foreign(
              Fate::kRefused, Kind::kSwitch, "partition-activations",
              "kept inputs are spread over a model-parallel group, and there is none yet; leave "
              "it out"),
          Foreign(Fate::kNoted, Kind::kSwitch, "contiguous-checkpointing",
                  "kept inputs lie in one piece of memory anyway",
                  {"contiguous-memory-optimization"}),
          Foreign(Fate::kRefused, Kind::kValue, "recompute-granularity",
                  "that is Megatron's: write --recompute all or every=K"),
          Foreign(Fate::kRefused, Kind::kSwitch, "bf16", "write --precision bf16"),
          Foreign(Fate::kRefused, Kind::kSwitch, "fp16", "write --precision fp16"),
          Foreign(Fate::kRefused, Kind::kValue, "initial-loss-scale",
                  "write --initial-scale-power, its logarithm to base 2"),
      }};
}

OptionGroup Plan() {
  return {"Plan",
          false,
          {
              Value("memory", "SIZE", "what this machine has available, control groups counted",
                    "what the ranks of one node can have together: 80GiB, 24GB, 1.5TiB"),
              Value("ranks-per-node", "N", "1", "ranks that share it"),
              Value("widths", "N,N,...", "1, 2, 4, 8 ... and the most that the batch allows",
                    "numbers of ranks to plan for"),
              Switch("json", "print one JSON object"),
          }};
}

std::string Folded(std::string_view name) {
  std::string out(name);
  for (char& c : out) {
    if (c == '_') c = '-';
  }
  return out;
}

bool Matches(const Option& option, const std::string& folded) {
  if (Folded(option.name) == folded) return true;
  for (const std::string& alias : option.aliases) {
    if (Folded(alias) == folded) return true;
  }
  return option.kind == Kind::kOnOff && "no-" + Folded(option.name) == folded;
}

}  // namespace

const std::vector<OptionGroup>& OptionGroups() {
  static const auto* const groups = new std::vector<OptionGroup>{
      Hosts(), Job(), TimeLimits(), FromOthers(), Model(), Training(), Files(), Engine()};
  return *groups;
}

const OptionGroup& PlanOptions() {
  static const auto* const plan = new OptionGroup(Plan());
  return *plan;
}

const Option* FindPlanOption(std::string_view name) {
  const std::string folded = Folded(name);
  for (const Option& option : PlanOptions().options) {
    if (Matches(option, folded)) return &option;
  }
  return nullptr;
}

const Option* FindOption(std::string_view name, bool train) {
  const std::string folded = Folded(name);
  for (const OptionGroup& group : OptionGroups()) {
    if (group.train != train) continue;
    for (const Option& option : group.options) {
      if (Matches(option, folded)) return &option;
    }
  }
  return nullptr;
}

std::vector<std::string> FlagNames(bool train) {
  std::vector<std::string> out;
  for (const OptionGroup& group : OptionGroups()) {
    if (group.train != train) continue;
    for (const Option& option : group.options) {
      if (option.fate != Fate::kUsed) continue;
      out.push_back(option.flag());
      if (option.kind == Kind::kOnOff) out.push_back("--no-" + option.name);
      for (const std::string& alias : option.aliases) {
        if (alias.size() > 1) out.push_back("--" + alias);
      }
    }
  }
  return out;
}

}  // namespace dsrun::launcher
