#include "launcher/commands/checkpoint_verify.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/status_macros.h"
#include "common/format/aside.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/model_tensors.h"
#include "common/format/save_folder.h"
#include "common/format/tags.h"
#include "launcher/commands/byte_progress.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;
using State = VerifiedCheckpoint::State;

const char* StateName(State state) {
  switch (state) {
    case State::kWhole:
      return "whole";
    case State::kDamaged:
      return "damaged";
    case State::kContradictory:
      return "contradictory";
    case State::kUnreadable:
      return "unreadable";
    case State::kGone:
      return "gone";
    case State::kOtherJob:
      break;
  }
  return "of another job";
}

class FolderVerifier {
 public:
  FolderVerifier(FileSystem& fs, const VerifyOptions& options) : fs_(fs), options_(options) {
    verdict_.folder = options.place.folder;
  }

  absl::StatusOr<FolderVerdict> Run() {
    RETURN_IF_ERROR(ReadManifests());
    int64_t total = 0;
    for (const Opened& opened : opened_) {
      if (opened.manifest.has_value() && opened.result.state == State::kWhole) {
        total += opened.result.bytes;
      }
    }
    ByteProgress progress(options_.terminal, "verifying", total);
    for (Opened& opened : opened_) {
      if (opened.manifest.has_value() && opened.result.state == State::kWhole) {
        VerifyShards(opened, progress);
      }
      verdict_.checkpoints.push_back(opened.result);
    }
    RETURN_IF_ERROR(CheckThatSomethingWasRead());
    // One checkpoint says nothing of the rest of its folder.
    if (options_.place.manifest.empty()) {
      CheckTags();
      RETURN_IF_ERROR(SortTheRest());
    }
    return std::move(verdict_);
  }

 private:
  struct Opened {
    VerifiedCheckpoint result;
    std::optional<Manifest> manifest;  // nullopt: there is a problem
  };

  // Nothing wrong with nothing is no good news.
  absl::Status CheckThatSomethingWasRead() const {
    int64_t others = 0, gone = 0;
    for (const VerifiedCheckpoint& checkpoint : verdict_.checkpoints) {
      others += checkpoint.state == State::kOtherJob ? 1 : 0;
      gone += checkpoint.state == State::kGone ? 1 : 0;
    }
    if (others + gone < static_cast<int64_t>(verdict_.checkpoints.size())) return absl::OkStatus();
    if (!options_.place.manifest.empty()) {
      return absl::NotFoundError(
          absl::StrCat("no checkpoint ", JoinPath(verdict_.folder, options_.place.manifest),
                       others > 0 ? absl::StrCat(" of job ", options_.job_id) : std::string()));
    }
    return absl::NotFoundError(absl::StrCat(
        "no checkpoint", options_.job_id.empty() ? "" : absl::StrCat(" of job ", options_.job_id),
        " in ", verdict_.folder, ": it holds ", others, " of other jobs, and ", gone,
        " were removed while they were read"));
  }

  absl::Status ReadManifests() {
    std::vector<std::string> names = {options_.place.manifest};
    if (options_.place.manifest.empty()) {
      ASSIGN_OR_RETURN(names, ListManifests(fs_, verdict_.folder));
    }
    if (names.empty()) {
      return absl::NotFoundError(
          absl::StrCat("no checkpoint in ", verdict_.folder, ": it holds no manifest"));
    }
    for (const std::string& name : names) opened_.push_back(ReadOne(name));
    return absl::OkStatus();
  }

  // Damage is believed when a second look finds the same.
  Opened ReadOne(const std::string& name) {
    Opened opened;
    opened.result.manifest = name;
    absl::StatusOr<Checkpoint> read = OpenCheckpoint(fs_, verdict_.folder, name, Verify::kNone);
    if (absl::IsDataLoss(read.status())) {
      read = OpenCheckpoint(fs_, verdict_.folder, name, Verify::kNone);
    }
    if (!read.ok()) {
      opened.result.problem = std::string(read.status().message());
      opened.result.state = absl::IsDataLoss(read.status()) ? State::kDamaged
                            : IsGone(name)                  ? State::kGone
                                                            : State::kUnreadable;
      return opened;
    }
    opened.manifest = read->manifest();
    opened.result.facts = opened.manifest->facts;
    opened.result.shards = static_cast<int64_t>(opened.manifest->files.size());
    for (const ManifestFile& file : opened.manifest->files) opened.result.bytes += file.bytes;
    if (!options_.job_id.empty() && opened.manifest->facts.job_id != options_.job_id) {
      opened.result.state = State::kOtherJob;
    }
    return opened;
  }

