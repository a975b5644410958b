// One line on a terminal that says how far a long reading is; nothing where there is none. Threads:
// one.

#ifndef DSRUN_LAUNCHER_COMMANDS_BYTE_PROGRESS_H_
#define DSRUN_LAUNCHER_COMMANDS_BYTE_PROGRESS_H_

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>

namespace dsrun::launcher {

class ByteProgress {
 public:
  // `terminal`: nullptr: there is none. It must outlive this.
  ByteProgress(std::ostream* terminal, std::string what, int64_t total_bytes)
      : terminal_(terminal), what_(std::move(what)), total_(std::max<int64_t>(total_bytes, 1)) {}
  ByteProgress(const ByteProgress&) = delete;
  ByteProgress& operator=(const ByteProgress&) = delete;
  // Clears the line.
  ~ByteProgress() {
    if (terminal_ != nullptr && shown_ >= 0) *terminal_ << "\r\x1b[K" << std::flush;
  }

  // A second reading of the same bytes does not go beyond 100 %.
  void Add(int64_t bytes) {
    done_ = std::min(done_ + bytes, total_);
    const int64_t percent =
        static_cast<int64_t>(100.0 * static_cast<double>(done_) / static_cast<double>(total_));
    if (terminal_ == nullptr || percent == shown_) return;
    shown_ = percent;
    *terminal_ << "\r\x1b[K" << what_ << ": " << done_ / (1 << 20) << " of " << total_ / (1 << 20)
               << " MiB, " << percent << " %" << std::flush;
  }

 private:
  std::ostream* const terminal_;
  const std::string what_;
  const int64_t total_;
  int64_t done_ = 0;
  int64_t shown_ = -1;  // percent
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_BYTE_PROGRESS_H_
