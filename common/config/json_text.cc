#include "common/config/json_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dsrun {
namespace {

constexpr size_t kMostShown = 20;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
// What a word, or the rest of something that is no JSON, goes on with.
bool IsOfWord(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
         c == '+' || c == '-';
}

void AppendUtf8(uint32_t code, std::string& out) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | (code >> 6));
  } else if (code < 0x10000) {
    put(0xe0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3f));
  } else {
    put(0xf0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3f));
    put(0x80 | ((code >> 6) & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

class Parser {
 public:
  Parser(const SourceText& text, Findings& findings) : text_(text), findings_(findings) {}

  std::optional<JsonValue> Whole() {
    JsonValue value;
    if (!Blanks() || !Value(value, 0) || !Blanks()) return std::nullopt;
    if (!AtEnd()) {
      Wrong(place_, absl::StrCat("expected nothing after the value, got ", Got()));
      return std::nullopt;
    }
    return twice_ ? std::nullopt : std::optional<JsonValue>(std::move(value));
  }

 private:
  bool AtEnd() const { return place_.line >= text_.lines().size(); }
  // '\n' at the end of a line, '\0' at that of the text.
  char Peek() const {
    if (AtEnd()) return '\0';
    const std::string_view line = text_.lines()[place_.line].text;
    return place_.offset < line.size() ? line[place_.offset] : '\n';
  }
  char PeekSecond() const {
    if (AtEnd()) return '\0';
    const std::string_view line = text_.lines()[place_.line].text;
    return place_.offset + 1 < line.size() ? line[place_.offset + 1] : '\n';
  }
  void Take() {
    if (Peek() == '\n') {
      place_ = {place_.line + 1, 0};
    } else if (!AtEnd()) {
      ++place_.offset;
    }
  }

  // Always false.
  bool Wrong(TextPlace place, std::string message) {
    findings_.Add(At(text_, place, std::move(message)));
    return false;
  }
  std::string Got() const {
    if (AtEnd()) return "the end of the text";
    if (Peek() == '\n') return "the end of the line";
    const std::string_view rest = text_.lines()[place_.line].text.substr(place_.offset);
    size_t size = 1;
    if (IsOfWord(rest[0])) {
      while (size < rest.size() && size < kMostShown && IsOfWord(rest[size])) ++size;
    }
    return Quoted(rest.substr(0, size));
  }

  // Blanks, ends of lines and comments.
  bool Blanks() {
    while (true) {
      const char c = Peek();
      if (c == ' ' || c == '\t' || c == '\r' || (c == '\n' && !AtEnd())) {
        Take();
      } else if (c == '#' || (c == '/' && PeekSecond() == '/')) {
        place_ = {place_.line + 1, 0};
      } else if (c == '/' && PeekSecond() == '*') {
        if (!LongComment()) return false;
      } else {
        return true;
      }
    }
  }
  bool LongComment() {
    const TextPlace begin = place_;
    Take();
    Take();
    while (!AtEnd()) {
      if (Peek() == '*' && PeekSecond() == '/') {
        Take();
        Take();
        return true;
      }
      Take();
    }
    return Wrong(begin, "a comment that begins here has no end; expected */");
  }

  bool Value(JsonValue& value, int depth) {
    value.place = place_;
    if (depth > kMostDepth) {
      return Wrong(place_,
                   absl::StrCat("expected at most ", kMostDepth, " brackets in each other"));
    }
    switch (Peek()) {
      case '{':
        return Object(value, depth);
      case '[':
        return Array(value, depth);
      case '"':
      case '\'':
        value.kind = JsonValue::Kind::kString;
        return String(value.text);
      default:
        return Word(value);
    }
  }

  // After an element: whether the list goes on; nothing: an error.
  std::optional<bool> GoesOn(char close, const std::string& after) {
    if (!Blanks()) return std::nullopt;
    if (Peek() == ',') {
      Take();
      if (!Blanks()) return std::nullopt;
      if (Peek() != close) return true;
    }
    if (Peek() == close) {
      Take();
      return false;
    }
    Wrong(place_, absl::StrCat("expected ',' or '", std::string(1, close), "' after ", after,
                               ", got ", Got()));
    return std::nullopt;
  }

  bool Array(JsonValue& value, int depth) {
    value.kind = JsonValue::Kind::kArray;
    Take();
    if (!Blanks()) return false;
    if (Peek() == ']') return Take(), true;
    while (true) {
      if (!Value(value.elements.emplace_back(), depth + 1)) return false;
      const std::optional<bool> more = GoesOn(']', "an element");
      if (!more) return false;
      if (!*more) return true;
    }
  }

  bool Object(JsonValue& value, int depth) {
    value.kind = JsonValue::Kind::kObject;
    std::map<std::string, int, std::less<>> lines;  // of keys
    Take();
    if (!Blanks()) return false;
    if (Peek() == '}') return Take(), true;
    while (true) {
      JsonMember& member = value.members.emplace_back();
      member.place = place_;
      if (!Key(member.key)) return false;
      const int line = text_.lines()[member.place.line].number;
      const auto [first, fresh] = lines.emplace(member.key, line);
      if (!fresh) {
        twice_ = true;
        Wrong(member.place, absl::StrCat(Quoted(member.key), " stands in line ", first->second,
                                         " already; leave one of them out"));
      }
      if (!Blanks()) return false;
      if (Peek() != ':') {
        return Wrong(place_,
                     absl::StrCat("expected ':' after ", Quoted(member.key), ", got ", Got()));
      }
      Take();
      if (!Blanks() || !Value(member.value, depth + 1)) return false;
      const std::optional<bool> more =
          GoesOn('}', absl::StrCat("the value of ", Quoted(member.key)));
      if (!more) return false;
      if (!*more) return true;
    }
  }

  bool Key(std::string& key) {
    if (Peek() == '"' || Peek() == '\'') return String(key);
    if (IsOfWord(Peek())) {
      return Wrong(place_, absl::StrCat("expected a key in double quotes, got ", Got()));
    }
    return Wrong(place_, absl::StrCat("expected a key in double quotes or '}', got ", Got()));
  }

  bool String(std::string& out) {
    const TextPlace begin = place_;
    const char quote = Peek();
    Take();
    while (true) {
      const char c = Peek();
      if (AtEnd() || c == '\n') {
        return Wrong(begin,
                     absl::StrCat("a text that begins here has no end in its line; expected ",
                                  std::string(1, quote)));
      }
      const TextPlace at = place_;
      Take();
      if (c == quote) return true;
      if (c != '\\') {
        out.push_back(c);
      } else if (!Escape(at, out)) {
        return false;
      }
    }
  }

  bool Escape(TextPlace at, std::string& out) {
    static constexpr std::string_view kLetters = "\"'\\/bfnrt";
    static constexpr std::string_view kBytes = "\"'\\/\b\f\n\r\t";
    const char c = Peek();
    if (c == 'u') {
      Take();
      return Unicode(at, out);
    }
    const size_t letter = kLetters.find(c);
    if (letter == std::string_view::npos) {
      return Wrong(at,
                   "expected one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u0000 after a backslash");
    }
    Take();
    out.push_back(kBytes[letter]);
    return true;
  }
  bool Unicode(TextPlace at, std::string& out) {
    const std::optional<uint32_t> first = FourDigits();
    if (!first) return Wrong(at, "expected four hexadecimal digits after \\u");
    uint32_t code = *first;
    if (code >= 0xd800 && code < 0xe000) {
      std::optional<uint32_t> second;
      if (code < 0xdc00 && Peek() == '\\' && PeekSecond() == 'u') {
        Take();
        Take();
        second = FourDigits();
      }
      if (!second || *second < 0xdc00 || *second >= 0xe000) {
        return Wrong(at,
                     "expected a pair of surrogates: \\ud800 to \\udbff, then \\udc00 to \\udfff");
      }
      code = 0x10000 + ((code - 0xd800) << 10) + (*second - 0xdc00);
    }
    AppendUtf8(code, out);
    return true;
  }
  std::optional<uint32_t> FourDigits() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = Peek();
      uint32_t digit = 0;
      if (IsDigit(c)) {
        digit = static_cast<uint32_t>(c - '0');
      } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
        digit = static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        return std::nullopt;
      }
      code = code * 16 + digit;
      Take();
    }
    return code;
  }

  // null, true, false, or a number; Python's spellings are told their JSON.
  bool Word(JsonValue& value) {
    const TextPlace begin = place_;
    std::string word;
    while (IsOfWord(Peek())) {
      word.push_back(Peek());
      Take();
    }
    const TextPlace end = std::exchange(place_, begin);
    if (word == "null") {
      value.kind = JsonValue::Kind::kNull;
    } else if (word == "true" || word == "false") {
      value.kind = JsonValue::Kind::kBool;
      value.flag = word == "true";
    } else if (IsNumber(word)) {
      value.kind = JsonValue::Kind::kNumber;
      value.number = NumberOf(word);
      value.text = std::move(word);
    } else {
      return Wrong(begin, absl::StrCat("expected a value, got ", Got(), Hint(word)));
    }
    place_ = end;
    return true;
  }
  static std::string Hint(const std::string& word) {
    if (word == "True" || word == "TRUE") return "; JSON writes true";
    if (word == "False" || word == "FALSE") return "; JSON writes false";
    if (word == "None" || word == "nil") return "; JSON writes null";
    if (word.empty()) return "";
    return "; a text stands in double quotes";
  }

  // -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
  static bool IsNumber(std::string_view word) {
    size_t at = 0;
    const auto digits = [&] {
      const size_t begin = at;
      while (at < word.size() && IsDigit(word[at])) ++at;
      return at - begin;
    };
    if (at < word.size() && word[at] == '-') ++at;
    const size_t whole = at;
    if (digits() == 0 || (word[whole] == '0' && at - whole > 1)) return false;
    if (at < word.size() && word[at] == '.') {
      ++at;
      if (digits() == 0) return false;
    }
    if (at < word.size() && (word[at] == 'e' || word[at] == 'E')) {
      ++at;
      if (at < word.size() && (word[at] == '+' || word[at] == '-')) ++at;
      if (digits() == 0) return false;
    }
    return at == word.size();
  }
  static double NumberOf(const std::string& word) {
    double number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc::result_out_of_range) return number;
    // Too large, or too small to be told from zero: from_chars does not say which.
    const size_t e = word.find_first_of("eE");
    const bool small = e != std::string::npos && word[e + 1] == '-';
    if (small) return 0;
    const double infinity = std::numeric_limits<double>::infinity();
    return word[0] == '-' ? -infinity : infinity;
  }

  const SourceText& text_;
  Findings& findings_;
  TextPlace place_;
  bool twice_ = false;  // a key
};

}  // namespace

