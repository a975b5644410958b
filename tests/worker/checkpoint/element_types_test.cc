// Pieces of every type, through real shards: what is read is what was written, byte for byte, by
// any division into pieces; conversions are exact or refused; a hash says the type; verifying with
// several threads finds the same.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/element_values.h"
#include "common/format/shard_verifier.h"
#include "tests/common/format/random_recipes.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_loader.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/checkpoint/find_checkpoint.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kFolder[] = "/save";
constexpr ElementType kAll[] = {ElementType::kF32, ElementType::kBF16, ElementType::kF16,
                                ElementType::kF64, ElementType::kI64,  ElementType::kI32,
                                ElementType::kU8};

// The bytes of a whole tensor: any, but those of another tensor.
std::vector<std::byte> BytesOf(const std::string& tensor, ElementType type, int64_t elements) {
  Random random(std::hash<std::string>()(tensor));
  std::vector<std::byte> bytes(static_cast<size_t>(elements * ElementBytes(type)));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

int64_t SizeOf(const std::vector<int64_t>& shape) { return WholeBox(shape).volume(); }

LayoutRecipe WithTypes(Random& random, LayoutRecipe recipe) {
  const auto any = [&] { return kAll[static_cast<size_t>(Draw(random, 0, 6))]; };
  for (const std::string& slot : recipe.slots) recipe.types[slot] = any();
  for (const auto& single : recipe.singles) recipe.types[single.name] = any();
  return recipe;
}

std::map<std::string, ElementType> TypesOf(const LayoutRecipe& recipe) {
  std::map<std::string, ElementType> types;
  for (const std::string& slot : recipe.slots) {
    for (const auto& parameter : recipe.parameters) {
      types[slot + "/" + parameter.name] = recipe.TypeOf(slot);
    }
  }
  for (const auto& single : recipe.singles) types[single.name] = recipe.TypeOf(single.name);
  return types;
}

// `listed`: every other rank writes without the recipe, and all pieces are listed.
absl::StatusOr<std::string> Write(FileSystem& fs, const LayoutRecipe& recipe, bool listed) {
  EXPECT_TRUE(BeginJob(fs, kFolder, "job-a").ok());
  const auto shapes = ShapesOf(recipe);
  const auto types = TypesOf(recipe);
  std::vector<ShardRecord> records;
  for (int64_t rank = 0; rank < recipe.ranks(); ++rank) {
    std::vector<std::vector<std::byte>> memory;
    std::vector<Slice> slices;
    for (const Piece& piece : PiecesOf(recipe, rank)) {
      const std::vector<int64_t>& shape = shapes.at(piece.tensor);
      const ElementType type = types.at(piece.tensor);
      const auto size = static_cast<size_t>(ElementBytes(type));
      const std::vector<std::byte> all = BytesOf(piece.tensor, type, SizeOf(shape));
      std::vector<std::byte>& mine = memory.emplace_back();
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        const auto at = static_cast<size_t>(LogicalIndex(piece.shard, shape, i)) * size;
        mine.insert(mine.end(), all.begin() + static_cast<std::ptrdiff_t>(at),
                    all.begin() + static_cast<std::ptrdiff_t>(at + size));
      }
      const Box shard = piece.shard == WholeBox(shape) ? Box() : piece.shard;
      slices.push_back({piece.tensor, shape, piece.begin, piece.end, mine.data(), shard, type});
    }
    const ShardId id{"job-a",
                     {Step(1), Generation(1), Incarnation(7), Rank(static_cast<int32_t>(rank))}};
    const auto record =
        WriteShard(fs, kFolder, id, slices, listed && rank % 2 == 1 ? nullptr : &recipe);
    if (!record.ok()) return record.status();
    records.push_back(ShardRecord::Parse(record->Serialize()).value());
  }
  ManifestFacts facts;
  facts.job_id = "job-a";
  facts.key = {Step(1), Generation(1), 1};
  return CommitManifest(fs, kFolder, facts, records);
}

