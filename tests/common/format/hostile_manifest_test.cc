// Manifests with a right checksum of their own that ask a reader for more than they can have, or
// for what is not there: refused by arithmetic, before anything is computed or allocated from them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/sha256.h"
#include "common/format/manifest.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// Of two ranks, two slots and one parameter, in files with room for a few pieces.
Manifest ByRecipe() {
  Manifest manifest;
  manifest.facts.job_id = "job";
  manifest.facts.key = {Step(1), Generation(1), 1};
  LayoutRecipe recipe;
  recipe.mesh = {{"dp", 2}};
  recipe.leaf = 4;
  recipe.bucket = 8;
  recipe.slots = {"model", "state/exp_avg"};
  recipe.parameters = {{"w", {16}}};
  manifest.layout = recipe;
  for (int32_t rank = 0; rank < 2; ++rank) {
    const std::string name = ShardFileName({Step(1), Generation(1), Incarnation(7), Rank(rank)});
    // Two runs of four elements for each of two slots.
    manifest.files.push_back({name, 512 + 4 * 16 + 4 * 4, std::string(64, 'a'), 512, 4096, 4});
  }
  return manifest;
}

Json JsonOf(const Manifest& manifest) {
  Json json = Json::parse(EncodeManifest(manifest));
  json.erase("sha256_of_all_above");
  return json;
}

std::string Encoded(const Json& json) {
  std::string body = json.dump(1);
  body.resize(body.size() - 2);
  return body + ",\n \"sha256_of_all_above\": \"" + Sha256Hex(body) + "\"\n}\n";
}

std::string Refusal(const Json& json) {
  const absl::Status status = ParseManifest(Encoded(json)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  return std::string(status.message());
}

template <typename Change>
std::string RefusalOf(const Change& change) {
  Json json = JsonOf(ByRecipe());
  change(json);
  return Refusal(json);
}

TEST(HostileManifest, TheOneThatIsChangedHere_IsGood) {
  const auto parsed = ParseManifest(Encoded(JsonOf(ByRecipe())));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors.size(), 2u);
}

TEST(HostileManifest, NumbersOfTheRecipe_AreBounded) {
  EXPECT_THAT(RefusalOf([](Json& j) { j["layout"]["mesh"][0]["size"] = int64_t{1} << 40; }),
              HasSubstr("axis dp has size 1099511627776"));
  // A tiny bucket of a model without end.
  EXPECT_THAT(RefusalOf([](Json& j) {
                j["layout"]["bucket"] = 4;
                j["layout"]["parameters"][0]["shape"] = {int64_t{1} << 50};
              }),
              HasSubstr("expected at most 33554432 pieces, got up to "));
  // Few pieces, which are found by walking through all buckets.
  EXPECT_THAT(RefusalOf([](Json& j) {
                j["layout"]["mesh"][0]["size"] = 1;
                j["layout"]["bucket"] = 4;
                j["layout"]["parameters"][0]["shape"] = {int64_t{1} << 40};
              }),
              HasSubstr("buckets of all ranks together"));
  EXPECT_THAT(RefusalOf([](Json& j) {
                for (int i = 0; i < 65; ++i) j["layout"]["slots"].push_back(std::to_string(i));
              }),
              HasSubstr("expected at most 64 slots, got 67"));
  EXPECT_THAT(RefusalOf([](Json& j) { j["layout"]["slots"].push_back("model"); }),
              HasSubstr("a slot is there twice"));
  EXPECT_THAT(RefusalOf([](Json& j) {
                j["layout"]["parameters"][0]["shape"] = std::vector<int64_t>(33, 1);
              }),
              HasSubstr("w: expected at most 32 dimensions, got 33"));
  EXPECT_THAT(
      RefusalOf([](Json& j) {
        j["layout"]["mesh"] = Json::array({{{"axis", "tp"}, {"size", 1 << 20}}});
        j["layout"]["parameters"][0] = {{"name", "w"}, {"shape", {1 << 20, 4}}, {"split", 0}};
        j["layout"]["slots"] = {"a", "b", "c"};
      }),
      HasSubstr("expected at most 2097152 shards of its tensors"));
  EXPECT_THAT(
      RefusalOf([](Json& j) { j["layout"]["parameters"][0]["shape"] = {int64_t{1} << 56}; }),
      HasSubstr("it is too large"));
}

