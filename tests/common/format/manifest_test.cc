#include "common/format/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "common/base/sha256.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

Manifest Small() {
  Manifest manifest;
  manifest.facts.job_id = "20261121-101500-1a2b3c";
  manifest.facts.incarnation = Incarnation(0xfedcba9876543210);
  manifest.facts.key = {Step(100), Generation(2), 1};
  manifest.facts.counters = {3200, 100};
  manifest.facts.model = {"gpt2-nano", 1, 2, 1, 4, 5};
  manifest.facts.batch = {32, 4, 0xffffffffffffffff, "abc"};
  manifest.facts.fingerprint.isa = "avx2";
  manifest.facts.fingerprint.sums = std::string(kExactSums);
  manifest.facts.fingerprint.micro_batches_per_atom = 8;
  manifest.facts.fingerprint.kernels_version = 3;
  manifest.tensors = {
      {"model/w", {2, 3}, {{0, 4, "f", "w@0:4", 64, 0xdeadbeef}, {4, 6, "g", "w@4:6", 64, 1}}}};
  manifest.files = {{"f", 80, std::string(64, 'a')}, {"g", 72, std::string(64, 'b')}};
  return manifest;
}

TEST(ManifestTest, WhatIsEncodedIsParsed) {
  const std::string text = EncodeManifest(Small());
  const auto parsed = ParseManifest(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->facts, Small().facts);
  EXPECT_EQ(parsed->tensors, Small().tensors);
  EXPECT_EQ(parsed->files, Small().files);
  EXPECT_EQ(EncodeManifest(*parsed), text);
}

// Any JSON reader sees the same; the checksum is over everything before it.
TEST(ManifestTest, IsPlainJsonWithItsChecksumLast) {
  const std::string text = EncodeManifest(Small());
  const auto json = nlohmann::ordered_json::parse(text);
  EXPECT_EQ(json["step"], 100);
  EXPECT_EQ(json["batch"]["seed"].get<uint64_t>(), 0xffffffffffffffff);
  EXPECT_EQ(json["tensors"][0]["pieces"][0]["crc32c"], "deadbeef");
  EXPECT_EQ(json.items().begin().key(), "format_version");
  const size_t end = text.rfind(",\n \"sha256_of_all_above\"");
  EXPECT_EQ(json["sha256_of_all_above"], Sha256Hex(text.substr(0, end)));
}

// `json` as a whole manifest.
std::string WithChecksum(const nlohmann::ordered_json& json) {
  std::string body = json.dump(1);
  body.resize(body.size() - 2);
  return body + ",\n \"sha256_of_all_above\": \"" + Sha256Hex(body) + "\"\n}\n";
}

nlohmann::ordered_json JsonOf(const Manifest& manifest) {
  auto json = nlohmann::ordered_json::parse(EncodeManifest(manifest));
  json.erase("sha256_of_all_above");
  return json;
}

TEST(ManifestTest, Fingerprint_IsOneTextAField) {
  const auto json = JsonOf(Small());
  EXPECT_EQ(
      json["numerics_fingerprint"].dump(),
      R"({"isa":"avx2","sums":"exact 1","micro_batches_per_atom":"8","kernels_version":"3"})");
  ASSERT_TRUE(ParseManifest(WithChecksum(json)).ok());
}

TEST(ManifestTest, ReaderFromBeforeExactSums_FindsTheFieldThatItWants) {
  EXPECT_EQ(JsonOf(Small())["batch"]["canonical_blocks"], 1);
}

TEST(ManifestTest, FingerprintOfOldManifests_IsRead) {
  auto json = JsonOf(Small());
  json["batch"]["canonical_blocks"] = 8;
  json["numerics_fingerprint"] = {
      {"kernels", "oneDNN 3.7.1 avx2; tiles 512x384 or 192; attention 32x64; ftz daz; kernels v3"}};
  NumericsFingerprint expected;
  expected.library = "oneDNN";
  expected.library_version = "3.7.1";
  expected.isa = "avx2";
  expected.sums = "tree over 8 blocks";  // the batch's
  expected.micro_batches_per_atom = 1;
  expected.tiles = "512x384 or 192";
  expected.attention_tiles = "32x64";
  expected.denormals = "ftz daz";
  expected.kernels_version = 3;
  const auto parsed = ParseManifest(WithChecksum(json));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->facts.fingerprint, expected);

  // Written otherwise it is whole, and equal to nothing of ours.
  json["numerics_fingerprint"] = {{"kernels", "cuBLAS 12.4 sm_90"}};
  const auto other = ParseManifest(WithChecksum(json));
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->facts.fingerprint.others.at("kernels"), "cuBLAS 12.4 sm_90");
  EXPECT_EQ(other->facts.fingerprint.isa, "");
  EXPECT_EQ(EncodeManifest(*other), WithChecksum(JsonOf(*other)));
}

