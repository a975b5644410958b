#include "worker/engine/saving.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/format/save_outcome.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/slot_places.h"
#include "worker/checkpoint/slices.h"
#include "worker/engine/parallel_copy.h"
#include "worker/engine/resume.h"
#include "worker/engine/saved_parts.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

absl::Duration SaveTime(const proto::Limits& limits) {
  return PositiveOr(limits.save_timeout(), absl::Minutes(30));
}

// All ranks' shards, each behind the one before it, and the commit.
absl::Duration OutcomeTime(const proto::Limits& limits) {
  return 2 * SaveTime(limits) + PositiveOr(limits.commit_timeout(), absl::Minutes(10));
}

absl::StatusOr<std::string> ManifestOf(const std::vector<std::string>& outcome) {
  int code = 0;
  if (outcome.size() != kSaveOutcomeValues || !absl::SimpleAtoi(outcome[kSaveOutcomeCode], &code)) {
    return absl::InternalError("the coordinator has said something else than a save's outcome");
  }
  if (!outcome[kSaveOutcomeManifest].empty()) return outcome[kSaveOutcomeManifest];
  return absl::Status(
      absl::IsResourceExhausted(absl::Status(static_cast<absl::StatusCode>(code), ""))
          ? absl::StatusCode::kResourceExhausted
          : absl::StatusCode::kUnavailable,
      outcome[kSaveOutcomeError]);
}

}  // namespace

ManifestFacts FactsOfJob(const proto::JobSpec& job, const NumericsFingerprint& kernels_fingerprint,
                         const std::string& corpus_sha256) {
  const LoadExpectation expectation =
      ExpectationOf(job.train(), kernels_fingerprint, corpus_sha256);
  ManifestFacts facts;
  facts.job_id = job.job_id();
  facts.model = expectation.model;
  facts.batch = expectation.batch;
  facts.fingerprint = expectation.fingerprint;
  const OptimizerPlan optimizer = OptimizerPlanOfSpec(job.train());
  facts.optimizer = {std::string(optimizer.name), SlotNames(optimizer), {}};
  if (optimizer.slots.empty()) {
    facts.optimizer.frozen.assign(job.train().frozen().begin(), job.train().frozen().end());
    std::sort(facts.optimizer.frozen.begin(), facts.optimizer.frozen.end());
  }
  return facts;
}

PruneOptions PruneOfJob(const proto::JobSpec& job) {
  PruneOptions prune;
  prune.job_id = job.job_id();
  if (job.train().keep_last() > 0) prune.keep = job.train().keep_last();
  prune.keep_every = job.train().keep_every();
  return prune;
}

Saving::Saving(Setup setup)
    : setup_(std::move(setup)), warn_after_(SaveTime(setup_.job->limits())) {}

void Saving::WentOnFrom(const std::string& manifest) {
  resumed_manifest_ = manifest;
  resumed_step_ = setup_.trainer->state().step;
}

bool Saving::IsStuck() const {
  return setup_.writer->AtWorkFor() >= SaveTime(setup_.job->limits());
}

void Saving::WarnIfStuck() {
  const absl::Duration busy = setup_.writer->AtWorkFor();
  if (!IsStuck()) warn_after_ = SaveTime(setup_.job->limits());
  if (busy < warn_after_) return;
  warn_after_ = 2 * busy;
  setup_.notice(
      true,
      absl::StrCat("NO CHECKPOINT IS WRITTEN: rank ", setup_.rank.value(), " has been saving for ",
                   absl::FormatDuration(absl::Trunc(busy, absl::Seconds(1))),
                   ", longer than --save-timeout, and the saves meanwhile are left out; the "
                   "training goes on: see on its node why ",
                   setup_.job->train().save_dir(), " does not answer"));
}

bool Saving::AwaitsOutcome() {
  if (open_step_ < 0) return false;
  const absl::StatusOr<std::vector<std::string>> outcome = setup_.session->AwaitTable(
      setup_.generation, SaveOutcomeName(open_step_), absl::ZeroDuration());
  if (outcome.ok()) open_step_ = -1;
  return !outcome.ok();
}

void Saving::Save(bool others_busy) {
  WarnIfStuck();
  if (!others_busy) return TakeSnapshot();
  if (setup_.rank.value() != 0) return;
  setup_.notice(false, absl::StrCat("the checkpoint of step ", setup_.trainer->state().step,
                                    " is left out: the one before is not committed yet; a larger "
                                    "--save-interval, or a faster disk, leaves none out"));
}

absl::StatusOr<std::string> Saving::SaveLast() {
  const int64_t step = setup_.trainer->state().step;
  absl::StatusOr<std::string> manifest =
      step == resumed_step_ ? absl::StatusOr<std::string>(resumed_manifest_) : WriteLast(step);
  if (absl::IsAborted(manifest.status()) || absl::IsCancelled(manifest.status())) return manifest;
  // Of old checkpoints, or of the shard that nobody will commit.
  if (!absl::IsDeadlineExceeded(manifest.status())) Tidy();
  // It goes on from here, with a rank that had not finished yet.
  if (Superseded()) return absl::AbortedError("a newer generation was announced");
  if (manifest.ok()) return manifest;
  const std::string& folder = setup_.job->train().save_dir();
  const std::string what =
      absl::StrCat("the checkpoint of the last step, ", step, ", could not be written to ", folder,
                   ": ", manifest.status().message());
  if (absl::IsResourceExhausted(manifest.status())) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, "; make room and go on from the newest one with --load ", folder));
  }
  const absl::Status failed = absl::UnavailableError(absl::StrCat(what, "; repair the folder"));
  return IsStuck() ? WithVerdict(failed, proto::Failed::kReplaceProcess) : failed;
}

