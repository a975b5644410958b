#include "common/format/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

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
  manifest.tensors = {{"model/w", {2, 3}, {{0, 4, /*file=*/0, 0, 64}, {4, 6, /*file=*/1, 0, 64}}}};
  // Header, piece, checksum.
  manifest.files = {{"f", 64 + 16 + 4, std::string(64, 'a'), 64, 4096, 1},
                    {"g", 64 + 8 + 4, std::string(64, 'b'), 64, 4096, 1}};
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

// One that does not say is AdamW's: so were those that were written before there were others.
TEST(ManifestTest, AnOptimizer_IsWrittenWhereItIsNotAdamW) {
  EXPECT_EQ(EncodeManifest(Small()).find("optimizer\""), std::string::npos);
  EXPECT_EQ(ParseManifest(EncodeManifest(Small()))->facts.optimizer.name, "adamw");
  for (const OptimizerFacts& optimizer :
       {OptimizerFacts{"sgd", {}, {"a", "b"}}, OptimizerFacts{"lion", {"exp_avg"}, {}},
        OptimizerFacts{"adam"}}) {
    Manifest manifest = Small();
    manifest.facts.optimizer = optimizer;
    const auto parsed = ParseManifest(EncodeManifest(manifest));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->facts.optimizer, optimizer);
  }
}

// A model of another family has its fields behind those of all; of GPT-2 nothing is added.
TEST(ManifestTest, FieldsOfAFamily_AreWrittenWhereTheyAreUsedAlone) {
  const auto keys = [](const Manifest& manifest) {
    std::string all;
    const auto json = nlohmann::ordered_json::parse(EncodeManifest(manifest));
    for (const auto& [key, value] : json["model"].items()) all += key + " ";
    return all;
  };
  const std::string of_all =
      "preset num_layers hidden_size num_attention_heads seq_length vocab_size ";
  EXPECT_EQ(keys(Small()), of_all);
  Manifest manifest = Small();
  ModelSpec& model = manifest.facts.model;
  model.family = "llama";
  model.query_groups = 1;
  model.norm_epsilon = 1e-5;
  model.qk_norm = true;
  model.rope_base = 500000;
  model.rope_scaling = "linear";
  model.rope_factor = 0.1;
  EXPECT_EQ(keys(manifest), of_all +
                                "family num_query_groups norm_epsilon qk_layernorm rotary_base "
                                "rope_scaling rope_scaling_factor ");
  const auto parsed = ParseManifest(EncodeManifest(manifest));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->facts, manifest.facts);
  EXPECT_EQ(EncodeManifest(*parsed), EncodeManifest(manifest));
}

// Any JSON reader sees the same; the checksum is over everything before it.
TEST(ManifestTest, IsPlainJsonWithItsChecksumLast) {
  const std::string text = EncodeManifest(Small());
  const auto json = nlohmann::ordered_json::parse(text);
  EXPECT_EQ(json["step"], 100);
  EXPECT_EQ(json["batch"]["seed"].get<uint64_t>(), 0xffffffffffffffff);
  EXPECT_EQ(json["tensors"][0]["pieces"][0]["file"], "f");
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
  text.replace(text.find("\"format_version\": 2"), 19, "\"format_version\": 3");
  const size_t end = text.rfind(",\n \"sha256");
  const std::string body = text.substr(0, end);
  text = body + ",\n \"sha256_of_all_above\": \"" + Sha256Hex(body) + "\"\n}\n";
  const absl::Status status = ParseManifest(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("format version 3, this program reads versions 1 to 2"));
}

// Two shards of two columns each, of which the second is in two pieces.
Manifest Split() {
  Manifest manifest = Small();
  manifest.tensors = {{"model/w",
                       {2, 4},
                       {{0, 4, 0, 0, 64}, {0, 1, 1, 1, 64, 0}, {1, 4, 1, 1, 68, 1}},
                       {{{0, 0}, {2, 2}}, {{0, 2}, {2, 2}}}}};
  manifest.files = {{"f", 64 + 16 + 4, std::string(64, 'a'), 64, 4096, 1},
                    {"g", 64 + 16 + 8, std::string(64, 'b'), 64, 4096, 2}};
  return manifest;
}

TEST(ManifestTest, ListedShards_AreParsed) {
  const auto parsed = ParseManifest(EncodeManifest(Split()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors, Split().tensors);
  EXPECT_EQ(EntryName(*parsed, parsed->tensors[0], parsed->tensors[0].pieces[2]),
            "model/w[0:2,2:4]@1:4");
  const auto message = [](auto&& change) {
    Manifest manifest = Split();
    change(manifest.tensors[0]);
    return std::string(CheckManifest(manifest).message());
  };
  EXPECT_THAT(message([](ManifestTensor& t) { t.shards[1].offset[1] = 1; }),
              HasSubstr("shards 0 and 1 overlap"));
  EXPECT_THAT(message([](ManifestTensor& t) { t.shards[1].extent[1] = 1; }),
              HasSubstr("its shards hold 6 of 8 elements"));
  EXPECT_THAT(message([](ManifestTensor& t) { t.shards[1].extent[1] = 3; }),
              HasSubstr("shard 1 is no part of it"));
  EXPECT_THAT(message([](ManifestTensor& t) { t.pieces[2].begin = 2; }),
              HasSubstr("expected a piece from element 1 of 4 of shard 1 on, got [2, 4) in g"));
  EXPECT_THAT(message([](ManifestTensor& t) { t.pieces[2].shard = 7; }),
              HasSubstr("elements from 1 to 4 of shard 1 are in no file"));
}

TEST(ManifestTest, NamedCounters_AreKept) {
  Manifest manifest = Small();
  manifest.facts.counters.named = {{"loss_scale", "65536"}, {"schedule", "cosine 7"}};
  const auto parsed = ParseManifest(EncodeManifest(manifest));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->facts, manifest.facts);
}

