// LineCollapser: the same line of several ranks, at nearly the same time, becomes one line with the
// ranks that said it.
//
// A line waits for its like for `window` and no longer; when every rank has said it, it goes at
// once. Lines come out in the order in which they were first heard, so a rank's own lines keep
// their order: its line joins one that waits only if all its earlier lines are before that one.
// Nothing is lost: every line that was added comes out exactly once, alone or with others'. What is
// in the ranks' files is not touched. Pure; not thread-safe.

#ifndef DSRUN_LAUNCHER_CONSOLE_LINE_COLLAPSER_H_
#define DSRUN_LAUNCHER_CONSOLE_LINE_COLLAPSER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"

namespace dsrun::launcher {

class LineCollapser {
 public:
  struct Source {
    NodeId node;
    Rank rank;
    friend auto operator<=>(const Source&, const Source&) = default;
  };
  struct Line {
    std::string text;
    std::set<Source> sources;
  };

  // More lines than this never wait: the oldest go before their window has passed.
  static constexpr size_t kMostWaiting = 4096;

  explicit LineCollapser(absl::Duration window) : window_(window) {}

  // How many ranks there are: a line that all have said waits no longer, and with one rank none
  // waits at all. 0: not known.
  void SetWidth(size_t ranks) { width_ = ranks; }

  // `now`: steady, never less than before. Due and All say what is to be shown by then.
  void Add(absl::Duration now, Source source, std::string text);
  std::vector<Line> Due(absl::Duration now);
  std::vector<Line> All();
  // Those that this rank has said, and what was heard before: it is about to say something that
  // does not wait.
  std::vector<Line> UpTo(const Source& source);
  // When Due will have something; infinite: nothing waits.
  absl::Duration next() const;

 private:
  struct Waiting {
    Line line;
    absl::Duration until;
  };
  Waiting& At(uint64_t number) { return waiting_[static_cast<size_t>(number - first_)]; }
  Line TakeFirst();

  const absl::Duration window_;
  size_t width_ = 0;
  uint64_t first_ = 0;  // number of waiting_.front(); numbers are never used again
  std::deque<Waiting> waiting_;
  std::map<std::string, std::deque<uint64_t>> by_text_;  // numbers of what waits, ascending
  std::map<Source, uint64_t> after_;  // a line of this rank may join this number or a later one
};

// The ranks, by host in the order of `hosts`: "127.0.0.1:0-3", "alpha:0,2 beta:4-7".
std::string SourcesText(const std::set<LineCollapser::Source>& sources,
                        const std::vector<std::string>& hosts);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_LINE_COLLAPSER_H_
