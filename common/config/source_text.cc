#include "common/config/source_text.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace dsrun {
namespace {

constexpr size_t kExcerptLimit = 160;
constexpr size_t kQuotedLimit = 120;

bool IsControl(char c) {
  const unsigned char u = static_cast<unsigned char>(c);
  return u < 0x20 || u == 0x7f;
}

// What a terminal may show of a line: control bytes could move its cursor.
std::string Printable(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (IsControl(c) && c != '\t') c = '?';
  }
  return out;
}

// Blanks up to the column; tabs are kept, so that the caret stands below its byte at any tab width.
std::string CaretPadding(std::string_view text, size_t offset) {
  std::string out;
  for (size_t i = 0; i < offset; ++i) {
    if (i >= text.size()) {
      out.push_back(' ');
    } else if (text[i] == '\t') {
      out.push_back('\t');
    } else if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {  // not inside a UTF-8 letter
      out.push_back(' ');
    }
  }
  return out;
}

}  // namespace

std::string Diagnostic::Headline() const {
  std::string out = file;
  if (line > 0) out += ":" + std::to_string(line) + ":" + std::to_string(column);
  return out + ": " + (warning ? "warning: " : "") + message;
}

std::string Diagnostic::Render() const {
  std::string out = Headline();
  if (column == 0 || excerpt.empty()) return out;
  std::string_view shown = excerpt;
  size_t offset = static_cast<size_t>(column) - 1;
  std::string left;
  if (offset > kExcerptLimit / 2) {  // keep the place in sight
    const size_t cut = std::min(offset - kExcerptLimit / 2, shown.size());
    shown.remove_prefix(cut);
    offset -= cut;
    left = "...";
  }
  std::string right;
  if (shown.size() > kExcerptLimit) {
    shown = shown.substr(0, kExcerptLimit);
    right = "...";
  }
  out += "\n  " + left + Printable(shown) + right;
  out += "\n  " + std::string(left.size(), ' ') + CaretPadding(shown, offset) + "^";
  return out;
}

SourceText::SourceText(std::string name, std::string text)
    : name_(std::move(name)), text_(std::move(text)) {
  const std::string_view all = text_;
  size_t begin = 0;
  int number = 1;
  while (begin < all.size()) {
    size_t end = all.find('\n', begin);
    if (end == std::string_view::npos) end = all.size();
    std::string_view line = all.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines_.push_back({number++, line});
    begin = end + 1;
  }
}

Diagnostic SourceText::At(const SourceLine& line, size_t offset, std::string message) const {
  Diagnostic d;
  d.file = name_;
  d.line = line.number;
  d.column = static_cast<int>(offset) + 1;
  d.message = std::move(message);
  d.excerpt = std::string(line.text);
  return d;
}

void Findings::Add(Diagnostic diagnostic) { all_.push_back(std::move(diagnostic)); }

void Findings::AddFlag(std::string flag, std::string message) {
  Diagnostic d;
  d.file = std::move(flag);
  d.message = std::move(message);
  Add(std::move(d));
}

void Findings::AddFlagAt(std::string flag, std::string_view value, size_t offset,
                         std::string message) {
  Diagnostic d;
  d.file = std::move(flag);
  d.column = static_cast<int>(offset) + 1;
  d.message = std::move(message);
  d.excerpt = std::string(value);
  Add(std::move(d));
}

void Findings::Append(const Findings& other) {
  all_.insert(all_.end(), other.all_.begin(), other.all_.end());
}

bool Findings::has_errors() const {
  return std::any_of(all_.begin(), all_.end(), [](const Diagnostic& d) { return !d.warning; });
}

std::vector<Diagnostic> Findings::errors() const {
  std::vector<Diagnostic> out;
  for (const Diagnostic& d : all_) {
    if (!d.warning) out.push_back(d);
  }
  return out;
}

std::vector<Diagnostic> Findings::warnings() const {
  std::vector<Diagnostic> out;
  for (const Diagnostic& d : all_) {
    if (d.warning) out.push_back(d);
  }
  return out;
}

std::string Findings::Render() const {
  std::string out;
  for (const Diagnostic& d : all_) out += d.Render() + "\n";
  return out;
}

absl::Status Findings::ToStatus() const {
  if (!has_errors()) return absl::OkStatus();
  std::string text;
  for (const Diagnostic& d : errors()) text += (text.empty() ? "" : "\n") + d.Render();
  return absl::InvalidArgumentError(text);
}

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  const bool cut = text.size() > kQuotedLimit;
  for (const char c : cut ? text.substr(0, kQuotedLimit) : text) {
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (IsControl(c)) {
      char hex[8];
      std::snprintf(hex, sizeof(hex), "\\x%02x",
                    static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += hex;
    } else {
      out.push_back(c);
    }
  }
  return out + (cut ? "...\"" : "\"");
}

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r'; }

std::string_view Stripped(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsBlank(text.back())) text.remove_suffix(1);
  return text;
}

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

}  // namespace dsrun