// 100,000 pieces may be; not in a file whose header has room for sixteen.
TEST(HostileManifest, MorePiecesThanAHeaderHolds_AreNotComputed) {
  EXPECT_THAT(RefusalOf([](Json& j) { j["layout"]["parameters"][0]["shape"] = {800'000}; }),
              HasSubstr("the layout's pieces do not fit into a header of 512 bytes"));
}

TEST(HostileManifest, NumbersOfAFile_AreBounded) {
  const auto file = [](const char* key, auto value) {
    return RefusalOf([&](Json& j) { j["files"][0][key] = value; });
  };
  const uint64_t two_to_63 = uint64_t{1} << 63;
  EXPECT_THAT(file("bytes", two_to_63), HasSubstr("expected a whole number as bytes"));
  EXPECT_THAT(file("bytes", std::numeric_limits<int64_t>::max()), HasSubstr("no file has "));
  EXPECT_THAT(file("bytes", -1), HasSubstr("no file has -1 bytes"));
  EXPECT_THAT(file("header_bytes", int64_t{1} << 40), HasSubstr("expected a header of at most"));
  EXPECT_THAT(file("header_bytes", -8), HasSubstr("expected a header of at most"));
  EXPECT_THAT(file("blocks", int64_t{1} << 62), HasSubstr("4611686018427387904 checksums"));
  EXPECT_THAT(file("blocks", -1), HasSubstr("-1 checksums"));
  // An element in two blocks was read without end.
  EXPECT_THAT(file("block_bytes", 4'194'303), HasSubstr("a multiple of 8, got 4194303"));
  EXPECT_THAT(file("block_bytes", std::numeric_limits<int64_t>::max()),
              HasSubstr("expected blocks of at most 4194304 bytes"));
  EXPECT_THAT(RefusalOf([&](Json& j) { j["layout"]["parameters"][0]["shape"] = {two_to_63}; }),
              HasSubstr("bad shape of w"));
}

TEST(HostileManifest, NamesWithControlBytes_AreRefused) {
  for (const std::string bad : {"model\n", "\x1b[2J", "a\x7f"}) {
    EXPECT_THAT(RefusalOf([&](Json& j) { j["layout"]["slots"][0] = bad; }),
                HasSubstr("a text without control bytes as a slot"));
    EXPECT_THAT(RefusalOf([&](Json& j) { j["layout"]["parameters"][0]["name"] = bad; }),
                HasSubstr("a text without control bytes as name"));
    EXPECT_THAT(RefusalOf([&](Json& j) { j["files"][0]["name"] = bad; }),
                HasSubstr("a text without control bytes as name"));
  }
}

TEST(HostileManifest, Types_AreOfSlotsThatAreThereAndChangeTheSizes) {
  EXPECT_THAT(RefusalOf([](Json& j) { j["layout"]["types"]["state/x"] = "BF16"; }),
              HasSubstr("state/x has a type, and is not there"));
  EXPECT_THAT(RefusalOf([](Json& j) { j["layout"]["types"]["model"] = "F8"; }),
              HasSubstr("expected a type as that of model, got \"F8\""));
  EXPECT_THAT(RefusalOf([](Json& j) { j["layout"]["types"]["model"] = "BF16"; }),
              HasSubstr("48 of pieces and 4 checksums, got 592 bytes"));
}

// Two pieces of one file that claim the same bytes, and bytes that no piece has: the sums are
// right.
TEST(HostileManifest, TwoPiecesOfTheSameBytes_AreRefused) {
  Manifest manifest = ByRecipe();
  ASSERT_TRUE(ComputePieces(manifest).ok());
  manifest.layout.reset();
  ASSERT_TRUE(CheckManifest(manifest).ok()) << CheckManifest(manifest);
  ASSERT_TRUE(ParseManifest(EncodeManifest(manifest)).ok());
  Json json = JsonOf(manifest);
  json["tensors"][1]["pieces"][0]["offset"] = json["tensors"][0]["pieces"][0]["offset"];
  EXPECT_THAT(
      Refusal(json),
      HasSubstr("two pieces have the same bytes: elements [0, 4) of model/w at byte 512, and "
                "[0, 4) of state/exp_avg/w at byte 512"));
}

}  // namespace
}  // namespace dsrun
