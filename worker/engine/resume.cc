#include "worker/engine/resume.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/base/logging.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/frozen_in.h"
#include "common/format/model_tensors.h"
#include "common/model/model_spec_proto.h"
#include "common/numerics/dropout.h"
#include "common/numerics/precision.h"
#include "common/plan/optimizer_of_spec.h"
#include "worker/checkpoint/find_checkpoint.h"
#include "worker/checkpoint/shared_verification.h"
#include "worker/checkpoint/slices.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/packed_status.h"

namespace dsrun::worker {
namespace {

// Instead of a packed status: there is none yet.
constexpr char kNotYet[] = "not yet";
constexpr char kAgain[] = "again:";  // and why

// What the ranks have learnt of the folder together, and rank 0 has told.
struct Findings {
  std::map<std::string, std::string> damaged;     // path of a manifest -> what was proven
  std::map<std::string, std::string> unreadable;  // the same, what is given up (--allow-rewind)
  std::set<std::string> told;                     // to the operator
};

WantedCheckpoint Wanted(const ResumeSetup& setup, const Findings& findings) {
  const proto::TrainSpec& spec = setup.job->train();
  WantedCheckpoint wanted;
  wanted.job_id = setup.job->job_id();
  wanted.save_dir = spec.save_dir();
  wanted.load_dir = spec.load_dir();
  if (spec.has_load_step()) wanted.load_step = spec.load_step();
  wanted.floor_step = setup.floor_step;
  wanted.floor_manifest = setup.floor_manifest;
  wanted.restart = setup.restart;
  wanted.allow_rewind = spec.allow_rewind();
  wanted.damaged = findings.damaged;
  wanted.unreadable = findings.unreadable;
  wanted.verify = Verify::kSizes;  // the bytes are for all ranks together
  return wanted;
}

constexpr char kFinding[] = "which checkpoint to load";

// Tells the others in every wait that it goes on.
absl::StatusOr<std::string> FindAndTell(const ResumeSetup& setup, Findings& findings) {
  absl::Status told;
  const auto wait = [&](absl::Duration duration) {
    LOG(WARNING) << "it cannot be told yet which checkpoint is the newest; looking again in "
                 << duration;
    told = Broadcast(*setup.communicator, 0, kNotYet, kFinding).status();
    return told.ok() && setup.wait(duration);
  };
  Patience patience(*setup.clock, wait, ReadPatience(setup.job->limits()));
  const auto warn_once = [&](const std::string& text) {
    if (findings.told.insert(text).second) setup.warn(text);
  };
  const absl::StatusOr<FoundCheckpoint> found =
      FindCheckpoint(*setup.file_system, Wanted(setup, findings), patience, warn_once);
  RETURN_IF_ERROR(told);
  const absl::StatusOr<std::string> text =
      found.ok() ? absl::StatusOr<std::string>(absl::StrCat(found->folder, "\n", found->manifest))
                 : absl::StatusOr<std::string>(found.status());
  return Broadcast(*setup.communicator, 0, Pack(text), kFinding);
}

absl::StatusOr<std::string> HearWhatIsFound(const ResumeSetup& setup) {
  while (true) {
    ASSIGN_OR_RETURN(std::string packed, Broadcast(*setup.communicator, 0, "", kFinding));
    if (packed != kNotYet) return packed;
  }
}

// One look at the folder, by one rank: what the others would find may differ by then.
absl::StatusOr<Resumed> AgreeOnCheckpoint(const ResumeSetup& setup, Findings& findings) {
  ASSIGN_OR_RETURN(const std::string packed, setup.communicator->rank() == 0
                                                 ? FindAndTell(setup, findings)
                                                 : HearWhatIsFound(setup));
  ASSIGN_OR_RETURN(const std::string text, Unpack(packed));
  const size_t line = text.rfind('\n');  // a folder's name may hold anything, a manifest's not
  return Resumed{text.substr(0, line), text.substr(line + 1)};
}

// To the operator, once: what begins without moments, and whose moments are dropped.
void TellOfOtherFrozen(const ResumeSetup& setup, const Manifest& manifest) {
  if (setup.communicator->rank() != 0) return;
  const std::set<std::string> frozen_then = FrozenIn(manifest);
  std::vector<std::string> thawed, frozen;
  for (const FlatLayout::Entry& entry : setup.trainer->layout().entries()) {
    const std::string& name = entry.tensor.name;
    const bool then = frozen_then.contains(name);
    if (then && entry.tensor.trainable) thawed.push_back(name);
    if (!then && !entry.tensor.trainable) frozen.push_back(name);
  }
  if (!thawed.empty()) {
    setup.warn(absl::StrCat(Counted(static_cast<int64_t>(thawed.size()), "tensor"),
                            " frozen in the checkpoint train from now on, with moments of zero: ",
                            absl::StrJoin(thawed, ", ")));
  }
  if (!frozen.empty()) {
    setup.warn(absl::StrCat(Counted(static_cast<int64_t>(frozen.size()), "tensor"),
                            " that trained in the checkpoint are frozen from now on; their moments "
                            "are dropped: ",
                            absl::StrJoin(frozen, ", ")));
  }
}

// Where the checkpoint has none, a scale begins as configured: CheckModelTensors has seen that only
// another precision's has none.
absl::Status LoadLossScale(const ResumeSetup& setup, Checkpoint& checkpoint) {
  if (checkpoint.manifest().FindTensor(std::string(kLossScale)) == nullptr) return absl::OkStatus();
  std::vector<float> values(static_cast<size_t>(kLossScaleValues));
  RETURN_IF_ERROR(
      checkpoint.ReadRange(std::string(kLossScale), 0, kLossScaleValues, values.data()));
  return setup.trainer->RestoreLossScale(values);
}

absl::Status LoadOnce(const ResumeSetup& setup, const Resumed& found) {
  // All have verified it together; what a rank reads is compared piece by piece anyway. Every rank
  // reads the whole model, or its part of it (ShardedState), and its part of the optimizer's state.
  ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(*setup.file_system, found.folder,
                                                         found.manifest, Verify::kHeaders));
  ShardedState& state = setup.trainer->state();
  ASSIGN_OR_RETURN(const std::vector<HostAccess> access, setup.trainer->OpenState());
  RETURN_IF_ERROR(LoadModelAndState(
      checkpoint, ExpectationOf(setup.job->train(), setup.kernels_fingerprint, setup.corpus_sha256),
      setup.trainer->layout(), setup.trainer->owned(), state.parameters,
      OptimizerPlanOfSpec(setup.job->train()), state.slots, setup.moved,
      state.partitioned ? &setup.trainer->stored() : nullptr));
  ASSIGN_OR_RETURN(
      const std::vector<float> exponents,
      LoadSumExponents(checkpoint, setup.trainer->plan().tensors, setup.trainer->layout(),
                       GradientExponents::kProvisionalInFile));
  // Fast sums do not use them, and would leave them behind as they were.
  const bool exact = SumsOf(setup.job->train().sums()) == kExactSums;
  if (exact && !exponents.empty()) {
    RETURN_IF_ERROR(setup.trainer->exponents().ReadFrom(exponents));
  } else if (exact && checkpoint.manifest().facts.fingerprint.sums == kExactSums) {
    return absl::DataLossError(
        absl::StrCat(std::string(kSumExponents), " is missing in ", found.manifest));
  }
  RETURN_IF_ERROR(LoadLossScale(setup, checkpoint));
  TellOfOtherFrozen(setup, checkpoint.manifest());
  state.step = checkpoint.manifest().facts.counters.optimizer_steps;
  state.samples = checkpoint.manifest().facts.counters.samples_consumed;
  return absl::OkStatus();
}

// Damage is believed when a second look, at files opened anew, finds it too.
absl::Status Load(const ResumeSetup& setup, const Resumed& found) {
  const absl::Status first = LoadOnce(setup, found);
  return absl::IsDataLoss(first) ? LoadOnce(setup, found) : first;
}

// What this rank says of its try: done, not yet, or not at all.
std::string Word(const absl::Status& mine, bool may_try_again) {
  if (mine.ok()) return Pack(std::string());
  if (MayPass(mine) && may_try_again) return absl::StrCat(kAgain, std::string(mine.message()));
  const absl::Status last =
      MayPass(mine) ? absl::UnavailableError(absl::StrCat(
                          std::string(mine.message()),
                          "; make the folder readable on this rank's node, or leave the node out"))
                    : mine;
  return Pack(last);
}

// All ranks do `mine`, and each waits for those that have to try again. One verdict for all.
// Returns the communicator's errors.
absl::Status Together(const ResumeSetup& setup, const std::string& what,
                      const std::function<absl::Status()>& mine, absl::Status* verdict) {
  Patience patience(*setup.clock, setup.wait, ReadPatience(setup.job->limits()));
  absl::Status status = mine();
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<std::string> words,
                     AllGather(*setup.communicator, Word(status, patience.IsLeft()), what));
    bool again = false;
    std::vector<absl::Status> by_rank;
    for (const std::string& word : words) {
      again |= word.starts_with(kAgain);
      by_rank.push_back(word.starts_with(kAgain) ? absl::OkStatus() : Unpack(word).status());
    }
    *verdict = JoinShares(by_rank);
    if (!verdict->ok() || !again) return absl::OkStatus();
    if (status.ok()) continue;
    LOG(WARNING) << status.message() << "; trying again";
    // Whether it was wanted or not, the others hear how the next try went.
    patience.Again();
    status = mine();
  }
}

