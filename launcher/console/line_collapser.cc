#include "launcher/console/line_collapser.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {

void LineCollapser::Add(absl::Duration now, Source source, std::string text) {
  uint64_t& after = after_[source];
  std::deque<uint64_t>& alike = by_text_[text];
  const auto found = std::lower_bound(alike.begin(), alike.end(), after);
  if (found != alike.end()) {
    At(*found).line.sources.insert(source);
    after = *found + 1;
    return;
  }
  const uint64_t number = first_ + waiting_.size();
  alike.push_back(number);
  after = number + 1;
  waiting_.push_back({{std::move(text), {source}}, now + window_});
}

std::vector<LineCollapser::Line> LineCollapser::Due(absl::Duration now) {
  std::vector<Line> lines;
  while (!waiting_.empty()) {
    const Waiting& first = waiting_.front();
    const bool complete = width_ > 0 && first.line.sources.size() >= width_;
    if (!complete && first.until > now && waiting_.size() <= kMostWaiting) break;
    lines.push_back(TakeFirst());
  }
  return lines;
}

std::vector<LineCollapser::Line> LineCollapser::All() {
  std::vector<Line> lines;
  while (!waiting_.empty()) lines.push_back(TakeFirst());
  return lines;
}

std::vector<LineCollapser::Line> LineCollapser::UpTo(const Source& source) {
  const auto after = after_.find(source);
  std::vector<Line> lines;
  while (after != after_.end() && first_ < after->second) lines.push_back(TakeFirst());
  return lines;
}

absl::Duration LineCollapser::next() const {
  return waiting_.empty() ? absl::InfiniteDuration() : waiting_.front().until;
}

LineCollapser::Line LineCollapser::TakeFirst() {
  Line line = std::move(waiting_.front().line);
  waiting_.pop_front();
  ++first_;
  const auto alike = by_text_.find(line.text);
  alike->second.pop_front();  // the oldest of its like
  if (alike->second.empty()) by_text_.erase(alike);
  return line;
}

std::string SourcesText(const std::set<LineCollapser::Source>& sources,
                        const std::vector<std::string>& hosts) {
  std::string text;
  for (auto it = sources.begin(); it != sources.end();) {
    const auto first = it;
    auto last = it;
    for (++it; it != sources.end() && it->node == first->node &&
               it->rank.value() == last->rank.value() + 1;
         ++it) {
      last = it;
    }
    const bool same_host = first != sources.begin() && std::prev(first)->node == first->node;
    if (same_host) {
      absl::StrAppend(&text, ",");
    } else {
      absl::StrAppend(&text, text.empty() ? "" : " ",
                      hosts.at(static_cast<size_t>(first->node.value())), ":");
    }
    absl::StrAppend(&text, first->rank.value());
    if (last != first) absl::StrAppend(&text, "-", last->rank.value());
  }
  return text;
}

}  // namespace dsrun::launcher
