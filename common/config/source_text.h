// Text with positions, and findings that point into it. Everything a person wrote (hostfile, filter
// strings, flags, environment files) is judged through this: a parser collects all it finds into
// one Findings, and the caller prints them together before anything starts.
//
//   two.hosts:7:10: slots must be a positive integer, got "0"
//     gpu-03 slots=0
//              ^
//
// Pure; not thread-safe.

#ifndef DSRUN_COMMON_CONFIG_SOURCE_TEXT_H_
#define DSRUN_COMMON_CONFIG_SOURCE_TEXT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace dsrun {

// One finding. `line` 0: the text has no lines (a flag's value); only the caret shows the place.
// `column` 0: no place at all.
struct Diagnostic {
  std::string file;  // a path, or the flag whose value is meant: "--include"
  int line = 0;      // 1-based
  int column = 0;    // 1-based, in bytes
  std::string message;
  std::string excerpt;  // the line (or value) that the column counts in
  bool warning = false;

  // "file:line:column: message" and, where there is an excerpt, two more lines with a caret. What
  // cannot be seen is spelt out (common/base/escaped.h), wherever in it that comes from.
  std::string Render() const;
  // The first line of Render() alone.
  std::string Headline() const;
};

// One line of a text, without its end ("\n", "\r\n" or "\r") and without a byte order mark.
struct SourceLine {
  int number = 0;  // 1-based
  std::string_view text;
};

class Findings;

// A whole text under its name. Lines point into it: it must outlive them, and is not copied.
class SourceText {
 public:
  SourceText(std::string name, std::string text);
  SourceText(const SourceText&) = delete;
  SourceText& operator=(const SourceText&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<SourceLine>& lines() const { return lines_; }
  // Whether it is what a text editor writes: a byte order mark is a finding; of UTF-16 and of a
  // zero byte, where parsing makes no sense, it is the last one (false). `expected`: "a hostfile".
  // Every parser begins with this.
  bool IsPlain(const std::string& expected, Findings& findings) const;
  // A finding at byte `offset` (0-based) of `line`.
  Diagnostic At(const SourceLine& line, size_t offset, std::string message) const;

 private:
  std::string name_;
  std::string text_;
  std::vector<SourceLine> lines_;
};

// Findings in the order in which they were made.
class Findings {
 public:
  void Add(Diagnostic diagnostic);
  // A finding about a flag as a whole.
  void AddFlag(std::string flag, std::string message);
  // A finding at byte `offset` of a flag's value.
  void AddFlagAt(std::string flag, std::string_view value, size_t offset, std::string message);
  void Append(const Findings& other);

  bool has_errors() const;
  const std::vector<Diagnostic>& all() const { return all_; }
  std::vector<Diagnostic> errors() const;
  std::vector<Diagnostic> warnings() const;
  // All of them, each ended by a line end.
  std::string Render() const;
  // OK, or INVALID_ARGUMENT with all errors.
  absl::Status ToStatus() const;

 private:
  std::vector<Diagnostic> all_;
};

// The text in double quotes; what cannot be seen (common/base/escaped.h), quotes and backslashes
// are escaped, and what is very long is cut.
std::string Quoted(std::string_view text);

// True for the blanks that separate words in our texts.
bool IsBlank(char c);
// Without the blanks at both ends.
std::string_view Stripped(std::string_view text);
bool StartsWith(std::string_view text, std::string_view prefix);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_SOURCE_TEXT_H_
