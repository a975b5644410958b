#include "launcher/console/console.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/thread.h"
#include "launcher/console/terminal_text.h"

namespace dsrun::launcher {
namespace {

// How much of the newest step goes into the smoothed step time: about the last ten count.
constexpr double kSmoothing = 0.2;
// How long a reader that takes nothing is waited for at the end.
constexpr absl::Duration kPatience = absl::Seconds(5);

struct Describe {
  std::string operator()(const AgentsOpened& event) const {
    return absl::StrCat(Counted(event.nodes, "agent"), " with ", Counted(event.slots, "slot"),
                        event.nodes == 1 ? " is ready" : " are ready");
  }
  std::string operator()(const GenerationStarted& event) const {
    return absl::StrFormat("generation %d starts with %s: %s", event.generation.value(),
                           Counted(event.width(), "rank"), event.reason);
  }
  std::string operator()(const GenerationRunning& event) const {
    if (event.loaded_from.empty() && event.from_step == 0) {
      return absl::StrFormat("generation %d runs", event.generation.value());
    }
    return absl::StrFormat("generation %d runs from step %d (%s)", event.generation.value(),
                           event.from_step,
                           event.loaded_from.empty() ? "no checkpoint" : event.loaded_from);
  }
  std::string operator()(const struct Progress&) const { return ""; }
  std::string operator()(const CheckpointDone& event) const {
    return absl::StrFormat("checkpoint of step %d: %s (%.2f s)", event.step, event.manifest,
                           event.seconds);
  }
  std::string operator()(const Lost& event) const {
    const Failure& failure = event.failure;
    const std::string where = failure.host.empty() ? "" : absl::StrCat(" on ", failure.host);
    if (failure.rank) {
      return absl::StrFormat("rank %d%s: %s", failure.rank->value(), where, failure.what);
    }
    if (failure.slot) {
      return absl::StrFormat("slot %d%s: %s", failure.slot->value(), where, failure.what);
    }
    return absl::StrFormat("node %d%s: %s", failure.node.value(), where, failure.what);
  }
  std::string operator()(const Recovered& event) const {
    return absl::StrFormat("recovered in %.2f s: generation %d finished step %d, %s again",
                           absl::ToDoubleSeconds(event.since_failure), event.generation.value(),
                           event.next_step, Counted(event.lost_steps, "step"));
  }
  std::string operator()(const NoticeText& event) const {
    const std::string who = event.rank ? absl::StrCat("rank ", event.rank->value(), ": ") : "";
    return absl::StrCat(event.warning ? "warning: " : "", who, event.text);
  }
  std::string operator()(const Sample&) const { return ""; }  // in the last screen
};

std::vector<std::string> HostsOf(const proto::JobSpec& job) {
  std::vector<std::string> hosts;
  for (const proto::NodeSpec& node : job.nodes()) hosts.push_back(node.host());
  return hosts;
}

}  // namespace

std::string OperatorText(const OperatorEvent& event) { return std::visit(Describe(), event); }

std::string ClockText(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration + absl::Milliseconds(500));
  if (seconds >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
  }
  return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
}

std::vector<std::string> ProgressForms(const proto::StepDone& done, int64_t train_iters,
                                       double smoothed_step_ms) {
  const double rate = done.tokens_per_s();
  const std::string speed = rate >= 1000 ? absl::StrFormat("  %.1fk tokens/s", rate / 1000)
                                         : absl::StrFormat("  %.0f tokens/s", rate);
  const int64_t steps_left = train_iters > done.step() ? train_iters - done.step() : 0;
  const std::string left = absl::StrCat(
      "  ", ClockText(absl::Milliseconds(smoothed_step_ms * static_cast<double>(steps_left))),
      " left");
  const std::string step = absl::StrFormat("step %d/%d", done.step(), train_iters);
  const std::string head = absl::StrFormat("%s  loss %.4f", step, done.loss());
  const std::string lr = absl::StrFormat("  lr %.2e", done.lr());
  std::string norm = absl::StrFormat("  grad norm %.3f", done.grad_norm());
  if (done.loss_scale() > 0) absl::StrAppend(&norm, "  loss scale ", done.loss_scale());
  return {absl::StrCat(head, lr, norm, speed, left),
          absl::StrCat(head, speed, left),
          absl::StrCat(head, left),
          head,
          absl::StrFormat("%d  %.4f", done.step(), done.loss()),
          absl::StrFormat("%d", done.step())};
}