// Exactly, by its digits: a double does not hold every whole number of 64 bits.
std::optional<int64_t> JsonValue::AsInteger() const {
  if (kind != Kind::kNumber) return std::nullopt;
  std::string digits;
  int64_t exponent = 0;
  size_t at = text[0] == '-' ? 1 : 0;
  bool fraction = false;
  for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
    if (text[at] == '.') {
      fraction = true;
      continue;
    }
    digits.push_back(text[at]);
    if (fraction) --exponent;
  }
  if (at < text.size()) {
    const size_t begin = at + 1 + (text[at + 1] == '+' ? 1 : 0);
    int64_t given = 0;
    const auto [end, error] =
        std::from_chars(text.data() + begin, text.data() + text.size(), given);
    if (error != std::errc() || given > 10'000 || given < -10'000) {
      return digits.find_first_not_of('0') == std::string::npos ? std::optional<int64_t>(0)
                                                                : std::nullopt;
    }
    exponent += given;
  }
  while (digits.size() > 1 && digits.back() == '0') {
    digits.pop_back();
    ++exponent;
  }
  if (digits.find_first_not_of('0') == std::string::npos) return 0;
  if (exponent < 0 || exponent > 18) return std::nullopt;
  digits.append(static_cast<size_t>(exponent), '0');
  if (text[0] == '-') digits.insert(digits.begin(), '-');
  int64_t whole = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), whole);
  return error == std::errc() ? std::optional<int64_t>(whole) : std::nullopt;
}

