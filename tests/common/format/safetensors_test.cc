#include "common/format/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SafetensorsHeader TwoEntries() {
  SafetensorsHeader header;
  header.metadata = {{"job", "a \"quoted\" job"}};
  header.entries = {{"b@0:3", "F32", {3}, 0, 12}, {"a@5:6", "F32", {1}, 12, 16}};
  return header;
}

std::string WithLength(const std::string& json) {
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(json.size() & 0xff);
  bytes[1] = static_cast<char>(json.size() >> 8);
  return bytes + json;
}

// The bytes by hand, from the published description of the format.
TEST(SafetensorsTest, Encode_WritesThePublishedLayout) {
  SafetensorsHeader header;
  header.entries = {{"t", "F32", {2}, 0, 8}};
  const std::string json = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  ASSERT_EQ(json.size(), 54u);  // two spaces make it 56, a multiple of eight
  EXPECT_EQ(EncodeSafetensorsHeader(header), std::string("\x38\0\0\0\0\0\0\0", 8) + json + "  ");
}

TEST(SafetensorsTest, WhatIsEncodedIsParsed) {
  const std::string bytes = EncodeSafetensorsHeader(TwoEntries());
  const int64_t file_bytes = static_cast<int64_t>(bytes.size()) + 16;
  EXPECT_EQ(SafetensorsHeaderBytes(bytes, file_bytes).value(), static_cast<int64_t>(bytes.size()));
  const auto parsed = ParseSafetensorsHeader(bytes, file_bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->entries, TwoEntries().entries);
  EXPECT_EQ(parsed->metadata, TwoEntries().metadata);
  EXPECT_EQ(parsed->data_start % 8, 0);
  EXPECT_EQ(SafetensorsMetadata(bytes), TwoEntries().metadata);
}

TEST(SafetensorsTest, FilesOfOthers_AreRead) {
  const std::string bytes = WithLength(
      R"({"w":{"shape":[2,3],"data_offsets":[0,12],"dtype":"BF16"},"s":{"dtype":"F64",)"
      R"("shape":[],"data_offsets":[12,20]},"z":{"dtype":"U8","shape":[0],"data_offsets":[20,20]}})");
  const auto parsed = ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()) + 20);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->entries.size(), 3u);
  EXPECT_THAT(parsed->entries[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(parsed->entries[1].name, "s");
}

TEST(SafetensorsTest, BadHeaders_AreDataLoss) {
  struct Case {
    std::string json;
    int64_t data_bytes;
    std::string message;
  };
  const std::string t = R"("t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const Case cases[] = {
      {"not json", 0, "no JSON object"},
      {"[]", 0, "no JSON object"},
      {"{" + t + "," + t + "}", 8, "entry \"t\": is there twice"},
      {"{" + t + "}", 12, "describes 8 bytes of data, the file has 12"},
      {"{" + t + "}", 4, "describes 8 bytes of data, the file has 4"},
      {R"({"t":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8, "unknown dtype \"F33\""},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "begins at byte 4"},
      {R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "its shape needs 12 bytes"},
      {R"({"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "a list of sizes"},
      {R"({"t":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,8]}})", 8,
       "too large"},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[8]}})", 8, "two data_offsets"},
      {R"({"t":7})", 8, "expected dtype, shape"},
      {R"({"__metadata__":{"k":1}})", 0, "k is no string"},
  };
  for (const Case& c : cases) {
    const std::string bytes = WithLength(c.json);
    const auto parsed =
        ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()) + c.data_bytes);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << c.json;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(c.message)) << c.json;
  }
}

TEST(SafetensorsTest, CutAnywhere_IsDataLoss) {
  const std::string bytes = EncodeSafetensorsHeader(TwoEntries());
  for (size_t length = 0; length < bytes.size(); ++length) {
    const std::string cut = bytes.substr(0, length);
    EXPECT_EQ(ParseSafetensorsHeader(cut, static_cast<int64_t>(length)).status().code(),
              absl::StatusCode::kDataLoss);
    EXPECT_TRUE(SafetensorsMetadata(cut).empty() || cut.back() == ' ');
  }
}

}  // namespace
}  // namespace dsrun
