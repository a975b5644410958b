#include "launcher/console/open_lines.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "launcher/console/terminal_text.h"

namespace dsrun::launcher {
namespace {

constexpr char kClearRest[] = "\033[K";

}  // namespace

OpenLines::OpenLines(std::vector<std::string> hosts, Options options)
    : hosts_(std::move(hosts)), options_(options) {}

void OpenLines::Extend(Line& line, std::string_view text) {
  // A return at the very end moves nothing yet; of the others only the last matters.
  const size_t end = text.find_last_not_of('\r');
  if (end == std::string_view::npos) return;
  text = text.substr(0, end + 1);
  if (const size_t last = text.rfind('\r'); last != std::string_view::npos) {
    line.redraw = line.seen;
    line.shown = 0;
    line.text.clear();
    text.remove_prefix(last + 1);
  }
  line.text.append(text);
}

size_t OpenLines::Showable(const Line& line, bool last) const {
  return last || !options_.terminal ? line.text.size() : WholeBytes(line.text);
}

std::string OpenLines::Draw(absl::Duration now, const Source& source, Line& line, bool last) {
  const bool here = IsAtEnd(source);
  const bool begins = !here || line.redraw;
  std::string text;
  if (here && line.redraw) {
    absl::StrAppend(&text, "\r");
  } else if (!here && at_end_.has_value()) {
    absl::StrAppend(&text, "\n");
  }
  const std::string prefix = begins ? absl::StrCat("[", SourcesText({source}, hosts_), "] ") : "";
  const size_t end = std::max(line.shown, Showable(line, last));
  const std::string_view news = std::string_view(line.text).substr(line.shown, end - line.shown);
  size_t column = begins ? 0 : at_end_->column;
  absl::StrAppend(&text, options_.terminal
                             ? InRows(prefix + TerminalText(news, line.colours), columns_, column)
                             : absl::StrCat(prefix, std::string(news)));
  if (here && line.redraw && options_.terminal) absl::StrAppend(&text, kClearRest);
  at_end_ = Tail{source, column};
  line.shown = end;
  line.redraw = false;
  line.seen = true;
  line.shown_at = now;
  line.due = absl::InfiniteDuration();
  if (options_.ends_at_once) absl::StrAppend(&text, Interrupt());
  return text;
}

std::string OpenLines::Add(absl::Duration now, const Source& source, std::string_view text) {
  Line& line = lines_[source];
  Extend(line, text);
  if (line.text.size() > kMostBytes) return End(now, source, "");
  if (!line.redraw && line.shown >= Showable(line, /*last=*/false)) return "";
  if (line.seen && !IsAtEnd(source)) {
    line.due = line.shown_at + kElsewhere;
    if (now < line.due) return "";
  }
  return Draw(now, source, line);
}

std::string OpenLines::End(absl::Duration now, const Source& source, std::string_view text) {
  Line& line = lines_[source];
  Extend(line, text);
  std::string out;
  // Interrupted and with nothing more to say, it was ended then.
  const bool news = line.redraw || line.shown < line.text.size() || !line.seen;
  if (news || IsAtEnd(source)) {
    if (news) out = Draw(now, source, line, /*last=*/true);
    absl::StrAppend(&out, Interrupt());
  }
  lines_.erase(source);
  return out;
}

std::string OpenLines::Due(absl::Duration now) {
  std::string text;
  for (auto& [source, line] : lines_) {
    if (line.due <= now) absl::StrAppend(&text, Draw(now, source, line));
  }
  return text;
}

absl::Duration OpenLines::next() const {
  absl::Duration next = absl::InfiniteDuration();
  for (const auto& [source, line] : lines_) next = std::min(next, line.due);
  return next;
}

std::string OpenLines::Interrupt() {
  return std::exchange(at_end_, std::nullopt).has_value() ? "\n" : "";
}

std::string OpenLines::EndAll(absl::Duration now) {
  std::string text;
  while (!lines_.empty()) absl::StrAppend(&text, End(now, lines_.begin()->first, ""));
  return text;
}

}  // namespace dsrun::launcher
