// JSON as people write it for DeepSpeed: comments (// # /* */), commas before a closing bracket,
// and every value with its place, so that whoever judges it can point at it. A number keeps its
// spelling: 5e8 is a whole number.
//
//   ds.json:4:3: expected ',' or '}' after the value of "stage", got "o"
//       "stage": 2 overlap_comm: true
//                  ^
//
// Pure. Never throws; nothing is deeper than kMostDepth.

#ifndef DSRUN_COMMON_CONFIG_JSON_TEXT_H_
#define DSRUN_COMMON_CONFIG_JSON_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/source_text.h"

namespace dsrun {

// Where something begins: an index into SourceText::lines(), and a byte of that line.
struct TextPlace {
  size_t line = 0;
  size_t offset = 0;
};

struct JsonMember;

struct JsonValue {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  TextPlace place;
  bool flag = false;                // kBool
  double number = 0;                // kNumber: the nearest; an overflow is infinite
  std::string text;                 // kString: its bytes; kNumber: as it is written
  std::vector<JsonValue> elements;  // kArray
  std::vector<JsonMember> members;  // kObject, in their order

  // A number without a fraction that 64 bits hold, however it is spelt: 500000000, 5e8, 5.0e8.
  std::optional<int64_t> AsInteger() const;
  // Null where it is no object, or has no such member.
  const JsonValue* Find(std::string_view key) const;
};

struct JsonMember {
  std::string key;
  TextPlace place;  // of the key
  JsonValue value;
};

// "an object", "a number" ...
std::string_view KindName(JsonValue::Kind kind);

inline constexpr int kMostDepth = 64;

// The one value of the text. A finding at the first place where it is no such text; and one for
// every key that an object has twice, which names the line of the first. Nothing where there is an
// error.
std::optional<JsonValue> ParseJsonText(const SourceText& text, Findings& findings);

// A finding at `place` of `text`.
Diagnostic At(const SourceText& text, TextPlace place, std::string message);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_JSON_TEXT_H_
