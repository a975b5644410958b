// What is left to say when a job has ended: the last screen for people (at most 25 lines) and the
// same as JSON for programs. Pure: everything comes in as arguments.

#ifndef DSRUN_LAUNCHER_CONSOLE_REPORT_TEXT_H_
#define DSRUN_LAUNCHER_CONSOLE_REPORT_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/time/time.h"
#include "launcher/coordinator/report.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// What the report alone does not know.
struct ReportContext {
  proto::JobSpec job;
  std::string log_folder;
  bool run_dir_given = false;  // by --run-dir: the same command would be refused its folder
  // The report's manifest was found in the save folder; nobody reported its commit.
  bool commit_unreported = false;
  bool terminal = false;  // the screen goes to one: what ranks wrote is made fit for it
  size_t columns = std::numeric_limits<size_t>::max();  // and put in rows of that width (InRows)
  // Together they turn the report's steady times into wall time.
  absl::Duration steady_now;
  absl::Time wall_now;
  // What the operator's screen (standard output and error) did not take, and why; 0: nothing.
  int64_t screen_lines_lost = 0;
  std::string screen_lost_why = {};
};

inline constexpr int kMostScreenLines = 25;

// What happened, the first failing rank, where it was, its last words, which generation went on,
// how long it took, where things are, what to do next.
std::string ReportScreen(const Report& report, const ReportContext& context);

// The whole report, pretty-printed. Bytes that are not UTF-8 are replaced.
std::string ReportJson(const Report& report, const ReportContext& context);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_REPORT_TEXT_H_