absl::Status VerifyMyShare(const ResumeSetup& setup, const Resumed& found) {
  const absl::StatusOr<Manifest> manifest =
      ReadManifest(*setup.file_system, found.folder, found.manifest);
  // Rank 0 has just read it whole.
  if (absl::IsDataLoss(manifest.status())) {
    return absl::UnavailableError(manifest.status().message());
  }
  RETURN_IF_ERROR(manifest.status());
  return VerifyShare(*setup.file_system, found.folder, *manifest, setup.communicator->rank(),
                     setup.communicator->size(), setup.moved);
}

// What any rank proves to be damaged is none for all of them: they look again, for an older one.
absl::StatusOr<Resumed> AgreeOnWholeCheckpoint(const ResumeSetup& setup) {
  Findings findings;
  while (true) {
    ASSIGN_OR_RETURN(const Resumed found, AgreeOnCheckpoint(setup, findings));
    if (found.manifest.empty()) return found;
    const std::string path = JoinPath(found.folder, found.manifest);
    absl::Status verdict;
    RETURN_IF_ERROR(Together(
        setup, "whether all have verified their shares",
        [&] { return VerifyMyShare(setup, found); }, &verdict));
    if (verdict.ok()) return found;
    if (absl::IsDataLoss(verdict)) {
      findings.damaged[path] = std::string(verdict.message());
    } else if (setup.job->train().allow_rewind() && MayPass(verdict)) {
      findings.unreadable[path] = std::string(verdict.message());
    } else {
      return Annotate(verdict, absl::StrCat("checkpoint ", path));
    }
  }
}

}  // namespace