absl::StatusOr<std::string> Saving::WriteLast(int64_t step) {
  RETURN_IF_ERROR(setup_.writer->AwaitBuffer(SaveTime(setup_.job->limits()), [this] {
    return Superseded();
  })) << "--save-timeout";
  TakeSnapshot();
  return AwaitOutcome(step);
}

// In short looks, so that the beat tells of moves: how long this may take is said here.
absl::StatusOr<std::string> Saving::AwaitOutcome(int64_t step) {
  constexpr absl::Duration kLook = absl::Seconds(1);
  const absl::Duration limit = OutcomeTime(setup_.job->limits());
  const SteadyTime begin = Clock::Real().SteadyNow();
  while (true) {
    const absl::StatusOr<std::vector<std::string>> outcome =
        setup_.session->AwaitTable(setup_.generation, SaveOutcomeName(step), kLook);
    if (outcome.ok()) return ManifestOf(*outcome);
    if (!absl::IsDeadlineExceeded(outcome.status())) return outcome.status();
    setup_.moved();
    if (IsStuck()) {
      return absl::DeadlineExceededError(
          absl::StrCat("its own part has been written for longer than ",
                       absl::FormatDuration(SaveTime(setup_.job->limits())), " (--save-timeout)"));
    }
    if (Clock::Real().SteadyNow() - begin < limit) continue;
    return absl::DeadlineExceededError(
        absl::StrCat("not all ranks had written their part, and somebody committed it, within ",
                     absl::FormatDuration(limit), " (--save-timeout and --commit-timeout)"));
  }
}

bool Saving::Superseded() const {
  setup_.moved();
  return setup_.session->Superseded(setup_.generation);
}

// The process ends soon: what it still prunes or removes is done before. No error if that takes too
// long: a later commit does it.
void Saving::Tidy() {
  const absl::Duration time = PositiveOr(setup_.job->limits().prune_timeout(), absl::Minutes(10));
  const absl::Status status = setup_.writer->AwaitIdle(time, [this] { return Superseded(); });
  if (absl::IsDeadlineExceeded(status)) {
    setup_.notice(
        true, absl::StrCat("old checkpoints may stay in ", setup_.job->train().save_dir(),
                           ": removing them took longer ", "than ", absl::FormatDuration(time)));
  }
}

void Saving::TakeSnapshot() {
  const ShardedState& state = setup_.trainer->state();
  open_step_ = state.step;
  RankSave save{Step(state.step), setup_.generation, setup_.rank, setup_.width, state.samples, {}};
  // The rule of recipes is of states in which all parameters have all slots; others are listed.
  const FlatLayout& layout = setup_.trainer->layout();
  const bool all = KeepsAll(OptimizerPlanOfSpec(setup_.job->train()));
  if (all && layout.trainable_count() == layout.entries().size()) {
    save.layout =
        RecipeOf(layout, OptimizerPlanOfSpec(setup_.job->train()), setup_.width,
                 setup_.job->train().bucket_bytes(), !setup_.trainer->LossScale().empty());
  }
  if (const absl::Status copied = Copy(save); !copied.ok()) {
    return setup_.writer->Fail(save, copied);
  }
  setup_.writer->Write(std::move(save));
}

// The parts one after the other; of the first rank also the numbers beside them.
absl::Status Saving::Copy(RankSave& save) {
  const Trainer& trainer = *setup_.trainer;
  const std::vector<SavedPart> parts =
      SavedParts(trainer, OptimizerPlanOfSpec(setup_.job->train()));
  // The plan has room for them on every rank.
  const std::vector<SavedNumbers> numbers = NumbersOfFirstRank(trainer);
  int64_t elements = 0;
  for (const SavedPart& part : parts) elements += part.elements;
  for (const SavedNumbers& of : numbers) elements += static_cast<int64_t>(of.values.size());
  const auto bytes = [](int64_t elements) { return static_cast<size_t>(elements) * sizeof(float); };
  ASSIGN_OR_RETURN(float* const snapshot, setup_.writer->Snapshot(bytes(elements)));
  ASSIGN_OR_RETURN(const std::vector<HostAccess> access, trainer.OpenState());
  std::vector<CopyPiece> pieces;
  float* next = snapshot;
  for (const SavedPart& part : parts) {
    std::vector<Slice> slices =
        SlicesOf(trainer.layout(), *part.ranges, part.slot + "/", Arena::kCompact, next);
    save.slices.insert(save.slices.end(), std::make_move_iterator(slices.begin()),
                       std::make_move_iterator(slices.end()));
    const float* from = part.data;
    for (const Range& range : *part.ranges) {
      if (part.arena == Arena::kWhole) from = part.data + range.begin;
      pieces.push_back({next, from, bytes(range.size())});
      next += range.size();
      from += range.size();
    }
  }
  CopyInParallel(pieces, setup_.job->train().threads_per_rank());
  for (const SavedNumbers& of : numbers) {
    if (setup_.rank != Rank(0)) break;
    const auto count = static_cast<int64_t>(of.values.size());
    save.slices.push_back({of.name, {count}, 0, count, next});
    next = std::ranges::copy(of.values, next).out;
  }
  return absl::OkStatus();
}

}  // namespace dsrun::worker
