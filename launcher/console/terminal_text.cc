#include "launcher/console/terminal_text.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/escaped.h"

namespace dsrun::launcher {
namespace {

constexpr char kEscape = '\x1b';
constexpr char kNoColour[] = "\x1b[0m";
// A longer one is none, and more of them together are not remembered.
constexpr size_t kMostColourBytes = 64;

struct Range {
  uint32_t first, last;
};

bool IsIn(const Range* begin, const Range* end, uint32_t point) {
  return std::any_of(begin, end, [point](const Range& range) {
    return range.first <= point && point <= range.last;
  });
}

// Controls; marks of the reading direction; separators of lines.
constexpr Range kMoving[] = {
    {0x0000, 0x0008}, {0x000a, 0x001f}, {0x007f, 0x009f}, {0x061c, 0x061c},
    {0x200e, 0x200f}, {0x2028, 0x202e}, {0x2066, 0x2069},
};
// Unicode's East Asian wide and full-width (version 14), and what is drawn as a picture. Letters of
// ambiguous width are narrow, but for terminals that are set up for East Asian text.
constexpr Range kWide[] = {
    {0x1100, 0x115f},   {0x231a, 0x231b},   {0x2329, 0x232a},   {0x23e9, 0x23ec},
    {0x23f0, 0x23f0},   {0x23f3, 0x23f3},   {0x25fd, 0x25fe},   {0x2614, 0x2615},
    {0x2648, 0x2653},   {0x267f, 0x267f},   {0x2693, 0x2693},   {0x26a1, 0x26a1},
    {0x26aa, 0x26ab},   {0x26bd, 0x26be},   {0x26c4, 0x26c5},   {0x26ce, 0x26ce},
    {0x26d4, 0x26d4},   {0x26ea, 0x26ea},   {0x26f2, 0x26f3},   {0x26f5, 0x26f5},
    {0x26fa, 0x26fa},   {0x26fd, 0x26fd},   {0x2705, 0x2705},   {0x270a, 0x270b},
    {0x2728, 0x2728},   {0x274c, 0x274c},   {0x274e, 0x274e},   {0x2753, 0x2755},
    {0x2757, 0x2757},   {0x2795, 0x2797},   {0x27b0, 0x27b0},   {0x27bf, 0x27bf},
    {0x2b1b, 0x2b1c},   {0x2b50, 0x2b50},   {0x2b55, 0x2b55},   {0x2e80, 0x303e},
    {0x3041, 0xa4cf},   {0xa960, 0xa97c},   {0xac00, 0xd7a3},   {0xf900, 0xfaff},
    {0xfe10, 0xfe19},   {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},
    {0x16fe0, 0x1b2ff}, {0x1f004, 0x1f004}, {0x1f0cf, 0x1f0cf}, {0x1f18e, 0x1f19a},
    {0x1f200, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f7e0, 0x1f7f0}, {0x1f900, 0x1faff},
    {0x20000, 0x3fffd},
};
// Put onto the letter before.
constexpr Range kCombining[] = {
    {0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd}, {0x0610, 0x061a},
    {0x064b, 0x065f}, {0x1ab0, 0x1aff}, {0x1dc0, 0x1dff}, {0x200b, 0x200f},
    {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f},
};

bool IsColourNumber(char byte) {
  return ('0' <= byte && byte <= '9') || byte == ';' || byte == ':';
}

// The colour that `text` begins with: ESC [ numbers m. Empty: it begins with none.
std::string_view FirstColour(std::string_view text) {
  if (text.size() < 3 || text[0] != kEscape || text[1] != '[') return "";
  size_t end = 2;
  while (end < text.size() && end < kMostColourBytes && IsColourNumber(text[end])) ++end;
  return end < text.size() && text[end] == 'm' ? text.substr(0, end + 1) : "";
}

// Whether what was set before it has no effect any more.
bool EndsColours(std::string_view colour) {
  const std::string_view numbers = colour.substr(2, colour.size() - 3);
  return numbers.find_first_not_of("0") == std::string_view::npos;
}

void Remember(std::string_view colour, std::string& colours) {
  if (EndsColours(colour) || colours.size() + colour.size() > kMostColourBytes) colours.clear();
  if (!EndsColours(colour)) colours += colour;
}

size_t ColumnsOfLetter(std::string_view letter) {
  const std::optional<uint32_t> point = CodePoint(letter);
  if (!point) return 1;
  if (IsIn(std::begin(kCombining), std::end(kCombining), *point)) return 0;
  return IsIn(std::begin(kWide), std::end(kWide), *point) ? 2 : 1;
}

}  // namespace

std::string TerminalText(std::string_view text) {
  std::string none;
  return TerminalText(text, none);
}

std::string TerminalText(std::string_view text, std::string& colours) {
  std::string out = text.empty() ? "" : colours;
  bool coloured = !out.empty();
  while (!text.empty()) {
    if (const std::string_view colour = FirstColour(text); !colour.empty()) {
      out += colour;
      coloured = true;
      Remember(colour, colours);
      text.remove_prefix(colour.size());
      continue;
    }
    const std::string_view letter = FirstLetter(text);
    const std::optional<uint32_t> point = CodePoint(letter);
    const bool harmless = point && !IsIn(std::begin(kMoving), std::end(kMoving), *point);
    absl::StrAppend(&out, harmless ? std::string(letter) : EscapedLetter(letter));
    text.remove_prefix(letter.size());
  }
  if (coloured) out += kNoColour;
  return out;
}

std::string InRows(std::string_view text, size_t columns, size_t& column) {
  constexpr size_t kTab = 8;
  columns = std::max(columns, kFewestColumns);
  std::string out;
  while (!text.empty()) {
    if (const std::string_view colour = FirstColour(text); !colour.empty()) {
      out += colour;
      text.remove_prefix(colour.size());
      continue;
    }
    const std::string_view letter = FirstLetter(text);
    const bool tab = letter == "\t";
    const size_t width = tab ? kTab - column % kTab : std::max<size_t>(1, ColumnsOfLetter(letter));
    text.remove_prefix(letter.size());
    if (width > columns || column > columns - width) {
      absl::StrAppend(&out, "\n", kContinued);
      column = sizeof(kContinued) - 1;
      if (tab) continue;  // the row's end was blank, too
    }
    absl::StrAppend(&out, tab ? std::string(width, ' ') : std::string(letter));
    column += width;
  }
  return out;
}

size_t WholeBytes(std::string_view text) {
  const size_t escape = text.rfind(kEscape);
  if (escape != std::string_view::npos && text.size() - escape < kMostColourBytes) {
    const std::string_view rest = text.substr(escape + 1);
    const bool begun = rest.empty() || (rest[0] == '[' &&
                                        std::all_of(rest.begin() + 1, rest.end(), &IsColourNumber));
    if (begun) return escape;
  }
  // A letter has four bytes at most: its lead byte is one of the last three, or it is whole.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    const size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

size_t Columns(std::string_view text) {
  size_t columns = 0;
  while (!text.empty()) {
    const std::string_view letter = FirstLetter(text);
    columns += ColumnsOfLetter(letter);
    text.remove_prefix(letter.size());
  }
  return columns;
}

std::string_view FirstColumns(std::string_view text, size_t columns) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const std::string_view letter = FirstLetter(text.substr(bytes));
    const size_t width = ColumnsOfLetter(letter);
    if (width > columns) break;
    columns -= width;
    bytes += letter.size();
  }
  return text.substr(0, bytes);
}

}  // namespace dsrun::launcher