  bool IsGone(const std::string& name) {
    const absl::StatusOr<std::vector<std::string>> names = fs_.List(verdict_.folder);
    return names.ok() && !std::binary_search(names->begin(), names->end(), name);
  }

  bool IsAside(const std::string& manifest) {
    const absl::StatusOr<std::vector<Aside>> asides = ListAsides(fs_, verdict_.folder);
    return asides.ok() && std::any_of(asides->begin(), asides->end(), [&](const Aside& aside) {
             return aside.manifest == manifest;
           });
  }

  void VerifyShards(Opened& opened, ByteProgress& progress) {
    ShardVerifier verifier(fs_, verdict_.folder, *opened.manifest, options_.jobs);
    VerifiedCheckpoint& result = opened.result;
    for (const ManifestFile& file : opened.manifest->files) {
      ShardVerdict shard = verifier.Verify(file, [&](int64_t bytes) { progress.Add(bytes); });
      if (shard.state == ShardVerdict::State::kWhole) continue;
      if (shard.state == ShardVerdict::State::kUnreadable) {
        if (result.state == State::kWhole) result.state = State::kUnreadable;
      } else {
        result.state = State::kDamaged;
      }
      result.shards_with_findings.push_back(std::move(shard));
    }
    // Pruning removes the manifest first: what is missing then is not missed.
    if (result.state != State::kWhole && IsGone(result.manifest)) {
      result.state = State::kGone;
      result.shards_with_findings.clear();
    }
    const absl::Status contents = CheckModelTensors(*opened.manifest);
    result.contradiction = std::string(contents.message());
    if (!contents.ok() && result.state == State::kWhole) result.state = State::kContradictory;
  }

  void CheckTags() {
    const auto tags = ReadTags(fs_, verdict_.folder);
    if (!tags.ok()) {
      auto& notes =
          absl::IsDataLoss(tags.status()) ? verdict_.broken_tags : verdict_.unreadable_tags;
      notes.push_back({"", std::string(tags.status().message())});
      return;
    }
    for (const auto& [tag, manifest] : *tags) {
      if (!IsGone(manifest) || IsAside(manifest)) continue;
      verdict_.broken_tags.push_back({tag, absl::StrCat("its checkpoint ", manifest,
                                                        " is missing; take the tag away with "
                                                        "dsrun checkpoint untag")});
    }
  }

  // nullopt: it is not of dsrun.
  static std::optional<std::string> WhatIsLeft(const std::string& name, bool all_read) {
    if (const auto shard = ParseShardFileName(name)) {
      return absl::StrCat("a shard of step ", shard->step.value(), " that no ",
                          all_read ? "" : "readable ",
                          "manifest names: of a save under way, or of a writer that died");
    }
    if (const auto aside = ParseAsideName(name)) {
      return absl::StrCat(aside->manifest,
                          ", set aside to be removed, by a prune under way, or by ",
                          "one that died: the next one of its job decides anew, and dsrun ",
                          "checkpoint tag brings it back");
    }
    if (const auto manifest = ManifestOfTagTemporary(name)) {
      return absl::StrCat("a tag of ", *manifest, ", unfinished: of a writer at work, or of one ",
                          "that died");
    }
    if (const auto job = JobOfSaveFolderMarker(name)) {
      return absl::StrCat("the marker of job ", *job, ", which saves here: remove it only if that ",
                          "job has ended (its dsrun was killed)");
    }
    if (name.starts_with(".tmp.")) {
      return "unfinished: of a save under way, or of a writer that died";
    }
    return std::nullopt;
  }