// As a 7-billion-parameter model of 32 layers has them, in the buckets of 25 MiB that it gets.
LayoutRecipe SevenBillion(int64_t ranks, int64_t tp) {
  LayoutRecipe recipe;
  recipe.mesh = {{"tp", tp}, {"dp", ranks / tp}};
  recipe.bucket = (25 << 20) / 4;
  recipe.slots = {"model", "state/exp_avg", "state/exp_avg_sq"};
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, int64_t split) {
    recipe.parameters.push_back({name, std::move(shape), split});
  };
  add("wte.weight", {32000, 4096}, 0);
  for (int layer = 0; layer < 32; ++layer) {
    const std::string h = "h." + std::to_string(layer) + ".";
    for (const std::string name : {"q", "k", "v", "o"}) {
      add(h + "self_attn." + name + "_proj.weight", {4096, 4096}, name == "o" ? 1 : 0);
    }
    add(h + "mlp.gate_proj.weight", {11008, 4096}, 0);
    add(h + "mlp.up_proj.weight", {11008, 4096}, 0);
    add(h + "mlp.down_proj.weight", {4096, 11008}, 1);
    add(h + "input_layernorm.weight", {4096}, -1);
    add(h + "post_attention_layernorm.weight", {4096}, -1);
  }
  add("norm.weight", {4096}, -1);
  add("lm_head.weight", {32000, 4096}, 0);
  const auto parameters = static_cast<int64_t>(recipe.parameters.size());
  recipe.singles = {{"sums/exponents", {parameters}}};
  return recipe;
}

TEST(ManifestTest, OfSevenBillionParametersAt512Ranks_IsSmall) {
  for (const int64_t tp : {1, 8}) {
    Manifest manifest = Small();
    manifest.layout = SevenBillion(512, tp);
    manifest.tensors.clear();
    manifest.files.clear();
    for (int32_t rank = 0; rank < 512; ++rank) {
      const Incarnation incarnation(0x9e3779b97f4a7c15u * static_cast<uint64_t>(rank + 1));
      ManifestFile file{ShardFileName({Step(100), Generation(2), incarnation, Rank(rank)}), 0,
                        std::string(64, 'a'), 300'000, 4096};
      int64_t pieces = 0;
      for (const RecipePiece& piece : PiecesOfRank(*manifest.layout, rank)) {
        file.blocks += ((piece.end - piece.begin) * 4 + 4095) / 4096;
        pieces += (piece.end - piece.begin) * 4;
      }
      file.bytes = file.header_bytes + pieces + 4 * file.blocks;
      manifest.files.push_back(file);
    }
    std::sort(manifest.files.begin(), manifest.files.end(),
              [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
    const std::string text = EncodeManifest(manifest);
    EXPECT_LT(text.size(), 1'000'000u) << "tp " << tp;
    const auto parsed = ParseManifest(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->layout, manifest.layout);
    size_t pieces = 0;
    int64_t elements = 0;
    for (const ManifestTensor& tensor : parsed->tensors) {
      pieces += tensor.pieces.size();
      elements += tensor.size();
    }
    EXPECT_GT(elements, 3 * int64_t{6'700'000'000});
    EXPECT_GT(pieces, 200'000u) << "they are not in the text";
    RecordProperty("manifest_bytes_tp" + std::to_string(tp), static_cast<int>(text.size()));
    std::cout << "tp " << tp << ": " << text.size() << " bytes, " << pieces << " pieces\n";
  }
}

TEST(ManifestTest, LayoutAndFilesThatDoNotFit_AreDataLoss) {
  Manifest manifest = Small();
  manifest.layout = LayoutRecipe();
  manifest.layout->mesh = {{"dp", 2}};
  manifest.layout->bucket = 1024;
  manifest.layout->slots = {"model"};
  manifest.layout->parameters = {{"w", {2, 3}}};
  const auto name = [](int32_t rank) {
    return ShardFileName({Step(100), Generation(2), Incarnation(7), Rank(rank)});
  };
  manifest.files[0].name = name(0);
  manifest.files[1].name = name(2);
  EXPECT_THAT(std::string(ComputePieces(manifest).message()), HasSubstr("no file of one of its 2"));
  manifest.files.pop_back();
  EXPECT_THAT(std::string(ComputePieces(manifest).message()), HasSubstr("rank 1 of 2 has no file"));
  manifest.layout->mesh[0].size = 1;
  ASSERT_TRUE(ComputePieces(manifest).ok());
  EXPECT_THAT(std::string(CheckManifest(manifest).message()),
              HasSubstr("model/w: elements [0, 6) lie outside step-"));
  manifest.files[0].bytes += 12;
  EXPECT_THAT(std::string(CheckManifest(manifest).message()),
              HasSubstr("expected 64 bytes of header, 24 of pieces and 1 checksums, got 96"));
  manifest.files[0].bytes -= 4;
  EXPECT_TRUE(ParseManifest(EncodeManifest(manifest)).ok());
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
  EXPECT_THAT(message([](Manifest& m) { m.tensors[0].pieces[1].file = 2; }),
              HasSubstr("lie outside all files, in file 2"));
  EXPECT_THAT(message([](Manifest& m) { m.files[1].bytes = 80; }),
              HasSubstr("g: expected 64 bytes of header, 8 of pieces and 1 checksums, got 80"));
  EXPECT_THAT(message([](Manifest& m) { m.files[0].blocks = 0; }), HasSubstr("with 0 checksums"));
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
