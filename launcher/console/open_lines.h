// OpenLines: lines of ranks that are not whole yet (a prompt, a row of dots, a progress bar), on an
// output that all ranks share.
//
// At most one such line stands at the end of the output; it is gone on with, or redrawn behind a
// carriage return with its prefix. When somebody else has to say something, it is ended by a
// newline, and what comes of it later follows on a line of its own, with the prefix again:
//
//   [w0:3] loading ..           rank 3 is interrupted
//   [w1:4] ready
//   [w0:3] .. done              and goes on
//
// So nothing is shown twice and nothing is lost, but of a line that is redrawn only the newest
// state is. A line that is interrupted again and again, because several ranks draw progress bars,
// is gone on with at most once every kElsewhere.
//
// Text comes out of here to be written as it is: for a terminal, what ranks wrote is made fit for
// one (terminal_text.h), and half a letter waits for its other half. Pure; not thread-safe.

#ifndef DSRUN_LAUNCHER_CONSOLE_OPEN_LINES_H_
#define DSRUN_LAUNCHER_CONSOLE_OPEN_LINES_H_

#include <cstddef>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "launcher/console/line_collapser.h"

namespace dsrun::launcher {

class OpenLines {
 public:
  using Source = LineCollapser::Source;
  struct Options {
    // The rest of a line that is redrawn shorter can be cleared, and bytes can do harm.
    bool terminal = false;
    // Something else stands at the end of the output (a progress line): every line is ended at
    // once.
    bool ends_at_once = false;
  };

  static constexpr absl::Duration kElsewhere = absl::Seconds(1);
  // A longer line is none; agents cut them before (agent/log_pump.h).
  static constexpr size_t kMostBytes = 64 * 1024;

  // `hosts`: by node, for the prefix.
  OpenLines(std::vector<std::string> hosts, Options options);

  // Whether a line of this rank was begun and not ended.
  bool Has(const Source& source) const { return lines_.contains(source); }
  // More of the rank's line; behind a carriage return: instead of what was there. Text to be
  // written now, or nothing, if that is for later (next).
  std::string Add(absl::Duration now, const Source& source, std::string_view text);
  // The last of it. REQUIRES: Has.
  std::string End(absl::Duration now, const Source& source, std::string_view text);
  // Everything that has become due.
  std::string Due(absl::Duration now);
  // When Due will have something; infinite: nothing is held back.
  absl::Duration next() const;
  // Others are about to write: a newline, if the output does not end in one.
  std::string Interrupt();
  // All lines as they are, and none any more.
  std::string EndAll(absl::Duration now);

  // From now on, of a terminal: how wide rows are. Longer lines go on in rows of our own (InRows).
  void SetColumns(size_t columns) { columns_ = columns; }

  // What stands at the end of the output. To be put back when text was not written.
  struct Tail {
    Source source;
    size_t column = 0;  // behind it, on a terminal
  };
  const std::optional<Tail>& at_end() const { return at_end_; }
  void PutBack(std::optional<Tail> at_end) { at_end_ = at_end; }

 private:
  struct Line {
    std::string text;
    std::string colours;  // that what was shown ends in
    size_t shown = 0;     // of `text`
    bool redraw = false;  // what was shown is not what the line says now
    bool seen = false;    // some of it was shown
    absl::Duration due = absl::InfiniteDuration();
    absl::Duration shown_at;
  };
  static void Extend(Line& line, std::string_view text);
  // Up to where `text` can be shown; `last`: nothing more comes.
  size_t Showable(const Line& line, bool last) const;
  bool IsAtEnd(const Source& source) const { return at_end_ && at_end_->source == source; }
  std::string Draw(absl::Duration now, const Source& source, Line& line, bool last = false);

  const std::vector<std::string> hosts_;
  const Options options_;
  std::map<Source, Line> lines_;
  std::optional<Tail> at_end_;
  size_t columns_ = std::numeric_limits<size_t>::max();
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_OPEN_LINES_H_