Console::Console(const proto::JobSpec& job, const Options& options)
    : options_(options),
      hosts_(HostsOf(job)),
      is_train_(job.has_train()),
      train_iters_(job.train().train_iters()),
      log_interval_(job.train().log_interval() > 0 ? job.train().log_interval() : 10),
      open_(hosts_, {.terminal = options.terminal, .ends_at_once = options.progress_line}),
      writer_(options.output) {
  size_t slots = 0;
  for (const proto::NodeSpec& node : job.nodes()) {
    slots += static_cast<size_t>(node.slots_size());
  }
  ranks_.SetWidth(slots);
  shower_ = StartThreadOrEnd("the console", [this] { ShowWhenDue(); });
}

Console::~Console() { StopShowing(); }

// What waits is shown now, and what comes later waits no more.
int64_t Console::StopShowing() {
  int64_t left_out = 0;
  {
    MutexLock lock(mu_);
    closing_ = true;
    Show(ranks_.All());
    const absl::Duration now = options_.clock->SteadyNow();
    ShowOpen([now](OpenLines& open) { return open.EndAll(now); });
    left_out = lines_left_out_;
    changed_.NotifyAll();
  }
  if (shower_.joinable()) shower_.join();
  return left_out;
}

void Console::Tell(const OperatorEvent& event) {
  if (const auto* progress = std::get_if<struct Progress>(&event)) return Progress(*progress);
  // A program's operator wants the program's words; ours only when something happens.
  const bool routine = std::holds_alternative<AgentsOpened>(event) ||
                       std::holds_alternative<GenerationRunning>(event);
  const auto* started = std::get_if<GenerationStarted>(&event);
  if (started != nullptr) {
    MutexLock lock(mu_);
    ranks_.SetWidth(started->ranks.size());
  }
  if (!is_train_ && routine) return;
  if (!is_train_ && started != nullptr && started->generation == Generation(1)) return;
  if (const std::string text = OperatorText(event); !text.empty()) Say(text);
}

void Console::Progress(const struct Progress& progress) {
  const proto::StepDone& done = progress.done;
  if (std::isfinite(done.step_ms())) {
    step_ms_ = step_ms_ == 0 ? done.step_ms() : step_ms_ + kSmoothing * (done.step_ms() - step_ms_);
  }
  std::vector<std::string> forms = ProgressForms(done, train_iters_, step_ms_);
  if (options_.progress_line) return writer_.SetStatusLine(std::move(forms));
  MutexLock lock(mu_);
  ShowOpen([](OpenLines& open) { return open.Interrupt(); });
  if (done.step() == 1 || done.step() % log_interval_ == 0 || done.step() == train_iters_) {
    writer_.Write(OutputWriter::To::kOut, forms.front() + "\n");
  }
}

void Console::RankOutput(NodeId node, const proto::LogChunk& chunk) {
  if (options_.quiet_ranks) return;
  const LineCollapser::Source source{node, Rank(chunk.rank())};
  const absl::Duration now = options_.clock->SteadyNow();
  MutexLock lock(mu_);
  if (chunk.dropped_lines() > 0) {  // before what this chunk says
    TakePiece(now, source, "", /*whole=*/open_.Has(source));
    ranks_.Add(now, source,
               absl::StrCat("(", Counted(chunk.dropped_lines(), "line"),
                            " not shown, the console was too slow; all are in the rank's file)"));
  }
  std::string_view rest = chunk.text();
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    TakePiece(now, source, rest.substr(0, end), /*whole=*/end != std::string_view::npos);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  Show(closing_ ? ranks_.All() : ranks_.Due(now));
  changed_.NotifyAll();
}