TEST(ManifestTest, FingerprintThatContradictsTheBatch_IsDataLoss) {
  auto json = JsonOf(Small());
  json["batch"]["canonical_blocks"] = 8;
  json["numerics_fingerprint"] = {{"isa", "avx2"}, {"canonical_blocks", "8"}};
  ASSERT_TRUE(ParseManifest(WithChecksum(json)).ok());
  json["numerics_fingerprint"]["canonical_blocks"] = "4";
  EXPECT_THAT(std::string(ParseManifest(WithChecksum(json)).status().message()),
              HasSubstr("expected the batch's \"tree over 8 blocks\", got \"tree over 4 blocks\""));
  json["numerics_fingerprint"]["canonical_blocks"] = "8";
  json["batch"]["canonical_blocks"] = "8";
  EXPECT_EQ(ParseManifest(WithChecksum(json)).status().code(), absl::StatusCode::kDataLoss);
  json["numerics_fingerprint"]["canonical_blocks"] = 8;
  EXPECT_THAT(std::string(ParseManifest(WithChecksum(json)).status().message()),
              HasSubstr("expected a text as canonical_blocks"));
}

TEST(ManifestTest, EveryFlippedBitAndEveryCut_IsDataLoss) {
  const std::string text = EncodeManifest(Small());
  for (size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[at] ^= static_cast<char>(1 << bit);
      ASSERT_EQ(ParseManifest(damaged).status().code(), absl::StatusCode::kDataLoss) << at;
    }
    ASSERT_EQ(ParseManifest(text.substr(0, at)).status().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_FALSE(ParseManifest(text + " ").ok());
}

TEST(ManifestTest, NewerFormat_SaysWhichProgramReadsIt) {
  std::string text = EncodeManifest(Small());
  text.replace(text.find("\"format_version\": 1"), 19, "\"format_version\": 2");
  const size_t end = text.rfind(",\n \"sha256");
  const std::string body = text.substr(0, end);
  text = body + ",\n \"sha256_of_all_above\": \"" + Sha256Hex(body) + "\"\n}\n";
  const absl::Status status = ParseManifest(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 2"));
}

TEST(ManifestTest, Contradictions_AreDataLoss) {
  const auto message = [](auto&& change) {
    Manifest manifest = Small();
    change(manifest);
    const absl::Status status = CheckManifest(manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    return std::string(status.message());
  };
  EXPECT_TRUE(CheckManifest(Small()).ok());
  EXPECT_THAT(message([](Manifest& m) { m.tensors[0].pieces.pop_back(); }),
              HasSubstr("model/w: elements from 4 to 6 are in no file"));
  EXPECT_THAT(message([](Manifest& m) { m.tensors[0].pieces[1].begin = 3; }),
              HasSubstr("expected a piece from element 4 of 6 on, got [3, 6) in g"));
  EXPECT_THAT(message([](Manifest& m) { m.tensors[0].pieces[1].end = 7; }),
              HasSubstr("got [4, 7)"));
  EXPECT_THAT(message([](Manifest& m) { m.tensors[0].pieces[1].file = "h"; }),
              HasSubstr("lie outside h"));
  EXPECT_THAT(message([](Manifest& m) { m.tensors[0].pieces[1].offset = 65; }),
              HasSubstr("lie outside g"));
  EXPECT_THAT(message([](Manifest& m) { m.files[0].name = "../f"; }),
              HasSubstr("\"../f\" is no file of this folder"));
  EXPECT_THAT(message([](Manifest& m) { m.files[1].name = "f"; }), HasSubstr("not in name order"));
  EXPECT_THAT(message([](Manifest& m) {
                m.tensors[0].shape = {1LL << 40, 1LL << 40};
              }),
              HasSubstr("too large"));
}

TEST(ManifestNameTest, NamesParseBack) {
  const ManifestKey key{Step(100), Generation(2), 1};
  EXPECT_EQ(ManifestName(key), "manifest.step-00000100.gen-0002.epoch-0001.json");
  EXPECT_EQ(ParseManifestName(ManifestName(key)), key);
  const ManifestKey large{Step(1234567890123), Generation(123456), 99999};
  EXPECT_EQ(ParseManifestName(ManifestName(large)), large);
  for (const std::string bad : {"", "latest", "manifest.step-100.gen-0002.epoch-0001.json",
                                "manifest.step-00000100.gen-0002.epoch-0001.json.tmp",
                                ".tmp.job.1.manifest.step-00000100.gen-0002.epoch-0001.json",
                                "manifest.step--0000100.gen-0002.epoch-0001.json"}) {
    EXPECT_FALSE(ParseManifestName(bad).has_value()) << bad;
  }
}

TEST(ShardNameTest, NamesParseBack) {
  const ShardName name{Step(100), Generation(2), Incarnation(0x00ab), Rank(3)};
  EXPECT_EQ(ShardFileName(name), "step-00000100.gen-0002.00000000000000ab.rank-0003.safetensors");
  EXPECT_EQ(ParseShardFileName(ShardFileName(name)), name);
  EXPECT_FALSE(ParseShardFileName("step-00000100.gen-0002.00000000000000AB.rank-0003.safetensors"));
  EXPECT_FALSE(ParseShardFileName("step-00000100.safetensors"));
}

}  // namespace
}  // namespace dsrun
