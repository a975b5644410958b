#include "worker/checkpoint/find_checkpoint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/save_folder.h"

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

// The first look that is enough, or the last one that patience lasts for.
template <typename Look, typename Enough>
auto LookUntil(Patience& patience, const Look& look, const Enough& enough) {
  auto found = look();
  while (!enough(found) && patience.Again()) found = look();
  return found;
}

FindOptions Options(const WantedCheckpoint& wanted, Patience& patience) {
  FindOptions options;
  options.damaged = wanted.damaged;
  options.unreadable = wanted.unreadable;
  options.verify = wanted.verify;
  options.patience = &patience;
  options.pass_unreadable = wanted.allow_rewind;
  return options;
}

// Where saves go from now on: what was given up is not waited for by them either.
void Adopt(FileSystem& fs, const WantedCheckpoint& wanted, const Warn& warn) {
  if (CheckSaveFolder(fs, wanted.save_dir, wanted.job_id).ok()) return;
  const absl::Status adopted = AdoptSaveFolder(fs, wanted.save_dir, wanted.job_id);
  warn(adopted.ok() ? absl::StrCat("--allow-rewind: ", wanted.save_dir,
                                   " is another folder than this job began with, and is its save "
                                   "folder from now on")
                    : absl::StrCat("nothing can be saved: ", std::string(adopted.message())));
}

absl::StatusOr<CheckpointSearch> SearchOwn(FileSystem& fs, const WantedCheckpoint& wanted,
                                           Patience& patience, const Warn& warn) {
  FindOptions own = Options(wanted, patience);
  own.job_id = wanted.job_id;
  bool has_folder = true;
  absl::StatusOr<CheckpointSearch> search = LookUntil(
      patience,
      [&]() -> absl::StatusOr<CheckpointSearch> {
        absl::StatusOr<CheckpointSearch> found = SearchCheckpoints(fs, wanted.save_dir, own);
        has_folder = !absl::IsNotFound(found.status());
        if (!has_folder) return CheckpointSearch();
        return found;
      },
      [&](const auto& found) { return !found.ok() || ReachesFloor(wanted, *found); });
  if (!search.ok()) return Unreadable(wanted, search.status());
  if (ReachesFloor(wanted, *search)) return search;
  const std::string what = BelowFloor(wanted, *search, has_folder);
  if (!wanted.allow_rewind) {
    return absl::UnavailableError(absl::StrCat(what, "; ", WhatToDo(wanted)));
  }
  warn(absl::StrCat("--allow-rewind: ", what, "; ",
                    Counted(wanted.floor_step - StepOf(*search), "step"), " THROWN AWAY"));
  Adopt(fs, wanted, warn);
  return search;
}

// There is nothing whole in the folder of --load. At a restart it is one that went away since this
// job began, as long as nothing in it is proven to be damaged.
absl::Status NothingToLoad(const WantedCheckpoint& wanted, const absl::Status& why,
                           bool has_damaged) {
  if (!wanted.restart || has_damaged) return Annotate(why, "--load");
  return absl::UnavailableError(absl::StrCat(
      "--load: this job began with a checkpoint in ", wanted.load_dir, ", which is missing now: ",
      std::string(why.message()), "; nothing is begun without it: make it readable on all nodes, ",
      "with everything that was in it"));
}

absl::StatusOr<FoundCheckpoint> FindToLoad(FileSystem& fs, const WantedCheckpoint& wanted,
                                           Patience& patience, const Warn& warn) {
  FindOptions options = Options(wanted, patience);
  options.step = wanted.load_step;
  std::vector<std::string> rejected;
  const absl::StatusOr<Checkpoint> found = LookUntil(
      patience,
      [&] {
        rejected.clear();
        return FindNewestCheckpoint(fs, wanted.load_dir, options, &rejected);
      },
      // The launcher has just found one there, or a generation before this one has.
      [&](const absl::StatusOr<Checkpoint>& last) {
        return !absl::IsNotFound(last.status()) ||
               (!wanted.restart && absl::IsNotFound(fs.Stat(wanted.load_dir).status()));
      });
  for (const std::string& line : rejected) {
    warn(absl::StrCat("a checkpoint of --load was passed over: ", line));
  }
  if (found.ok()) return FoundCheckpoint{found->folder(), found->manifest_name()};
  if (absl::IsNotFound(found.status())) {
    return NothingToLoad(wanted, found.status(), !rejected.empty());
  }
  if (absl::IsFailedPrecondition(found.status())) return Annotate(found.status(), "--load");
  return absl::UnavailableError(absl::StrCat(
      "--load: it cannot be told which checkpoint in ", wanted.load_dir, " is the newest: ",
      std::string(found.status().message()), "; make it readable on all nodes, or give ",
      "--allow-rewind to go on from the newest that can be read"));
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
