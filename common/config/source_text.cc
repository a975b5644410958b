#include "common/config/source_text.h"

#include <algorithm>
#include <utility>

#include "common/base/escaped.h"

namespace dsrun {
namespace {

constexpr size_t kExcerptLimit = 160;
constexpr size_t kQuotedLimit = 120;

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

bool IsInsideLetter(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// A line as a terminal may show it, tabs included, and how far to the right `offset` then is.
struct Shown {
  std::string text;
  std::string padding;
};

Shown ShowLine(std::string_view line, size_t offset) {
  Shown shown;
  size_t at = 0;
  while (at < line.size()) {
    const std::string_view letter = FirstLetter(line.substr(at));
    const bool plain = letter == "\t" || EscapedLetter(letter) == letter;
    const std::string text = plain ? std::string(letter) : EscapedLetter(letter);
    shown.text += text;
    // Tabs are kept, so that the caret stands below its byte at any tab width.
    if (at + letter.size() <= offset) {
      shown.padding += letter == "\t" ? "\t" : std::string(plain ? 1 : text.size(), ' ');
    }
    at += letter.size();
  }
  if (offset > line.size()) shown.padding += std::string(offset - line.size(), ' ');
  return shown;
}

}  // namespace

std::string Diagnostic::Headline() const {
  std::string out = Escaped(file);
  if (line > 0) out += ":" + std::to_string(line) + ":" + std::to_string(column);
  return out + ": " + (warning ? "warning: " : "") + Escaped(message, "\n\t");
}

std::string Diagnostic::Render() const {
  std::string out = Headline();
  if (column == 0 || excerpt.empty()) return out;
  std::string_view shown = excerpt;
  size_t offset = static_cast<size_t>(column) - 1;
  std::string left;
  if (offset > kExcerptLimit / 2) {  // keep the place in sight
    size_t cut = std::min(offset - kExcerptLimit / 2, shown.size());
    while (cut > 0 && cut < shown.size() && IsInsideLetter(shown[cut])) --cut;
    shown.remove_prefix(cut);
    offset -= cut;
    left = "...";
  }
  std::string right;
  if (shown.size() > kExcerptLimit) {
    size_t cut = kExcerptLimit;
    while (IsInsideLetter(shown[cut]) && cut > 0) --cut;
    shown = shown.substr(0, cut);
    right = "...";
  }
  const Shown line_shown = ShowLine(shown, offset);
  out += "\n  " + left + line_shown.text + right;
  out += "\n  " + std::string(left.size(), ' ') + line_shown.padding + "^";
  return out;
}

SourceText::SourceText(std::string name, std::string text)
    : name_(std::move(name)), text_(std::move(text)) {
  std::string_view rest = text_;
  if (StartsWith(rest, kByteOrderMark)) rest.remove_prefix(kByteOrderMark.size());
  int number = 1;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
    lines_.push_back({number++, rest.substr(0, end)});
    rest.remove_prefix(end);
    rest.remove_prefix(StartsWith(rest, "\r\n") ? 2 : std::min<size_t>(1, rest.size()));
  }
}

bool SourceText::IsPlain(const std::string& expected, Findings& findings) const {
  const SourceLine nothing{1, ""};
  const SourceLine& first = lines_.empty() ? nothing : lines_.front();
  const std::string_view all = text_;
  for (const std::string_view mark : {"\xff\xfe", "\xfe\xff"}) {
    if (!StartsWith(all, mark)) continue;
    findings.Add(At(first, 0,
                    "expected plain UTF-8, got UTF-16 (by the two bytes at the start of "
                    "the file); save it as UTF-8"));
    return false;
  }
  if (StartsWith(all, kByteOrderMark)) {
    findings.Add(At(first, 0,
                    "expected plain UTF-8, got a byte order mark (the bytes EF BB BF) at the "
                    "start of the file; save it without one"));
  }
  for (const SourceLine& line : lines_) {
    const size_t zero = line.text.find('\0');
    if (zero == std::string_view::npos) continue;
    findings.Add(At(line, zero, "expected text, got a zero byte; is this " + expected + "?"));
    return false;
  }
  return true;
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
  size_t taken = 0;
  while (taken < text.size() && taken < kQuotedLimit) {
    const std::string_view letter = FirstLetter(text.substr(taken));
    if (letter == "\"" || letter == "\\") out.push_back('\\');
    out += EscapedLetter(letter);
    taken += letter.size();
  }
  return out + (taken < text.size() ? "...\"" : "\"");
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
