#include "launcher/commands/deepspeed_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dsrun::launcher {
namespace {

using Kind = DeepSpeedKey::Kind;

constexpr size_t kMostShown = 40;

std::string_view KindWords(Kind kind) {
  switch (kind) {
    case Kind::kBool:
      return "true or false";
    case Kind::kInt:
      return "a whole number";
    case Kind::kReal:
      return "a number";
    case Kind::kText:
      return "a text";
    case Kind::kList:
      return "a list";
    case Kind::kObject:
      return "an object";
    case Kind::kAny:
      break;
  }
  return "a value";
}

}  // namespace

bool IsOfKind(const JsonValue& value, Kind kind) {
  using Json = JsonValue::Kind;
  switch (kind) {
    case Kind::kBool:
      return value.kind == Json::kBool;
    case Kind::kInt:
      return value.AsInteger().has_value();
    case Kind::kReal:
      return value.kind == Json::kNumber && std::isfinite(value.number);
    case Kind::kText:
      return value.kind == Json::kString;
    case Kind::kList:
      return value.kind == Json::kArray;
    case Kind::kObject:
      return value.kind == Json::kObject;
    case Kind::kAny:
      return true;
  }
  return false;
}

bool IsAuto(const JsonValue& value) {
  return value.kind == JsonValue::Kind::kString && value.text == "auto";
}

bool IsLeftOpen(const JsonValue& value) {
  return value.kind == JsonValue::Kind::kNull || IsAuto(value);
}

std::string Shown(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return "null";
    case JsonValue::Kind::kBool:
      return value.flag ? "true" : "false";
    case JsonValue::Kind::kNumber:
      return value.text.size() > kMostShown ? value.text.substr(0, kMostShown) + "..." : value.text;
    case JsonValue::Kind::kString:
      return Quoted(value.text);
    case JsonValue::Kind::kArray:
      return "[...]";
    case JsonValue::Kind::kObject:
      return "{...}";
  }
  return "";
}

bool AsksForNothing(const JsonValue& value, std::string_view off) {
  if (IsLeftOpen(value)) return true;
  const std::optional<int64_t> whole = value.AsInteger();
  const std::string said = whole ? absl::StrCat(*whole) : absl::AsciiStrToLower(Shown(value));
  const std::vector<std::string> values = absl::StrSplit(std::string(off), '|');
  if (std::ranges::find(values, said) != values.end()) return true;
  if (value.kind != JsonValue::Kind::kObject) return false;
  const JsonValue* const enabled = value.Find("enabled");
  return value.members.empty() ||
         (enabled != nullptr && enabled->kind == JsonValue::Kind::kBool && !enabled->flag);
}

void DeepSpeedReader::Wrong(TextPlace place, std::string message) {
  findings_.Add(dsrun::At(text_, place, std::move(message)));
}

void DeepSpeedReader::NotA(const std::string& path, Kind kind, const JsonValue& value) {
  Wrong(value.place,
        absl::StrCat(path, ": expected ", std::string(KindWords(kind)), ", got ", Shown(value)));
}

void DeepSpeedReader::Note(TextPlace place, const std::string& what) {
  config_.notes.push_back(dsrun::At(text_, place, what).Headline());
}

const JsonValue* DeepSpeedReader::At(const std::string& path) const {
  const JsonValue* value = &root_;
  const std::vector<std::string> keys = absl::StrSplit(path, '.');
  for (const std::string& key : keys) {
    if (value != nullptr) value = value->Find(key);
  }
  return value;
}

const JsonValue* DeepSpeedReader::Find(const std::string& path) const {
  const JsonValue* const value = At(path);
  if (value == nullptr || IsLeftOpen(*value)) return nullptr;
  const DeepSpeedKey* const key = FindDeepSpeedKey(path);
  return key == nullptr || IsOfKind(*value, key->kind) ? value : nullptr;
}

bool DeepSpeedReader::IsSaid(const std::string& path) const {
  const JsonValue* const value = At(path);
  return value != nullptr && value->kind != JsonValue::Kind::kNull;
}

bool DeepSpeedReader::IsOn(const std::string& path) const {
  const JsonValue* const value = Find(path);
  return value != nullptr && value->flag;
}

void DeepSpeedReader::Imply(std::string flag, std::string value, std::string key,
                            std::optional<TextPlace> place) {
  config_.flags.push_back(
      {std::move(flag), std::move(value), /*negated=*/false, std::move(key), place});
}

bool DeepSpeedReader::ImplyWhole(const std::string& path, const std::string& flag, int64_t factor) {
  const JsonValue* const value = Find(path);
  if (value == nullptr) return false;
  const int64_t whole = *value->AsInteger();
  if (whole > std::numeric_limits<int64_t>::max() / factor ||
      whole < std::numeric_limits<int64_t>::min() / factor) {
    Wrong(value->place,
          absl::StrCat(path, ": expected a number that 64 bits hold, got ", value->text));
    return true;
  }
  Imply(flag, std::to_string(whole * factor), path, value->place);
  return true;
}

void DeepSpeedReader::ImplySwitch(const std::string& path, const std::string& flag) {
  const JsonValue* const value = Find(path);
  if (value == nullptr) return;
  Imply(flag, "", path, value->place);
  config_.flags.back().negated = !value->flag;
}

}  // namespace dsrun::launcher