const JsonValue* JsonValue::Find(std::string_view key) const {
  const auto member =
      std::ranges::find_if(members, [&](const JsonMember& one) { return one.key == key; });
  return member == members.end() ? nullptr : &member->value;
}

std::string_view KindName(JsonValue::Kind kind) {
  switch (kind) {
    case JsonValue::Kind::kNull:
      return "null";
    case JsonValue::Kind::kBool:
      return "true or false";
    case JsonValue::Kind::kNumber:
      return "a number";
    case JsonValue::Kind::kString:
      return "a text";
    case JsonValue::Kind::kArray:
      return "a list";
    case JsonValue::Kind::kObject:
      return "an object";
  }
  return "";
}

std::optional<JsonValue> ParseJsonText(const SourceText& text, Findings& findings) {
  if (!text.IsPlain("a JSON file", findings)) return std::nullopt;
  return Parser(text, findings).Whole();
}

Diagnostic At(const SourceText& text, TextPlace place, std::string message) {
  if (text.lines().empty()) {
    Diagnostic diagnostic;
    diagnostic.file = text.name();
    diagnostic.message = std::move(message);
    return diagnostic;
  }
  if (place.line >= text.lines().size()) {  // its end
    const SourceLine& last = text.lines().back();
    return text.At(last, last.text.size(), std::move(message));
  }
  return text.At(text.lines()[place.line], place.offset, std::move(message));
}

}  // namespace dsrun
