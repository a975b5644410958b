#include "common/config/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::optional<JsonValue> Parsed(const std::string& text) {
  const SourceText source("ds.json", text);
  Findings findings;
  std::optional<JsonValue> value = ParseJsonText(source, findings);
  EXPECT_TRUE(value.has_value()) << findings.Render();
  EXPECT_TRUE(findings.all().empty()) << findings.Render();
  return value;
}

std::string Refused(const std::string& text) {
  const SourceText source("ds.json", text);
  Findings findings;
  EXPECT_FALSE(ParseJsonText(source, findings).has_value()) << text;
  EXPECT_TRUE(findings.has_errors()) << text;
  return findings.Render();
}

TEST(JsonTextTest, WhatGuidesWrite_IsTaken) {
  const auto value = Parsed(R"({
  // of a guide
  "train_batch_size": 64, # and of another
  "zero_optimization": {
    /* two
       lines */
    "stage": 3,
    "reduce_bucket_size": 5e8,
    "overlap_comm": true,
  },
  "betas": [0.9, 0.999,],
  "nothing": null,
  "auto": "auto",
})");
  ASSERT_TRUE(value.has_value());
  EXPECT_EQ(value->Find("train_batch_size")->AsInteger(), 64);
  const JsonValue* const zero = value->Find("zero_optimization");
  ASSERT_NE(zero, nullptr);
  EXPECT_EQ(zero->Find("reduce_bucket_size")->AsInteger(), 500'000'000);
  EXPECT_EQ(zero->Find("reduce_bucket_size")->text, "5e8");
  EXPECT_TRUE(zero->Find("overlap_comm")->flag);
  EXPECT_EQ(zero->members[1].place.line, 7u);
  EXPECT_EQ(zero->members[1].place.offset, 4u);
  EXPECT_EQ(zero->members[1].value.place.offset, 26u);
  EXPECT_EQ(value->Find("betas")->elements.size(), 2u);
  EXPECT_EQ(value->Find("nothing")->kind, JsonValue::Kind::kNull);
  EXPECT_EQ(value->Find("auto")->text, "auto");
  EXPECT_EQ(value->Find("nowhere"), nullptr);
}