absl::StatusOr<Resumed> Resume(const ResumeSetup& setup) {
  ASSIGN_OR_RETURN(const Resumed found, AgreeOnWholeCheckpoint(setup));
  if (found.manifest.empty()) {
    const proto::TrainSpec& spec = setup.job->train();
    setup.enter(OperationClass::kInitialize);
    RETURN_IF_ERROR(setup.trainer->InitializeParameters(spec.seed()));
    RETURN_IF_ERROR(setup.trainer->Settle());
    return found;
  }
  absl::Status verdict;
  RETURN_IF_ERROR(Together(
      setup, "whether all have loaded", [&] { return Load(setup, found); }, &verdict));
  RETURN_IF_ERROR(verdict) << "checkpoint " << JoinPath(found.folder, found.manifest);
  setup.trainer->ParametersChanged();
  // What every rank gathers now is through before anybody exchanges anything else.
  RETURN_IF_ERROR(setup.trainer->Settle());
  return found;
}

Patience::Limits ReadPatience(const proto::Limits& limits) {
  Patience::Limits patience;
  if (limits.has_join_timeout()) patience.total = FromProto(limits.join_timeout()) / 3;
  return patience;
}

LoadExpectation ExpectationOf(const proto::TrainSpec& spec,
                              const NumericsFingerprint& kernels_fingerprint,
                              const std::string& corpus_sha256) {
  LoadExpectation expectation;
  expectation.model = FromProto(spec.model());
  expectation.batch = {spec.global_batch_size(), spec.micro_batch_size(), spec.seed(),
                       corpus_sha256};
  expectation.fingerprint = kernels_fingerprint;
  expectation.fingerprint.sums = SumsOf(spec.sums());
  expectation.fingerprint.precision = FingerprintPrecision(spec.precision());
  expectation.fingerprint.hidden_dropout = DropoutWord(spec.hidden_dropout());
  expectation.fingerprint.attention_dropout = DropoutWord(spec.attention_dropout());
  expectation.fingerprint.micro_batches_per_atom =
      std::max<int64_t>(spec.micro_batches_per_atom(), 1);
  expectation.accept_differences = spec.accept_fingerprint();
  return expectation;
}

}  // namespace dsrun::worker
