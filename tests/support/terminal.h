// A terminal as a test sees it: a real one of the kernel's (a pty) whose other end the test holds,
// and a model of its screen, small and strict.

#ifndef DSRUN_TESTS_SUPPORT_TERMINAL_H_
#define DSRUN_TESTS_SUPPORT_TERMINAL_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace dsrun {

class Terminal {
 public:
  // `columns`: 0: it does not say.
  explicit Terminal(int columns = 80);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // The end that programs write to, and its name.
  int programs_end() const { return programs_end_; }
  const std::string& path() const { return path_; }
  void Resize(int columns) const;
  // As though somebody typed it.
  void Type(std::string_view keys) const;

  // Reads until `end` was seen after what an earlier Await has found; false: it never was.
  bool Await(std::string_view end, absl::Duration limit = absl::Seconds(40));
  // Reads what there is now.
  void Drain();
  // All that was read.
  const std::string& text() const { return text_; }

 private:
  bool ReadSome(int wait_ms);

  int readers_end_ = -1;
  int programs_end_ = -1;
  std::string path_;
  std::string text_;
  size_t found_ = 0;
};

// Letters, carriage return, newline, ESC [ K and colours. Whatever else a terminal would act upon
// is kept in `strange`. What is wider than the screen is wrapped, and counted.
class ScreenModel {
 public:
  explicit ScreenModel(size_t columns) : columns_(columns) {}

  void Feed(std::string_view bytes);
  // As xterm does: what is beyond is cut off.
  void Resize(size_t columns);

  const std::vector<std::string>& rows() const { return rows_; }
  // Without blanks at its end.
  std::string Row(size_t row) const;
  std::string LastRow() const { return Row(rows_.size() - 1); }
  int wraps() const { return wraps_; }
  const std::string& strange() const { return strange_; }

 private:
  void Put(char letter);
  // The rest of a sequence that begins here; how many bytes it has.
  size_t Escape(std::string_view bytes);

  size_t columns_;
  std::vector<std::string> rows_ = {""};
  size_t row_ = 0;
  size_t column_ = 0;  // columns_: behind the last one, until the next letter
  int wraps_ = 0;
  std::string strange_;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_TERMINAL_H_
