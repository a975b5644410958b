// Console: what the operator sees while a job runs. On a terminal a progress line, rewritten in
// place; in a file plain lines, one every log_interval steps. Ranks' output prefixed "[host:rank]
// ", line by line; the same line of several ranks within kCollapseWindow is shown once, with the
// ranks that said it: "[127.0.0.1:0-3] "; one that is not whole yet as far as it goes
// (open_lines.h). Generation changes, failures and warnings as single lines.
//
// A rank's line is shown at most kCollapseWindow after it came, in the rank's own order, and before
// whatever dsrun says later; with one rank at once.
//
// Ranks' output and progress go to standard output; what dsrun itself has to say goes to standard
// error, prefixed "dsrun: ", so that a program's output can be piped on unspoilt.
// On a terminal a rank cannot do harm (terminal_text.h), and a row of its own begins with its
// prefix or a blank, also where its line is wider than the window; elsewhere its bytes stay as they
// are. A line of a rank always has its prefix, and no line of dsrun's begins with another's words.
// Thread-safe; no method blocks except Flush and Finish.

#ifndef DSRUN_LAUNCHER_CONSOLE_CONSOLE_H_
#define DSRUN_LAUNCHER_CONSOLE_CONSOLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "launcher/console/line_collapser.h"
#include "launcher/console/open_lines.h"
#include "launcher/console/output_writer.h"
#include "launcher/coordinator/events.h"
#include "proto/agent.pb.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

class Console {
 public:
  struct Options {
    bool progress_line = false;
    bool terminal = false;  // standard output is one
    bool quiet_ranks = false;
    OutputWriter::Options output;
    Clock* clock = &Clock::Real();  // must outlive the console
  };

  static constexpr absl::Duration kCollapseWindow = absl::Milliseconds(100);

  Console(const proto::JobSpec& job, const Options& options);
  ~Console();

  void Tell(const OperatorEvent& event);
  void RankOutput(NodeId node, const proto::LogChunk& chunk);
  // A line of dsrun's own, without prefix and newline.
  void Say(const std::string& text);
  // Waits until all that was said is on the screen, `limit` at most.
  void Flush(absl::Duration limit) { writer_.Flush(limit); }
  // The terminal has another size.
  void Resized() { writer_.Resized(); }
  // The last screen: to standard error if `failed`, else to standard output. Returns what of all
  // that was to be shown was not, and why (lines of ranks included, which are in their files).
  OutputWriter::Loss Finish(const std::string& screen, bool failed);

 private:
  void Progress(const struct Progress& progress);
  void ShowWhenDue();
  int64_t StopShowing();  // returns how many lines were left out
  void Show(const std::vector<LineCollapser::Line>& lines) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // All lines that are whole; those that are not are interrupted.
  void ShowAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakePiece(absl::Duration now, const LineCollapser::Source& source, std::string_view piece,
                 bool whole) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  using OpenText = absl::FunctionRef<std::string(OpenLines&)>;
  void ShowOpen(OpenText text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  std::vector<std::string> hosts_;  // by node
  const bool is_train_;
  const int64_t train_iters_;
  const int64_t log_interval_;

  // Of the thread that calls Tell.
  double step_ms_ = 0;  // smoothed

  Mutex mu_;  // also keeps what is taken out of ranks_ in its order on the way to writer_
  CondVar changed_;
  LineCollapser ranks_ ABSL_GUARDED_BY(mu_){kCollapseWindow};
  OpenLines open_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  int64_t lines_left_out_ ABSL_GUARDED_BY(mu_) = 0;
  OutputWriter writer_;
  std::thread shower_;  // of lines whose window has passed
};

// One line each, without newline; empty: nothing to say. Pure.
std::string OperatorText(const OperatorEvent& event);
// "step 120/300  loss 2.3412  lr 1.00e-03  grad norm 0.83  41.2k tokens/s  0:12 left", and shorter
// forms of it for narrow terminals, down to the step alone.
std::vector<std::string> ProgressForms(const proto::StepDone& done, int64_t train_iters,
                                       double smoothed_step_ms);
// "0:07", "12:34", "1:02:03".
std::string ClockText(absl::Duration duration);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_CONSOLE_H_
