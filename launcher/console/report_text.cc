#include "launcher/console/report_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/topology/rank_files.h"
#include "launcher/console/terminal_text.h"

namespace dsrun::launcher {
namespace {

using nlohmann::ordered_json;
using Lines = std::vector<std::string>;

constexpr char kQuoted[] = "    | ";  // in front of a line that is a rank's own
constexpr size_t kMostIncidents = 3;
constexpr size_t kMostLaunchFailures = 5;
constexpr size_t kMostMachines = 3;
constexpr size_t kMostStackLines = 8;
constexpr size_t kMostLastLines = 6;
constexpr size_t kMostSampleLines = 4;
constexpr size_t kMostColumns = 160;      // of a rank's own line, which is clipped
constexpr size_t kMostLastColumns = 480;  // of its last one, which says what it ended of
constexpr size_t kWrapColumns = 100;      // of our words, which are wrapped
constexpr size_t kMostWordBytes = 400;
// Of all launch failures together, and at least and at most of one failure.
constexpr size_t kFailureLines = 14;
constexpr size_t kLeastOfOne = 3;
constexpr size_t kMostOfOne = 8;
// A difference of two clocks beyond this says that they do not agree, not how long it took.
constexpr absl::Duration kMostDetection = absl::Seconds(120);

std::string Seconds(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  return seconds < 0.1 ? absl::StrFormat("%.0f ms", seconds * 1e3)
                       : absl::StrFormat("%.2f s", seconds);
}

std::string Clip(std::string line, size_t most = kMostColumns) {
  if (Columns(line) > most) line = std::string(FirstColumns(line, most - 3)) + "...";
  return line;
}

// `text` in lines of kWrapColumns, broken at blanks, never inside a word (a path stays whole to be
// copied). Where `most` lines do not do, the middle goes: at the end stands what to do.
void AddWrapped(const std::string& first_indent, const std::string& indent, const std::string& text,
                size_t most, Lines& lines) {
  Lines wrapped;
  std::string line = first_indent;
  bool empty = true;
  for (const auto& part : absl::StrSplit(text, '\n')) {
    for (const auto& word : absl::StrSplit(part, ' ', absl::SkipEmpty())) {
      if (!empty && line.size() + 1 + word.size() > kWrapColumns) {
        wrapped.push_back(line);
        line = indent;
        empty = true;
      }
      if (!empty) line += ' ';
      absl::StrAppend(&line, word.substr(0, kMostWordBytes));
      if (word.size() > kMostWordBytes) line += "...";
      empty = false;
    }
    if (!empty) wrapped.push_back(line);
    line = indent;
    empty = true;
  }
  if (wrapped.size() > most) {
    const size_t tail = most / 2;
    const size_t head = most - tail - 1;
    Lines kept(wrapped.begin(), wrapped.begin() + head);
    kept.push_back(indent + "...");
    kept.insert(kept.end(), wrapped.end() - tail, wrapped.end());
    wrapped = std::move(kept);
  }
  lines.insert(lines.end(), wrapped.begin(), wrapped.end());
}

// From the failure's own time to when the coordinator heard of it.
std::optional<absl::Duration> Detection(const Failure& failure, const ReportContext& context) {
  if (failure.silent_for > absl::ZeroDuration()) return failure.silent_for;
  if (failure.happened_at) {
    return std::max(failure.noticed_at - *failure.happened_at, absl::ZeroDuration());
  }
  if (!failure.wall_time) return std::nullopt;
  const absl::Time noticed = context.wall_now - (context.steady_now - failure.noticed_at);
  const absl::Duration took = noticed - (absl::UnixEpoch() + *failure.wall_time);
  if (took < -absl::Seconds(1) || took > kMostDetection) return std::nullopt;
  return std::max(took, absl::ZeroDuration());
}

std::string Where(const Failure& failure) {
  std::string place = absl::StrCat("node ", failure.host);
  if (failure.slot) absl::StrAppend(&place, " slot ", failure.slot->value());
  if (!failure.rank) return place;
  return absl::StrCat("rank ", failure.rank->value(), " (", place, ")");
}

void AddLaunchFailures(const Report& report, Lines& lines) {
  const size_t shown = std::min(report.launch_failures.size(), kMostLaunchFailures);
  for (size_t i = 0; i < shown; ++i) {
    const Failure& failure = report.launch_failures[i];
    AddWrapped("  ", "    ", absl::StrCat(Where(failure), ": ", failure.what),
               std::clamp(kFailureLines / shown, kLeastOfOne, kMostOfOne), lines);
  }
  if (shown < report.launch_failures.size()) {
    lines.push_back(
        absl::StrFormat("  (%d of %d nodes shown)", shown, report.launch_failures.size()));
  }
}

// Whether there was a next generation, when none made a step after the incident.
std::string WithoutNextStep(const Incident& incident, const Report& report, bool is_train) {
  const GenerationRecord* next = nullptr;
  for (const GenerationRecord& record : report.generations) {
    if (!record.began_at) continue;  // only claimed
    if (next == nullptr && record.generation > incident.failed) next = &record;
  }
  if (next == nullptr) return "the job did not go on after it";
  if (!is_train) return absl::StrFormat("generation %d started after it", next->generation.value());
  return absl::StrFormat("generation %d started after it, but finished no step",
                         next->generation.value());
}

// Who else failed: nodes and ranks that something outside ended, too, and what is a result.
std::string Others(const Incident& incident) {
  using Place = std::pair<NodeId, std::optional<Slot>>;
  const auto place = [](const Failure& failure) { return Place(failure.node, failure.slot); };
  std::set<Place> nodes, killed, failed;
  for (const Failure& each : incident.consequences) {
    if (place(each) == place(incident.cause)) continue;
    const bool ended_alone = each.kind == Failure::Kind::kWorkerExited && each.from_outside &&
                             (!each.killed_by_agent || each.silent_for > absl::ZeroDuration());
    (!each.slot ? nodes : ended_alone ? killed : failed).insert(place(each));
  }
  for (const Place& each : killed) failed.erase(each);
  std::string text;
  const auto add = [&text](const std::set<Place>& places, const char* noun, const char* one,
                           const char* several) {
    if (places.empty()) return;
    absl::StrAppend(&text, "; ", Counted(places.size(), noun), " ",
                    places.size() == 1 ? one : several);
  };
  add(nodes, "more node", "was lost", "were lost");
  add(killed, "more rank", "was killed", "were killed");
  add(failed, "more rank", "failed as a result", "failed as a result");
  if (incident.more > 0) absl::StrAppend(&text, "; ", incident.more, " more failures not listed");
  return text;
}

std::string WentOn(const Incident& incident, const Report& report, bool is_train) {
  if (!incident.went_on) return WithoutNextStep(incident, report, is_train);
  std::string text = absl::StrFormat("generation %d went on from step %d",
                                     incident.went_on->value(), incident.resumed_from_step);
  if (incident.next_step_at) {
    absl::StrAppend(&text, ", next step after ",
                    Seconds(*incident.next_step_at - incident.detected_at));
  }
  if (incident.lost_steps() > 0) {
    absl::StrAppend(&text, ", ", Counted(incident.lost_steps(), "step"), " computed again");
  }
  return text;
}

void AddIncident(const Incident& incident, const Report& report, const ReportContext& context,
                 bool with_lines, Lines& lines) {
  const Failure& cause = incident.cause;
  AddWrapped("  ", "    ",
             absl::StrFormat("generation %d: %s%s %s", incident.failed.value(), Where(cause),
                             cause.slot ? "" : ":", cause.what),
             with_lines ? kMostOfOne : kLeastOfOne, lines);
  std::string times = "    ";
  if (const std::optional<absl::Duration> took = Detection(cause, context)) {
    absl::StrAppend(
        &times, "noticed after ", Seconds(*took),
        cause.silent_for > absl::ZeroDuration() ? " without a sign of life or progress; " : "; ");
  }
  absl::StrAppend(&times, WentOn(incident, report, context.job.has_train()));
  absl::StrAppend(&times, Others(incident));
  lines.push_back(times);
  if (!with_lines) return;
  if (!cause.stack.empty()) {
    // It says where the rank was, which its last lines do not.
    lines.push_back("    what it was doing, innermost first (for the other ranks: in their logs):");
    for (size_t i = 0; i < std::min(cause.stack.size(), kMostStackLines); ++i) {
      lines.push_back(Clip(kQuoted + cause.stack[i]));
    }
    return;
  }
  const size_t count = cause.last_lines.size();
  const size_t first = count > kMostLastLines ? count - kMostLastLines : 0;
  if (count > 0) lines.push_back("    its last lines:");
  for (size_t i = first; i < count; ++i) {
    lines.push_back(
        Clip(kQuoted + cause.last_lines[i], i + 1 == count ? kMostLastColumns : kMostColumns));
  }
  if (count == 0 && cause.lines_left_out > 0) {
    lines.push_back("    its last lines are too many to be kept here; its log has them");
  }
}

void AddIncidents(const Report& report, const ReportContext& context, Lines& lines) {
  const size_t count = report.incidents.size();
  const size_t first = count > kMostIncidents ? count - kMostIncidents : 0;
  if (first > 0)
    lines.push_back(absl::StrFormat("  (the last %d of %d failures)", count - first, count));
  for (size_t i = first; i < count; ++i) {
    // The words of the failure that ended the job, or of the only one.
    AddIncident(report.incidents[i], report, context, /*with_lines=*/i + 1 == count, lines);
  }
}

void AddSample(const Report& report, const ReportContext& context, Lines& lines) {
  if (report.sample.empty()) return;
  std::string text = context.job.train().prompt() + report.sample;
  for (char& byte : text) {
    if (static_cast<unsigned char>(byte) < ' ' && byte != '\n') byte = ' ';
  }
  lines.push_back("  sample:");
  size_t shown = 0;
  for (const auto& part : absl::StrSplit(text, '\n')) {
    if (shown++ == kMostSampleLines) break;
    lines.push_back(Clip(absl::StrCat(kQuoted, part)));
  }
}

// What the generation that was not begun lacks, and what would fit.
void AddMemory(const Report& report, Lines& lines) {
  if (report.lacking_memory.empty()) return;
  const size_t shown = std::min(report.lacking_memory.size(), kMostMachines);
  for (size_t i = 0; i < shown; ++i) {
    AddWrapped("  memory      ", "              ", report.lacking_memory[i], kMostOfOne, lines);
  }
  if (shown < report.lacking_memory.size()) {
    lines.push_back(
        absl::StrFormat("              (%d of %d shown)", shown, report.lacking_memory.size()));
  }
  AddWrapped("  would fit   ", "              ", report.would_fit, kMostOfOne, lines);
}

void AddPlaces(const Report& report, const ReportContext& context, Lines& lines) {
  const proto::JobSpec& job = context.job;
  if (job.has_train()) {
    lines.push_back(report.manifest.empty()
                        ? "  checkpoint  none was written"
                        : absl::StrFormat("  checkpoint  %s/%s (step %d%s)", job.train().save_dir(),
                                          report.manifest, report.checkpoint_step,
                                          context.commit_unreported
                                              ? "; it is there, but its commit was not reported"
                                              : ""));
  }
  lines.push_back("  logs        " + context.log_folder);
  if (!job.train().metrics_path().empty()) {
    lines.push_back("  metrics     " + job.train().metrics_path());
  }
  lines.push_back("  report      " + job.run_dir() + "/report.json");
}

// Where the first failing rank's output is. All processes of a job's first failing generation were
// started in it. A running agent may have a run folder of its own.
std::string ReadLog(const Incident& incident, bool own_agent, const ReportContext& context) {
  const Failure& cause = incident.cause;
  if (!cause.rank) return "read the first failing rank's log in " + context.log_folder;
  return absl::StrCat(
      "read the first failing rank's log: ",
      FilesOfRank(context.job.run_dir(), cause.host, *cause.rank, incident.failed.value()).log,
      own_agent ? "" : ", or below the --run-dir of that node's dsagent");
}

// One sentence for what the operator would do next; empty: nothing.
std::string Next(const Report& report, const ReportContext& context) {
  const std::string save_dir = context.job.train().save_dir();
  // What an explicit --run-dir names belongs to this job from now on.
  const std::string anew = context.run_dir_given ? " and another --run-dir" : "";
  if (!report.launch_failures.empty()) {
    return absl::StrCat("correct what is named above and start again",
                        context.run_dir_given ? " with another --run-dir" : "",
                        "; nothing was run");
  }
  if (!report.lacking_memory.empty()) {
    return report.manifest.empty()
               ? absl::StrCat("start again with what would fit", anew,
                              "; --no-memory-check starts it all the same")
               : absl::StrCat("go on from the checkpoint with what would fit and --load ", save_dir,
                              anew);
  }
  if (context.job.has_train() && !report.manifest.empty()) {
    return report.exit_code == 0 && !report.stopped_early
               ? "dsrun checkpoint inspect " + save_dir
               : absl::StrCat("go on from the checkpoint with the same command and --load ",
                              save_dir, anew);
  }
  if (report.exit_code == 0) return "";
  if (report.incidents.empty()) {
    // Nobody failed: the operator stopped it before there was anything to keep.
    return absl::StrCat(context.job.has_train() ? "nothing was saved" : "nothing failed",
                        ": start again with the same command", anew);
  }
  const Failure& cause = report.incidents.front().cause;
  const bool own = cause.node.value() < context.job.nodes_size() &&
                   context.job.nodes(cause.node.value()).agent_port() == 0;
  if (cause.slot) return ReadLog(report.incidents.front(), own, context);
  return own ? absl::StrFormat("read what its agent said: %s/agent-%d.log", context.log_folder,
                               cause.node.value())
             : absl::StrCat("read the log of the dsagent of node ", cause.host);
}

// The verdict without what the rows below say in full.
std::string Headline(const Report& report, const ReportContext& context) {
  if (!report.launch_failures.empty() &&
      report.verdict.find(report.launch_failures.front().what) != std::string::npos) {
    return absl::StrFormat("%d of %s cannot be used", report.launch_failures.size(),
                           Counted(context.job.nodes_size(), "node"));
  }
  std::string verdict = report.verdict;
  const size_t shown = std::min(report.incidents.size(), kMostIncidents);
  for (size_t i = report.incidents.size() - shown; i < report.incidents.size(); ++i) {
    const std::string& what = report.incidents[i].cause.what;
    const size_t at = what.empty() ? std::string::npos : verdict.find(what);
    if (at != std::string::npos) verdict.replace(at, what.size(), "failed");
  }
  return verdict;
}

// Where the list is too long, the middle goes: the beginning says what happened, the end what to
// do.
std::string Join(Lines lines, const ReportContext& context) {
  if (lines.size() > kMostScreenLines) {
    constexpr size_t kTail = 6;
    const size_t head = kMostScreenLines - kTail - 1;
    Lines kept(lines.begin(), lines.begin() + head);
    kept.push_back("    (more in report.json)");
    kept.insert(kept.end(), lines.end() - kTail, lines.end());
    lines = std::move(kept);
  }
  std::string text;
  for (const std::string& line : lines) {
    // What a rank wrote is treated as in its output; all else are our words about others' names.
    const bool quoted = absl::StartsWith(line, kQuoted);
    size_t column = 0;
    absl::StrAppend(&text,
                    !quoted            ? Escaped(line, "\t")
                    : context.terminal ? InRows(TerminalText(line), context.columns, column)
                                       : line,
                    "\n");
  }
  return text;
}

// ---- JSON

ordered_json ToJson(const Failure& failure, const ReportContext& context) {
  ordered_json json;
  json["what"] = failure.what;
  json["host"] = failure.host;
  json["node"] = failure.node.value();
  if (failure.slot) json["slot"] = failure.slot->value();
  if (failure.rank) json["rank"] = failure.rank->value();
  json["generation"] = failure.generation.value();
  json["pid"] = failure.pid;
  json["exit_code"] = failure.exit_code;
  json["fatal"] = failure.fatal;
  if (failure.replace_process) json["replace_process"] = true;
  json["killed_by_agent"] = failure.killed_by_agent;
  if (const std::optional<absl::Duration> took = Detection(failure, context)) {
    json["detection_s"] = absl::ToDoubleSeconds(*took);
  }
  json["last_lines"] = failure.last_lines;
  if (failure.lines_left_out > 0) json["lines_left_out"] = failure.lines_left_out;
  if (!failure.stack.empty()) json["stack"] = failure.stack;
  return json;
}

ordered_json ToJson(const Incident& incident, const ReportContext& context) {
  ordered_json json;
  json["cause"] = ToJson(incident.cause, context);
  json["consequences"] = ordered_json::array();
  for (const Failure& each : incident.consequences) {
    json["consequences"].push_back(ToJson(each, context));
  }
  if (incident.more > 0) json["more_consequences"] = incident.more;
  json["failed_generation"] = incident.failed.value();
  json["noticed_at"] = absl::FormatTime(
      "%Y-%m-%dT%H:%M:%E3SZ", context.wall_now - (context.steady_now - incident.detected_at),
      absl::UTCTimeZone());
  if (incident.went_on) json["went_on_as_generation"] = incident.went_on->value();
  const auto since = [&](const char* name, const std::optional<absl::Duration>& at) {
    if (at) json[name] = absl::ToDoubleSeconds(*at - incident.detected_at);
  };
  since("replanned_after_s", incident.began_at);
  since("joined_after_s", incident.joined_at);
  since("next_step_after_s", incident.next_step_at);
  json["last_step_before"] = incident.last_step_before;
  json["resumed_from_step"] = incident.resumed_from_step;
  json["lost_steps"] = incident.lost_steps();
  return json;
}

ordered_json ToJson(const GenerationRecord& record, const Report& report) {
  ordered_json json;
  json["generation"] = record.generation.value();
  json["reason"] = record.reason;
  json["ranks"] = ordered_json::array();
  for (const WorkerId& id : record.ranks) {
    json["ranks"].push_back({{"node", id.node.value()}, {"slot", id.slot.value()}});
  }
  const auto since = [&](const char* name, const std::optional<absl::Duration>& at) {
    if (at) json[name] = absl::ToDoubleSeconds(*at - report.started_at);
  };
  since("began_s", record.began_at);
  since("joined_s", record.joined_at);
  since("first_step_s", record.first_step_at);
  since("ended_s", record.ended_at);
  json["start_step"] = record.start_step;
  json["loaded_from"] = record.loaded_from;
  json["last_step"] = record.last_step;
  return json;
}

// Of a job that did not finish: the highest step that any generation has finished.
int64_t FinalStep(const Report& report) {
  int64_t step = report.final_step;
  if (step > 0) return step;
  for (const GenerationRecord& each : report.generations) step = std::max(step, each.last_step);
  return step;
}

}  // namespace

std::string ReportScreen(const Report& report, const ReportContext& context) {
  Lines lines;
  AddWrapped("dsrun: ", "  ",
             absl::StrFormat("%s (exit code %d, %s)", Headline(report, context), report.exit_code,
                             Seconds(report.ended_at - report.started_at)),
             kMostOfOne / 2, lines);
  if (context.job.has_train() && report.final_step > 0) {
    lines.push_back(
        absl::StrFormat("  step %d, loss %.4f, %s, %s computed again, %s lost to failures",
                        report.final_step, report.final_loss, Counted(report.restarts, "restart"),
                        Counted(report.lost_steps, "step"), Seconds(report.lost_time)));
  }
  AddLaunchFailures(report, lines);
  AddIncidents(report, context, lines);
  AddSample(report, context, lines);
  AddMemory(report, lines);
  AddPlaces(report, context, lines);
  if (const std::string next = Next(report, context); !next.empty()) {
    lines.push_back("  next        " + next);
  }
  return Join(std::move(lines), context);
}

std::string ReportJson(const Report& report, const ReportContext& context) {
  ordered_json json;
  json["job_id"] = context.job.job_id();
  json["exit_code"] = report.exit_code;
  json["verdict"] = report.verdict;
  json["seconds"] = absl::ToDoubleSeconds(report.ended_at - report.started_at);
  json["restarts"] = report.restarts;
  json["lost_steps"] = report.lost_steps;
  json["lost_s"] = absl::ToDoubleSeconds(report.lost_time);
  json["final_step"] = FinalStep(report);
  json["final_loss"] = report.final_loss;
  json["checkpoint"] = report.manifest;
  json["checkpoint_step"] = report.checkpoint_step;
  if (context.commit_unreported) json["checkpoint_reported"] = false;
  json["stopped_early"] = report.stopped_early;
  json["sample"] = report.sample;
  json["logs"] = context.log_folder;
  if (context.screen_lines_lost > 0) {
    json["screen"] = {{"lines_lost", context.screen_lines_lost}, {"why", context.screen_lost_why}};
  }
  if (!report.lacking_memory.empty()) {
    json["lacking_memory"] = report.lacking_memory;
    json["would_fit"] = report.would_fit;
  }
  json["launch_failures"] = ordered_json::array();
  for (const Failure& each : report.launch_failures) {
    json["launch_failures"].push_back(ToJson(each, context));
  }
  json["incidents"] = ordered_json::array();
  for (const Incident& each : report.incidents) json["incidents"].push_back(ToJson(each, context));
  json["generations"] = ordered_json::array();
  for (const GenerationRecord& each : report.generations) {
    json["generations"].push_back(ToJson(each, report));
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace dsrun::launcher