void Console::TakePiece(absl::Duration now, const LineCollapser::Source& source,
                        std::string_view piece, bool whole) {
  if (whole && open_.Has(source)) {
    ShowOpen([&](OpenLines& open) { return open.End(now, source, piece); });
  } else if (whole) {
    while (!piece.empty() && piece.back() == '\r') piece.remove_suffix(1);
    ranks_.Add(now, source, std::string(piece.substr(piece.rfind('\r') + 1)));
  } else if (!piece.empty()) {
    Show(ranks_.UpTo(source));  // a rank's own order
    ShowOpen([&](OpenLines& open) { return open.Add(now, source, piece); });
    if (closing_) ShowOpen([now](OpenLines& open) { return open.EndAll(now); });
  }
}

void Console::ShowOpen(OpenText text_of) {
  const std::optional<OpenLines::Tail> before = open_.at_end();
  open_.SetColumns(options_.terminal ? writer_.Columns() : 0);
  std::string text = text_of(open_);
  if (text.empty() || writer_.WriteDroppable(OutputWriter::To::kOut, std::move(text))) return;
  open_.PutBack(before);  // the screen is as it was
  ++lines_left_out_;
}

void Console::ShowAll() {
  Show(ranks_.All());
  ShowOpen([](OpenLines& open) { return open.Interrupt(); });
}

void Console::Show(const std::vector<LineCollapser::Line>& lines) {
  if (lines.empty()) return;
  const std::optional<OpenLines::Tail> before = open_.at_end();
  const size_t columns = options_.terminal ? writer_.Columns() : 0;
  std::string text = open_.Interrupt();
  int64_t count = 0;
  for (const LineCollapser::Line& line : lines) {
    const std::string prefix = absl::StrCat("[", SourcesText(line.sources, hosts_), "] ");
    size_t column = 0;
    absl::StrAppend(&text,
                    options_.terminal ? InRows(prefix + TerminalText(line.text), columns, column)
                                      : prefix + line.text,
                    "\n");
    count += static_cast<int64_t>(line.sources.size());
  }
  if (writer_.WriteDroppable(OutputWriter::To::kOut, std::move(text))) return;
  open_.PutBack(before);
  lines_left_out_ += count;
}

void Console::ShowWhenDue() {
  MutexLock lock(mu_);
  while (!closing_) {
    const absl::Duration now = options_.clock->SteadyNow();
    Show(ranks_.Due(now));
    ShowOpen([now](OpenLines& open) { return open.Due(now); });
    const absl::Duration next = std::min(ranks_.next(), open_.next());
    if (next == absl::InfiniteDuration()) {
      changed_.Wait(mu_);
    } else {
      changed_.WaitFor(mu_, next - now);
    }
  }
}

void Console::Say(const std::string& text) {
  MutexLock lock(mu_);
  ShowAll();
  // What others said may be several lines, and none of them must look like one of ours.
  const std::string words = absl::StrReplaceAll(Escaped(text, "\n\t"), {{"\n", "\n  "}});
  writer_.Write(OutputWriter::To::kErr, absl::StrCat("dsrun: ", words, "\n"));
}

OutputWriter::Loss Console::Finish(const std::string& screen, bool failed) {
  const int64_t left_out = StopShowing();
  if (left_out > 0) {
    Say(absl::StrCat(Counted(left_out, "line"), " of the ranks not shown, because the reader of ",
                     "standard output was too slow; all are in the ranks' files"));
  }
  if (!screen.empty()) {
    writer_.SetStatusLine({});  // the screen says where it ended
    writer_.Write(failed ? OutputWriter::To::kErr : OutputWriter::To::kOut, screen);
  }
  OutputWriter::Loss loss = writer_.Close(kPatience);
  if (left_out > 0 && loss.why.empty()) loss.why = "standard output: its reader was too slow";
  loss.lines += left_out;
  return loss;
}

}  // namespace dsrun::launcher