  absl::Status SortTheRest() {
    ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_.List(verdict_.folder));
    std::set<std::string> needed;
    bool all_read = true;
    for (const Opened& opened : opened_) {
      all_read = all_read && opened.manifest.has_value();
      if (!opened.manifest.has_value()) continue;
      for (const ManifestFile& file : opened.manifest->files) needed.insert(file.name);
    }
    for (const std::string& name : names) {
      if (needed.contains(name) || ParseManifestName(name).has_value() || name == "latest" ||
          name.starts_with("tag.")) {
        continue;
      }
      const std::optional<std::string> words = WhatIsLeft(name, all_read);
      if (words.has_value()) {
        verdict_.leftover.push_back({name, *words});
      } else {
        verdict_.foreign.push_back({name, "not dsrun's"});
      }
    }
    return absl::OkStatus();
  }

  FileSystem& fs_;
  const VerifyOptions& options_;
  FolderVerdict verdict_;
  std::vector<Opened> opened_;
};

std::string Crc(uint32_t crc32c) { return absl::StrFormat("%08x", crc32c); }

void PrintShard(const ShardVerdict& shard, std::ostream& out) {
  out << "  " << shard.file << ": " << StateName(shard.state) << "\n";
  if (shard.state == ShardVerdict::State::kUnreadable) {
    out << "    " << std::string(shard.error.message()) << "\n";
  }
  if (shard.state != ShardVerdict::State::kDamaged) return;
  if (shard.computed_sha256.empty()) {
    out << "    expected " << Counted(shard.expected_bytes, "byte") << ", got " << shard.bytes
        << "\n";
    return;
  }
  if (shard.computed_sha256 != shard.expected_sha256) {
    out << "    SHA-256: expected " << shard.expected_sha256 << "\n"
        << "             got      " << shard.computed_sha256 << "\n";
  }
  for (const PieceDamage& piece : shard.pieces) {
    out << "    " << piece.tensor << ", elements " << piece.begin << " to " << piece.end - 1
        << ": CRC-32C expected " << Crc(piece.expected_crc32c) << ", got "
        << Crc(piece.computed_crc32c) << "\n";
  }
  if (!shard.contradiction.empty()) {
    out << "    " << shard.contradiction << "\n";
  } else if (shard.pieces.empty()) {
    out << "    in its header, padding or checksums: no tensor is hit\n";
  }
}

void PrintCheckpoint(const VerifiedCheckpoint& checkpoint, std::ostream& out) {
  out << checkpoint.manifest << ": " << StateName(checkpoint.state);
  if (checkpoint.problem.empty()) {
    out << " (job " << checkpoint.facts.job_id << ", " << Counted(checkpoint.shards, "shard")
        << ", " << Counted(checkpoint.bytes, "byte")
        << (checkpoint.state == State::kOtherJob ? ", not read" : "") << ")";
  }
  out << "\n";
  if (!checkpoint.problem.empty()) out << "  " << checkpoint.problem << "\n";
  if (!checkpoint.contradiction.empty()) out << "  " << checkpoint.contradiction << "\n";
  for (const ShardVerdict& shard : checkpoint.shards_with_findings) PrintShard(shard, out);
}

int64_t CountOf(const FolderVerdict& verdict, State state) {
  return std::count_if(verdict.checkpoints.begin(), verdict.checkpoints.end(),
                       [&](const VerifiedCheckpoint& c) { return c.state == state; });
}

void PrintText(const FolderVerdict& verdict, std::ostream& out) {
  for (const VerifiedCheckpoint& checkpoint : verdict.checkpoints) PrintCheckpoint(checkpoint, out);
  const auto list = [&](const char* title, const std::vector<FolderVerdict::Note>& notes) {
    for (const FolderVerdict::Note& note : notes) {
      out << title << (note.name.empty() ? "" : " ") << note.name << ": " << note.words << "\n";
    }
  };
  list("tag", verdict.broken_tags);
  list("tag that cannot be read", verdict.unreadable_tags);
  list("left over", verdict.leftover);
  list("foreign", verdict.foreign);
  const int64_t damaged = CountOf(verdict, State::kDamaged);
  const int64_t unreadable = CountOf(verdict, State::kUnreadable);
  const int64_t contradictory = CountOf(verdict, State::kContradictory);
  const int64_t whole = CountOf(verdict, State::kWhole);
  out << verdict.folder << ": " << Counted(whole, "checkpoint") << " whole, " << damaged
      << " damaged, " << unreadable << " unreadable";
  if (contradictory > 0) {
    out << ", " << contradictory << " contradictory; a job that loads it ends with this error";
  }
  if (damaged > 0) out << "; a job that loads passes the damaged ones over";
  if (unreadable > 0) {
    out << "; what could not be read may be whole: mend the disk or the mount, and ask again";
  }
  out << "\n";
}

