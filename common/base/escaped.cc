#include "common/base/escaped.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace dsrun {
namespace {

struct Range {
  uint32_t first, last;
};

// Unicode: controls (Cc), format characters (Cf), separators that are no plain blank (Zs, Zl, Zp),
// and letters that are defined to show nothing.
constexpr Range kInvisible[] = {
    {0x0000, 0x001f},   {0x007f, 0x00a0},   {0x00ad, 0x00ad},   {0x034f, 0x034f},
    {0x0600, 0x0605},   {0x061c, 0x061c},   {0x06dd, 0x06dd},   {0x070f, 0x070f},
    {0x115f, 0x1160},   {0x1680, 0x1680},   {0x17b4, 0x17b5},   {0x180b, 0x180f},
    {0x2000, 0x200f},   {0x2028, 0x202f},   {0x205f, 0x206f},   {0x3000, 0x3000},
    {0x3164, 0x3164},   {0xfe00, 0xfe0f},   {0xfeff, 0xfeff},   {0xffa0, 0xffa0},
    {0xfff9, 0xfffb},   {0x110bd, 0x110bd}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
    {0xe0000, 0xe0fff},
};

bool IsInvisible(uint32_t point) {
  for (const Range& range : kInvisible) {
    if (range.first <= point && point <= range.last) return true;
  }
  return false;
}

uint32_t Byte(std::string_view text, size_t at) { return static_cast<unsigned char>(text[at]); }

// How many bytes a letter has that begins with this one; 0: none does.
size_t LengthBy(uint32_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

// The code point at the beginning; false: the bytes there are no UTF-8.
bool Decode(std::string_view text, uint32_t& point, size_t& length) {
  if (text.empty()) return false;
  length = LengthBy(Byte(text, 0));
  if (length == 0 || length > text.size()) return false;
  point = length == 1 ? Byte(text, 0) : Byte(text, 0) & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((Byte(text, i) & 0xc0) != 0x80) return false;
    point = point << 6 | (Byte(text, i) & 0x3f);
  }
  // Spelt longer than need be, half of a pair, or beyond the last one.
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  return point >= kLeast[length] && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
}

}  // namespace

std::string_view FirstLetter(std::string_view text) {
  uint32_t point = 0;
  size_t length = 0;
  return text.substr(0, Decode(text, point, length) ? length : 1);
}

std::string EscapedLetter(std::string_view letter) {
  uint32_t point = 0;
  size_t length = 0;
  char escape[16];
  if (!Decode(letter, point, length)) {
    if (letter.empty()) return "";
    std::snprintf(escape, sizeof(escape), "\\x%02x", static_cast<unsigned>(Byte(letter, 0)));
    return escape;
  }
  if (!IsInvisible(point)) return std::string(letter.substr(0, length));
  const char* const form = point < 0x80 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(escape, sizeof(escape), form, static_cast<unsigned>(point));
  return escape;
}

std::optional<uint32_t> CodePoint(std::string_view letter) {
  uint32_t point = 0;
  size_t length = 0;
  if (!Decode(letter, point, length)) return std::nullopt;
  return point;
}

std::string Escaped(std::string_view text, std::string_view kept) {
  std::string out;
  while (!text.empty()) {
    const std::string_view letter = FirstLetter(text);
    if (letter.size() == 1 && kept.find(letter.front()) != std::string_view::npos) {
      out += letter;
    } else {
      out += EscapedLetter(letter);
    }
    text.remove_prefix(letter.size());
  }
  return out;
}

}  // namespace dsrun