TEST(JsonTextTest, WholeNumbers_AreExactHoweverTheyAreSpelt) {
  const auto whole = [](const std::string& text) { return Parsed(text)->AsInteger(); };
  EXPECT_EQ(whole("5e8"), 500'000'000);
  EXPECT_EQ(whole("5.0e8"), 500'000'000);
  EXPECT_EQ(whole("1.25E+2"), 125);
  EXPECT_EQ(whole("-0"), 0);
  EXPECT_EQ(whole("1200e-2"), 12);
  EXPECT_EQ(whole("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(whole("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(whole("9007199254740993"), 9007199254740993);
  EXPECT_EQ(whole("0e99999999999"), 0);
  EXPECT_EQ(whole("9223372036854775808"), std::nullopt);
  EXPECT_EQ(whole("1.5"), std::nullopt);
  EXPECT_EQ(whole("1e19"), std::nullopt);
  EXPECT_EQ(whole("1e-99999999999999999999"), std::nullopt);
  EXPECT_EQ(whole("\"5\""), std::nullopt);
  EXPECT_EQ(Parsed("1e999")->number, INFINITY);
  EXPECT_EQ(Parsed("-1e999")->number, -INFINITY);
  EXPECT_EQ(Parsed("1e-999")->number, 0);
}

TEST(JsonTextTest, TextsHaveTheirBytes) {
  EXPECT_EQ(Parsed(R"("a\"\\\/\b\f\n\r\tz")")->text, "a\"\\/\b\f\n\r\tz");
  EXPECT_EQ(Parsed(R"("\u0041\u00e9\u20ac\ud83d\ude00")")->text, "Aé€😀");
  EXPECT_EQ(Parsed("'single'")->text, "single");
}

TEST(JsonTextTest, MistakesAreShownWhereTheyStand) {
  EXPECT_EQ(Refused("{\n  \"a\": 1 \"b\": 2\n}"),
            "ds.json:2:10: expected ',' or '}' after the value of \"a\", got \"\\\"\"\n"
            "    \"a\": 1 \"b\": 2\n"
            "           ^\n");
  EXPECT_THAT(Refused("{\"a\": True}"), HasSubstr("ds.json:1:7: expected a value, got \"True\"; "
                                                  "JSON writes true"));
  EXPECT_THAT(Refused("{\"a\": cpu}"), HasSubstr("a text stands in double quotes"));
  EXPECT_THAT(Refused("{a: 1}"), HasSubstr("ds.json:1:2: expected a key in double quotes, got"));
  EXPECT_THAT(Refused("{\"a\" 1}"), HasSubstr("expected ':' after \"a\", got \"1\""));
  EXPECT_THAT(Refused("{\"a\": \"b\n\"}"),
              HasSubstr("ds.json:1:7: a text that begins here has no"));
  EXPECT_THAT(Refused("{\"a\": 1"), HasSubstr("got the end of the text"));
  EXPECT_THAT(Refused("/* {}"), HasSubstr("ds.json:1:1: a comment that begins here has no end"));
  EXPECT_THAT(Refused("{} {}"), HasSubstr("expected nothing after the value, got \"{\""));
  EXPECT_THAT(Refused("[01]"), HasSubstr("expected a value, got \"01\""));
  EXPECT_THAT(Refused("\"\\x\""), HasSubstr("after a backslash"));
  EXPECT_THAT(Refused("\"\\ud800\""), HasSubstr("a pair of surrogates"));
  EXPECT_THAT(Refused(""), HasSubstr("ds.json"));
  EXPECT_THAT(Refused(std::string(1000, '[')), HasSubstr("at most 64 brackets"));
  EXPECT_THAT(Refused("{,}"), HasSubstr("expected a key"));
  EXPECT_THAT(Refused("[,]"), HasSubstr("expected a value"));
}

TEST(JsonTextTest, AKeyThatStandsTwice_IsNamedWithBothLines) {
  const SourceText source("ds.json", "{\"a\": 1,\n \"b\": {\"a\": 2},\n \"a\": 3, \"b\": 0}");
  Findings findings;
  EXPECT_FALSE(ParseJsonText(source, findings).has_value());
  std::vector<std::string> headlines;
  for (const Diagnostic& one : findings.all()) headlines.push_back(one.Headline());
  EXPECT_THAT(headlines,
              ElementsAre("ds.json:3:2: \"a\" stands in line 1 already; leave one of them out",
                          "ds.json:3:10: \"b\" stands in line 2 already; leave one of them out"));
}

// ---- against another parser

nlohmann::json ToJson(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return nullptr;
    case JsonValue::Kind::kBool:
      return value.flag;
    case JsonValue::Kind::kNumber:
      return value.number;
    case JsonValue::Kind::kString:
      return value.text;
    case JsonValue::Kind::kArray: {
      nlohmann::json list = nlohmann::json::array();
      for (const JsonValue& element : value.elements) list.push_back(ToJson(element));
      return list;
    }
    case JsonValue::Kind::kObject:
      break;
  }
  nlohmann::json object = nlohmann::json::object();
  for (const JsonMember& member : value.members) object[member.key] = ToJson(member.value);
  return object;
}

class Documents {
 public:
  explicit Documents(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t end) { return random_() % end; }

  nlohmann::json Value(int depth) {
    static const std::vector<std::string> kKeys = {"train_batch_size",
                                                   "zero_optimization",
                                                   "stage",
                                                   "offload_optimizer",
                                                   "device",
                                                   "fp16",
                                                   "loss_scale",
                                                   "enabled",
                                                   "optimizer",
                                                   "params",
                                                   "betas",
                                                   "\xc3\xa9 \"quoted\"\n"};
    switch (Below(depth > 4 ? 5 : 7)) {
      case 0:
        return nullptr;
      case 1:
        return Below(2) == 0;
      case 2:
        return static_cast<double>(static_cast<int64_t>(Below(2'000'001)) - 1'000'000);
      case 3:
        return std::ldexp(static_cast<double>(random_()), static_cast<int>(Below(200)) - 130);
      case 4:
        return kKeys[Below(kKeys.size())];
      case 5: {
        nlohmann::json list = nlohmann::json::array();
        for (uint64_t i = Below(4); i > 0; --i) list.push_back(Value(depth + 1));
        return list;
      }
      default: {
        nlohmann::json object = nlohmann::json::object();
        for (uint64_t i = Below(5); i > 0; --i) {
          object[kKeys[Below(kKeys.size())]] = Value(depth + 1);
        }
        return object;
      }
    }
  }

  // A byte taken out, put in, changed, or a piece doubled.
  void Mutate(std::string& text) {
    static constexpr std::string_view kBytes = "{}[]\",:'#/*\\e+-.0159 \n\tutfN\x01\xff\xc3";
    if (text.empty()) return text.push_back('{');
    const size_t at = Below(text.size());
    switch (Below(4)) {
      case 0:
        text.erase(at, 1 + Below(3));
        break;
      case 1:
        text.insert(at, 1, kBytes[Below(kBytes.size())]);
        break;
      case 2:
        text[at] = kBytes[Below(kBytes.size())];
        break;
      default:
        text.insert(at, text.substr(at, 1 + Below(20)));
    }
  }

 private:
  std::mt19937_64 random_;
};

TEST(JsonTextTest, WhatAnotherLibraryWrites_IsReadAsItsValue) {
  const uint64_t seed = std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Documents documents(seed);
  for (int i = 0; i < 5000 && !::testing::Test::HasFailure(); ++i) {
    const nlohmann::json wrote = documents.Value(0);
    const std::string text = wrote.dump(static_cast<int>(documents.Below(4)) - 1);
    const auto read = Parsed(text);
    ASSERT_TRUE(read.has_value()) << text;
    EXPECT_EQ(ToJson(*read), wrote) << text;
  }
}

// 100,000 documents with mistakes: a value, or a place in the text; what is a value there for the
// other library, too, is the same one.
TEST(JsonTextTest, AnyMutation_IsAValueOrAPlace) {
  const uint64_t seed = std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Documents documents(seed);
  int values = 0, same = 0;
  for (int i = 0; i < 100'000 && !::testing::Test::HasFailure(); ++i) {
    std::string text = documents.Value(2).dump(2);
    for (uint64_t times = 1 + documents.Below(4); times > 0; --times) documents.Mutate(text);
    const SourceText source("ds.json", text);
    Findings findings;
    const std::optional<JsonValue> value = ParseJsonText(source, findings);
    EXPECT_NE(value.has_value(), findings.has_errors()) << text;
    for (const Diagnostic& one : findings.errors()) {
      EXPECT_FALSE(one.message.empty());
      EXPECT_LE(one.line, static_cast<int>(source.lines().size())) << text;
      EXPECT_TRUE(one.line > 0 || source.lines().empty()) << text << "\n" << one.Render();
    }
    if (!value.has_value()) continue;
    ++values;
    const nlohmann::json other = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!other.is_discarded()) {
      ++same;
      EXPECT_EQ(ToJson(*value), other) << text;
    }
  }
  EXPECT_GT(values, same);
  EXPECT_GT(same, 1000);
}

}  // namespace
}  // namespace dsrun
