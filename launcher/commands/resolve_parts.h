// The parts of Resolve (resolve.h), in the order in which they run. Each reads what those before it
// filled in, adds its own to `resolved`, and reports what is wrong; none stops the others.

#ifndef DSRUN_LAUNCHER_COMMANDS_RESOLVE_PARTS_H_
#define DSRUN_LAUNCHER_COMMANDS_RESOLVE_PARTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/corpus/corpus_files.h"
#include "common/format/manifest.h"
#include "common/model/model_spec.h"
#include "common/model/presets.h"
#include "launcher/commands/flag_values.h"
#include "launcher/commands/machine.h"
#include "launcher/commands/resolve.h"

namespace dsrun::launcher {

struct ResolveContext {
  const CommandLine& line;
  const Machine& machine;
  FlagValues& values;
  Findings& findings;
  Resolved& resolved;

  bool is_train() const { return line.command == CommandLine::Command::kTrain; }
  void Note(std::string text) { resolved.notes.push_back(std::move(text)); }
  // Against the current folder, without "." and "..".
  std::string Absolute(const std::string& path) const;
};

// job.nodes, run_as_user, ranks.
void ResolveHosts(ResolveContext& context);
// master_addr, master_port. REQUIRES: ResolveHosts.
void ResolveMaster(ResolveContext& context);
// job.limits.
void ResolveLimits(ResolveContext& context);
// job.environment: this process's own, then the environment file; for programs torchrun's defaults.
// REQUIRES: ResolveHosts.
void ResolveEnvironment(ResolveContext& context);
// job.program.
void ResolveProgram(ResolveContext& context);
// job.train, memory, corpus. REQUIRES: ResolveHosts; run_dir is set.
void ResolveTrain(ResolveContext& context);
// Of ResolveTrain: zero, from --zero3-*. Findings: a number that is none; the stage is not 3.
// REQUIRES: zero_stage.
void ResolveZero3(ResolveContext& context);
// Of ResolveTrain: global_batch_size, micro_batch_size, micro_batches_per_atom, sums. `manifest`:
// of the checkpoint that is loaded, whose batch is the default, else the preset's; may be null.
// False: there is a finding, or there are no ranks. REQUIRES: ranks.
bool ResolveBatchOfJob(ResolveContext& context, const PresetDefaults& preset,
                       const Manifest* manifest);
// Of ResolveTrain: precision, loss_scale. `manifest`: of the checkpoint that is loaded, whose
// precision is the default; may be null. Findings: a value that is none, a setting of fp16 where
// the precision is another.
void ResolvePrecision(ResolveContext& context, const Manifest* manifest);
// Of ResolveTrain: hidden_dropout, attention_dropout. `manifest`: as above, for the rates.
// Findings: a rate that is none.
void ResolveDropout(ResolveContext& context, const Manifest* manifest);
// Of ResolveTrain: frozen, from --freeze. Findings: an expression that is none, or matches no
// tensor; nothing left to train. REQUIRES: Validate(model).
void ResolveFreeze(ResolveContext& context, const ModelSpec& model);
// Of ResolveTrain: recompute, from --recompute. Findings: a value that is none, a budget that the
// inputs of all layers do not fit into. REQUIRES: Validate(model); micro_batch_size.
void ResolveRecompute(ResolveContext& context, const ModelSpec& model);
// Names of tensors that a pattern which matches none may mean: "; did you mean X?", or the first.
std::string NearNames(const std::string& pattern, const std::vector<std::string>& names);
// Of ResolveTrain: the folder of --load, or of a run folder its checkpoints. nullopt: there is no
// --load, or a finding.
std::optional<std::string> LoadFolder(ResolveContext& context);
// A note where the save folder has checkpoints beyond the step that is loaded. REQUIRES: save_dir.
void NoteNewerInSaveFolder(ResolveContext& context, int64_t loaded_step);
// lr_schedule, lr, min_lr, lr_warmup_iters. REQUIRES: train_iters. `preset_lr`: where --lr is not
// given.
void ResolveSchedule(ResolveContext& context, double preset_lr);
// optimizer, adam_*, weight_decay. `manifest`: of the checkpoint that is loaded, whose optimizer is
// the default; may be null. `model`: null where it is not valid: then groups are not looked at.
// Findings: no such optimizer or parameter, a value out of its bounds, a group of no tensor,
// another optimizer than the checkpoint's. REQUIRES: ResolveFreeze, ResolveSchedule.
void ResolveOptimizer(ResolveContext& context, const ModelSpec* model, const Manifest* manifest);
// keep_last, keep_every, tag. REQUIRES: save_dir, save_interval.
void ResolveRetention(ResolveContext& context);
// Findings where --metrics or --trace would write over an input of the job (a text, a hostfile, a
// key, also by another name or through a link), over one another, or over what no job of dsrun has
// written. REQUIRES: metrics_path, trace_path, run_dir, agent_binary.
void CheckOutputFiles(ResolveContext& context, const std::vector<CorpusFile>& corpus);
// Findings where the job would write into a folder of --data: --run-dir, --save, --metrics,
// --trace. REQUIRES: data_paths, metrics_path, trace_path, save_dir, run_dir.
void CheckOutputsAreNoText(ResolveContext& context, const std::vector<CorpusFile>& corpus);
// Of job.train what memory is planned from (memory_input.h), and neither data nor files. False:
// there is a finding. REQUIRES: ranks, and nodes for the threads of a rank.
bool ResolvePlannedTrain(ResolveContext& context);
// Findings where the ranks of this machine need more than there is. REQUIRES: train and ranks are
// valid; fills resolved.memory.
void CheckMemory(ResolveContext& context);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_RESOLVE_PARTS_H_