TEST(ElementTypes, WhatIsRead_IsWhatWasWritten) {
  const uint64_t seed = 27112026;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    FaultyFileSystem fs;
    const LayoutRecipe recipe = WithTypes(random, DrawRecipe(random, DrawParameters(random, 20)));
    const bool listed = round % 3 == 0 && recipe.ranks() > 1;
    const auto name = Write(fs, recipe, listed);
    ASSERT_TRUE(name.ok()) << name.status();
    auto checkpoint = OpenCheckpoint(fs, kFolder, *name, Verify::kSizes);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->manifest().layout.has_value(), !listed);
    const auto types = TypesOf(recipe);
    for (const ManifestTensor& tensor : checkpoint->manifest().tensors) {
      ASSERT_EQ(tensor.type, types.at(tensor.name));
      const std::vector<std::byte> all = BytesOf(tensor.name, tensor.type, tensor.size());
      const int64_t begin = Draw(random, 0, tensor.size());
      const int64_t end = Draw(random, begin, tensor.size());
      std::vector<std::byte> got;
      const absl::Status read = checkpoint->ReadStored(tensor.name, Box(), begin, end, got);
      ASSERT_TRUE(read.ok()) << read;
      const auto from = all.begin() + begin * ElementBytes(tensor.type);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), from)) << tensor.name;

      std::vector<float> values(static_cast<size_t>(end - begin));
      const absl::Status asked = checkpoint->ReadRange(tensor.name, begin, end, values.data());
      if (!IsExactAsF32(tensor.type)) {
        EXPECT_EQ(asked.code(), absl::StatusCode::kFailedPrecondition);
        EXPECT_THAT(std::string(asked.message()),
                    HasSubstr("expected it stored as F32, BF16 or F16, "));
        continue;
      }
      ASSERT_TRUE(asked.ok()) << asked;
      std::vector<float> expected(values.size());
      ToF32(tensor.type, got, expected.data());
      if (values.empty()) continue;  // there is nothing to compare, nor a place for it
      ASSERT_EQ(std::memcmp(values.data(), expected.data(), 4 * values.size()), 0) << tensor.name;
    }
  }
}

// A shard whose manifest says another type of the same size: the header knows better.
TEST(ElementTypes, LieOfTheManifest_IsFoundBeforeAnythingIsGivenOut) {
  Random random(3);
  FaultyFileSystem fs;
  LayoutRecipe recipe = DrawRecipe(random, DrawParameters(random, 12));
  recipe.types = {{"model", ElementType::kBF16}};
  const auto name = Write(fs, recipe, false);
  Manifest manifest = ReadManifest(fs, kFolder, *name).value();
  manifest.layout->types["model"] = ElementType::kF16;
  ASSERT_TRUE(ComputePieces(manifest).ok());
  ASSERT_TRUE(CheckManifest(manifest).ok()) << "as whole as the other";
  fs.Write(JoinPath(kFolder, *name), EncodeManifest(manifest));
  auto checkpoint = OpenCheckpoint(fs, kFolder, *name, Verify::kSizes);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ManifestTensor& tensor =
      *std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                    [](const ManifestTensor& t) { return t.name.starts_with("model/"); });
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  const absl::Status read = checkpoint->ReadRange(tensor.name, 0, tensor.size(), values.data());
  EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss) << read;
  EXPECT_THAT(std::string(read.message()), HasSubstr("of BF16 at byte "));
  EXPECT_THAT(std::string(read.message()), HasSubstr("of F16 at byte "));
  EXPECT_EQ(OpenCheckpoint(fs, kFolder, *name, Verify::kFull).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(ElementTypes, Hash_SaysTheType) {
  Random random(5);
  LayoutRecipe recipe = DrawRecipe(random, {{"t", {8}}});
  std::map<std::string, ElementType> hashes;
  for (const ElementType type : {ElementType::kBF16, ElementType::kF16}) {  // the same bytes
    FaultyFileSystem fs;
    recipe.types = {{"model", type}};
    const auto name = Write(fs, recipe, false);
    ASSERT_TRUE(name.ok()) << name.status();
    auto checkpoint = OpenCheckpoint(fs, kFolder, *name, Verify::kFull);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    hashes[ContentHash(*checkpoint).value()] = type;
  }
  EXPECT_EQ(hashes.size(), 2u);
}

// Whole, and none of its model: no damage, so nobody falls back, and nothing that time mends.
TEST(ElementTypes, ManifestThatContradictsItsModel_IsAnErrorOfTheInputToALoad) {
  const TrainingState state;
  FaultyFileSystem fs;
  const auto name = Save(fs, kFolder, state, SaveOptions());
  ASSERT_TRUE(name.ok()) << name.status();
  Manifest manifest = ReadManifest(fs, kFolder, *name).value();
  for (LayoutRecipe::Parameter& parameter : manifest.layout->parameters) {
    if (parameter.name == "wpe.weight") std::swap(parameter.shape[0], parameter.shape[1]);
  }
  ASSERT_TRUE(ComputePieces(manifest).ok());
  fs.Write(JoinPath(kFolder, *name), EncodeManifest(manifest));
  auto checkpoint = OpenCheckpoint(fs, kFolder, *name, Verify::kFull);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const FlatLayout& layout = state.layout();
  const Range all{0, layout.size()};
  std::vector<float> params(static_cast<size_t>(layout.size())), m = params, v = params;
  const absl::Status load =
      LoadModelAndState(*checkpoint, state.Expectation(), layout, std::span(&all, 1), params.data(),
                        kAdamW, std::vector{m.data(), v.data()});
  EXPECT_EQ(load.code(), absl::StatusCode::kFailedPrecondition) << load;
  EXPECT_THAT(std::string(load.message()),
              HasSubstr("model/wpe.weight: expected shape (16, 32), got (32, 16)"));
  EXPECT_FALSE(MayPass(load));
}

// Peers have verified the file that was there; this one is another, whole in itself.
TEST(ElementTypes, FileThatIsExchangedAfterItWasVerified_IsNotLoaded) {
  const TrainingState state;
  FaultyFileSystem fs;
  const auto name = Save(fs, kFolder, state, SaveOptions());
  SaveOptions later;
  later.step = Step(200);
  ASSERT_TRUE(Save(fs, kFolder, state, later).ok());
  const Manifest manifest = ReadManifest(fs, kFolder, *name).value();
  const std::vector<std::string> names = fs.List(kFolder).value();
  const auto other = std::find_if(names.begin(), names.end(), [](const std::string& file) {
    return file.starts_with("step-00000200.") && file.find("rank-0001") != std::string::npos;
  });
  ASSERT_NE(other, names.end());
  fs.Write(JoinPath(kFolder, manifest.files[1].name),
           ReadFile(fs, JoinPath(kFolder, *other)).value());
  auto checkpoint = OpenCheckpoint(fs, kFolder, *name, Verify::kHeaders);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<float> values(100 * 32);
  const absl::Status read = checkpoint->ReadRange("model/wte.weight", 0, 3200, values.data());
  EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss) << read;
  EXPECT_THAT(std::string(read.message()),
              HasSubstr("the header or the table of checksums is damaged"));
}