Json ShardJson(const ShardVerdict& shard) {
  Json json = {{"file", shard.file},
               {"state", StateName(shard.state)},
               {"expected_bytes", shard.expected_bytes},
               {"bytes", shard.bytes},
               {"expected_sha256", shard.expected_sha256},
               {"computed_sha256", shard.computed_sha256},
               {"error", std::string(shard.error.message())},
               {"contradiction", shard.contradiction},
               {"pieces", Json::array()}};
  for (const PieceDamage& piece : shard.pieces) {
    json["pieces"].push_back({{"tensor", piece.tensor},
                              {"begin", piece.begin},
                              {"end", piece.end},
                              {"entry", piece.entry},
                              {"expected_crc32c", Crc(piece.expected_crc32c)},
                              {"computed_crc32c", Crc(piece.computed_crc32c)}});
  }
  return json;
}

Json NotesJson(const std::vector<FolderVerdict::Note>& notes) {
  Json json = Json::array();
  for (const FolderVerdict::Note& note : notes) {
    json.push_back({{"name", note.name}, {"what", note.words}});
  }
  return json;
}

void PrintJson(const FolderVerdict& verdict, std::ostream& out) {
  Json json = {{"folder", verdict.folder},
               {"whole", verdict.Code() == kCheckpointGood},
               {"checkpoints", Json::array()},
               {"broken_tags", NotesJson(verdict.broken_tags)},
               {"unreadable_tags", NotesJson(verdict.unreadable_tags)},
               {"left_over", NotesJson(verdict.leftover)},
               {"foreign", NotesJson(verdict.foreign)}};
  for (const VerifiedCheckpoint& checkpoint : verdict.checkpoints) {
    Json one = {{"manifest", checkpoint.manifest}, {"state", StateName(checkpoint.state)}};
    if (checkpoint.problem.empty()) {
      one["job_id"] = checkpoint.facts.job_id;
      one["step"] = checkpoint.facts.key.step.value();
      one["shards"] = checkpoint.shards;
      one["bytes"] = checkpoint.bytes;
    } else {
      one["problem"] = checkpoint.problem;
    }
    one["contradiction"] = checkpoint.contradiction;
    one["findings"] = Json::array();
    for (const ShardVerdict& shard : checkpoint.shards_with_findings) {
      one["findings"].push_back(ShardJson(shard));
    }
    json["checkpoints"].push_back(std::move(one));
  }
  out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace

int FolderVerdict::Code() const {
  if (CountOf(*this, State::kDamaged) + CountOf(*this, State::kContradictory) > 0 ||
      !broken_tags.empty()) {
    return kCheckpointDamaged;
  }
  const bool unread = CountOf(*this, State::kUnreadable) > 0 || !unreadable_tags.empty();
  return unread ? kCheckpointUnreadable : kCheckpointGood;
}

absl::StatusOr<FolderVerdict> VerifyFolder(FileSystem& fs, const VerifyOptions& options) {
  return FolderVerifier(fs, options).Run();
}

int VerifyCommand(FileSystem& fs, const VerifyOptions& options, std::ostream& out,
                  std::ostream& err) {
  const absl::StatusOr<FolderVerdict> verdict = VerifyFolder(fs, options);
  if (!verdict.ok()) return PrintCheckpointError(verdict.status(), err);
  if (options.json) {
    PrintJson(*verdict, out);
  } else {
    std::ostringstream text;  // the names in it came from files
    PrintText(*verdict, text);
    out << Escaped(text.str(), "\n\t");
  }
  return verdict->Code();
}

}  // namespace dsrun::launcher
