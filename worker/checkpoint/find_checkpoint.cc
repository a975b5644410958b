#include "worker/checkpoint/find_checkpoint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"

namespace dsrun::worker {
namespace {

using Warn = std::function<void(const std::string&)>;

int64_t StepOf(const CheckpointSearch& search) {
  return search.newest.has_value() ? search.newest->manifest().facts.key.step.value() : 0;
}

bool HasFloor(const WantedCheckpoint& wanted) { return !wanted.floor_manifest.empty(); }

std::string FloorWords(const WantedCheckpoint& wanted) {
  if (!HasFloor(wanted)) return "";
  return absl::StrCat("this job has committed step ", wanted.floor_step, " (",
                      wanted.floor_manifest, "); ");
}

// What is missing up to the floor is known to be damaged.
bool ReachesFloor(const WantedCheckpoint& wanted, const CheckpointSearch& search) {
  if (!HasFloor(wanted)) return true;
  if (search.newest.has_value() && StepOf(search) >= wanted.floor_step) return true;
  return std::any_of(search.passed_over.begin(), search.passed_over.end(),
                     [&](const PassedOver& passed) {
                       return passed.damaged && passed.manifest == wanted.floor_manifest;
                     });
}

std::string WhatToDo(const WantedCheckpoint& wanted) {
  return absl::StrCat("nothing less is begun: make ", wanted.save_dir,
                      " readable on all nodes, with everything that was in it, and go on with "
                      "--load ",
                      wanted.save_dir,
                      "; or give --allow-rewind, which goes on from what can be read and throws "
                      "the rest away");
}

absl::Status Unreadable(const WantedCheckpoint& wanted, const absl::Status& why) {
  return absl::UnavailableError(
      absl::StrCat(FloorWords(wanted), "it cannot be told which checkpoint in ", wanted.save_dir,
                   " is the newest: ", std::string(why.message()), "; ", WhatToDo(wanted)));
}

std::string BelowFloor(const WantedCheckpoint& wanted, const CheckpointSearch& search,
                       bool has_folder) {
  const std::string found =
      search.newest.has_value()
          ? absl::StrCat("only step ", StepOf(search), " (", search.newest->manifest_name(), ") is")
      : has_folder ? std::string("no whole checkpoint of it is")
                   : std::string("not even the folder is");
  return absl::StrCat(FloorWords(wanted), found, " in ", wanted.save_dir,
                      " now, and what is missing is not proven to be damaged");
}

// Says what was passed over, and the steps that are trained again because of it.
void WarnOfLoss(const WantedCheckpoint& wanted, const CheckpointSearch& search, const Warn& warn) {
  int64_t lost_step = 0;
  for (const PassedOver& passed : search.passed_over) {
    warn(absl::StrCat("a checkpoint was passed over, ",
                      passed.damaged ? "it is damaged: " : "it cannot be read (--allow-rewind): ",
                      passed.manifest, ": ", passed.why));
    lost_step = std::max(lost_step, passed.key.step.value());
  }
  if (lost_step == 0) return;
  const std::string from = search.newest.has_value() ? absl::StrCat("step ", StepOf(search))
                           : wanted.load_dir.empty()
                               ? std::string("the start")
                               : absl::StrCat("the checkpoint of --load ", wanted.load_dir);
  if (search.newest.has_value() && StepOf(search) >= lost_step) return;
  warn(absl::StrCat(Counted(lost_step - StepOf(search), "step"), " LOST: training goes on from ",
                    from, " instead of step ", lost_step));
}

absl::StatusOr<CheckpointSearch> SearchOwn(FileSystem& fs, const WantedCheckpoint& wanted,
                                           Patience& patience, const Warn& warn) {
  FindOptions own;
  own.job_id = wanted.job_id;
  own.damaged = wanted.damaged;
  own.unreadable = wanted.unreadable;
  own.verify = wanted.verify;
  own.patience = &patience;
  own.pass_unreadable = wanted.allow_rewind;
  while (true) {
    absl::StatusOr<CheckpointSearch> search = SearchCheckpoints(fs, wanted.save_dir, own);
    const bool has_folder = !absl::IsNotFound(search.status());
    if (!has_folder) search = CheckpointSearch();
    if (!search.ok()) return Unreadable(wanted, search.status());
    if (ReachesFloor(wanted, *search)) return search;
    if (patience.Again()) continue;
    const std::string what = BelowFloor(wanted, *search, has_folder);
    if (!wanted.allow_rewind) {
      return absl::UnavailableError(absl::StrCat(what, "; ", WhatToDo(wanted)));
    }
    warn(absl::StrCat("--allow-rewind: ", what, "; ",
                      Counted(wanted.floor_step - StepOf(*search), "step"), " THROWN AWAY"));
    return search;
  }
}

absl::StatusOr<FoundCheckpoint> FindToLoad(FileSystem& fs, const WantedCheckpoint& wanted,
                                           Patience& patience, const Warn& warn) {
  FindOptions options;
  options.step = wanted.load_step;
  options.damaged = wanted.damaged;
  options.unreadable = wanted.unreadable;
  options.verify = wanted.verify;
  options.patience = &patience;
  options.pass_unreadable = wanted.allow_rewind;
  while (true) {
    std::vector<std::string> rejected;
    absl::StatusOr<Checkpoint> found =
        FindNewestCheckpoint(fs, wanted.load_dir, options, &rejected);
    // The launcher has just found one there.
    if (absl::IsNotFound(found.status()) && patience.Again()) continue;
    for (const std::string& line : rejected) {
      warn(absl::StrCat("a checkpoint of --load was passed over: ", line));
    }
    if (found.ok()) return FoundCheckpoint{found->folder(), found->manifest_name()};
    if (absl::IsNotFound(found.status()) || absl::IsFailedPrecondition(found.status())) {
      return Annotate(found.status(), "--load");
    }
    return absl::UnavailableError(absl::StrCat(
        "--load: it cannot be told which checkpoint in ", wanted.load_dir, " is the newest: ",
        std::string(found.status().message()), "; make it readable on all nodes, or give ",
        "--allow-rewind to go on from the newest that can be read"));
  }
}

}  // namespace

absl::StatusOr<FoundCheckpoint> FindCheckpoint(FileSystem& fs, const WantedCheckpoint& wanted,
                                               Patience& patience, const Warn& warn) {
  ASSIGN_OR_RETURN(const CheckpointSearch own, SearchOwn(fs, wanted, patience, warn));
  WarnOfLoss(wanted, own, warn);
  if (own.newest.has_value()) {
    return FoundCheckpoint{own.newest->folder(), own.newest->manifest_name()};
  }
  if (wanted.load_dir.empty()) return FoundCheckpoint{};
  return FindToLoad(fs, wanted, patience, warn);
}

bool MayPass(const absl::Status& status) {
  return !status.ok() && !absl::IsDataLoss(status) && !absl::IsFailedPrecondition(status) &&
         !absl::IsInvalidArgument(status) && !absl::IsCancelled(status);
}

}  // namespace dsrun::worker