TEST(ElementTypes, VerifyingWithSeveralThreads_FindsTheSame) {
  const uint64_t seed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  FaultyFileSystem fs;
  // Large enough for several windows of a megabyte.
  LayoutRecipe recipe;
  recipe.mesh = {{"dp", 2}};
  recipe.bucket = 1 << 18;
  recipe.slots = {"model", "state/a"};
  recipe.parameters = {{"w", {900, 1000}}, {"b", {333}}};
  recipe.types = {{"state/a", ElementType::kF64}};
  const auto name = Write(fs, recipe, false);
  ASSERT_TRUE(name.ok()) << name.status();
  const Manifest manifest = ReadManifest(fs, kFolder, *name).value();
  const ManifestFile& file = manifest.files[1];
  const std::string path = JoinPath(kFolder, file.name);
  ShardVerifier one(fs, kFolder, manifest, 1), eight(fs, kFolder, manifest, 8);
  EXPECT_EQ(one.Verify(file, nullptr).state, ShardVerdict::State::kWhole);
  int64_t bytes = 0;
  EXPECT_EQ(eight.Verify(file, [&](int64_t read) { bytes += read; }).state,
            ShardVerdict::State::kWhole);
  EXPECT_EQ(bytes, file.bytes);
  for (int round = 0; round < 30; ++round) {
    const int64_t at = Draw(random, 0, file.bytes - 1);
    fs.FlipBit(path, at, 2);
    const ShardVerdict verdict = one.Verify(file, nullptr);
    EXPECT_EQ(verdict.state, ShardVerdict::State::kDamaged) << at;
    EXPECT_TRUE(verdict == eight.Verify(file, nullptr)) << at;
    if (round % 2 == 0) fs.FlipBit(path, at, 2);  // and some of them together
  }
}

}  // namespace
}  // namespace dsrun::worker
