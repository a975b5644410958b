// Exporting the model, and where its parameters lie: of real shards in a file system in memory.

#include "launcher/commands/checkpoint_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/safetensors.h"
#include "launcher/commands/checkpoint_command.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::launcher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

uint16_t One(float value, ElementType type, int64_t* overflowed = nullptr) {
  std::string bytes;
  const int64_t count = Convert(std::span(&value, 1), type, bytes);
  if (overflowed != nullptr) *overflowed = count;
  uint16_t half = 0;
  EXPECT_EQ(bytes.size(), 2u);
  std::memcpy(&half, bytes.data(), 2);
  return half;
}

// Values of the published tables of binary16.
TEST(Convert, Fp16) {
  const auto half = [](float value) { return One(value, ElementType::kF16); };
  EXPECT_EQ(half(0.0f), 0x0000);
  EXPECT_EQ(half(-0.0f), 0x8000);
  EXPECT_EQ(half(1.0f), 0x3c00);
  EXPECT_EQ(half(-2.0f), 0xc000);
  EXPECT_EQ(half(1.0f / 3), 0x3555);
  EXPECT_EQ(half(65504.0f), 0x7bff);
  EXPECT_EQ(half(65519.0f), 0x7bff);
  EXPECT_EQ(half(std::ldexp(1.0f, -14)), 0x0400);     // the least normal
  EXPECT_EQ(half(std::ldexp(1023.0f, -24)), 0x03ff);  // the greatest below it
  EXPECT_EQ(half(std::ldexp(1.0f, -24)), 0x0001);
  EXPECT_EQ(half(std::ldexp(1.0f, -25)), 0x0000) << "a tie, to even";
  EXPECT_EQ(half(std::ldexp(1.5f, -25)), 0x0001);
  EXPECT_EQ(half(1.0f + std::ldexp(1.0f, -11)), 0x3c00) << "a tie, to even";
  EXPECT_EQ(half(1.0f + std::ldexp(3.0f, -11)), 0x3c02) << "a tie, to even";
  EXPECT_EQ(half(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(half(std::nanf("")) & 0x7e00, 0x7e00);
  int64_t overflowed = 0;
  EXPECT_EQ(One(65520.0f, ElementType::kF16, &overflowed), 0x7c00);
  EXPECT_EQ(overflowed, 1);
  EXPECT_EQ(One(-1e30f, ElementType::kF16, &overflowed), 0xfc00);
  EXPECT_EQ(overflowed, 1);
  EXPECT_EQ(One(-std::numeric_limits<float>::infinity(), ElementType::kF16, &overflowed), 0xfc00);
  EXPECT_EQ(overflowed, 0);
}

TEST(Convert, Bf16) {
  const auto half = [](float value) { return One(value, ElementType::kBF16); };
  EXPECT_EQ(half(1.0f), 0x3f80);
  EXPECT_EQ(half(-2.0f), 0xc000);
  EXPECT_EQ(half(std::bit_cast<float>(0x3f808000u)), 0x3f80) << "a tie, to even";
  EXPECT_EQ(half(std::bit_cast<float>(0x3f818000u)), 0x3f82) << "a tie, to even";
  EXPECT_EQ(half(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(half(std::bit_cast<float>(0x7f800001u)) & 0x7fc0, 0x7fc0) << "still not a number";
  int64_t overflowed = 0;
  EXPECT_EQ(One(std::numeric_limits<float>::max(), ElementType::kBF16, &overflowed), 0x7f80);
  EXPECT_EQ(overflowed, 1);
}

class CheckpointExportTest : public ::testing::Test {
 protected:
  CheckpointExportTest() {
    worker::SaveOptions options;
    options.width = 3;
    EXPECT_TRUE(worker::Save(fs_, "/save", state_, options).ok());
    EXPECT_TRUE(fs_.CreateFolder("/out").ok());
  }
  int Run(std::vector<std::string> args) {
    out_.str("");
    err_.str("");
    return CheckpointCommand(args, fs_, out_, err_);
  }
  std::vector<std::string> Left() { return fs_.List("/out").value(); }
  std::vector<float> ValuesOf(const FlatLayout::Entry& entry) const {
    const std::vector<float>& arena = state_.Arena(kModelPrefix, Step(100));
    const auto begin = arena.begin() + entry.offset;
    return std::vector<float>(begin, begin + entry.tensor.size());
  }

  FaultyFileSystem fs_;
  const worker::TrainingState state_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CheckpointExportTest, HoldsTheModelAndNothingElse) {
  for (const auto& [name, dtype, type] : {std::tuple("fp32", "F32", ElementType::kF32),
                                          {"bf16", "BF16", ElementType::kBF16},
                                          {"fp16", "F16", ElementType::kF16}}) {
    const std::string path = std::string("/out/model.") + name;
    ASSERT_EQ(Run({"export", "/save", path, "--format", "safetensors", "--dtype", name}), 0)
        << err_.str();
    EXPECT_THAT(out_.str(),
                HasSubstr(path + ": " + std::to_string(state_.layout().entries().size()) +
                          " tensors, " + dtype));
    const std::string bytes = ReadFile(fs_, path).value();
    const auto header = ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()));
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
    ASSERT_EQ(header->entries.size(), state_.layout().entries().size());
    for (const SafetensorsEntry& entry : header->entries) {
      const FlatLayout::Entry& tensor = state_.layout().Find(entry.name);
      EXPECT_EQ(entry.dtype, dtype);
      EXPECT_EQ(entry.shape, tensor.tensor.shape);
      std::string expected;
      Convert(ValuesOf(tensor), type, expected);
      EXPECT_EQ(bytes.substr(static_cast<size_t>(header->data_start + entry.begin),
                             static_cast<size_t>(entry.end - entry.begin)),
                expected)
          << entry.name;
    }
  }
  EXPECT_THAT(Left(), ElementsAre("model.bf16", "model.fp16", "model.fp32"));
}

TEST_F(CheckpointExportTest, ReplacesNothingUnlessForced) {
  fs_.Write("/out/model", "mine");
  EXPECT_EQ(Run({"export", "/save", "/out/model"}), 90);
  EXPECT_EQ(err_.str(),
            "dsrun checkpoint: /out/model exists; give another name, or --force to replace it\n");
  EXPECT_EQ(ReadFile(fs_, "/out/model").value(), "mine");
  EXPECT_EQ(Run({"export", "/save", "/out/model", "--force"}), 0) << err_.str();
  EXPECT_GT(fs_.Stat("/out/model")->bytes, 10'000);
  EXPECT_EQ(Run({"export", "/save", "/save/model", "--force"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("/save/model is inside /save, whose files are a checkpoint's"));
  EXPECT_EQ(Run({"export", "/save", "/out"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("/out is no file"));
}

TEST_F(CheckpointExportTest, BadInput_SaysWhatAndHow) {
  EXPECT_EQ(Run({"export", "/save"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("export: expected a folder and a file, got 1 word"));
  EXPECT_EQ(Run({"export", "/save", "/out/x", "--dtype", "fp8"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("--dtype: expected f32, bf16 or f16, got \"fp8\""));
  EXPECT_EQ(Run({"export", "/save", "/out/x", "--format=gguf"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("--format: expected safetensors, got \"gguf\""));
  EXPECT_EQ(Run({"export", "/save", "/out/x", "--step", "3"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("export has no flag --step"));
  EXPECT_EQ(Run({"hash", "/save", "--force"}), 90);
  EXPECT_EQ(Run({"where", "/save"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("where: expected --param NAME, got none"));
  EXPECT_THAT(Left(), ElementsAre());
}

// Damage is met after some of the file is written; a full disk likewise.
TEST_F(CheckpointExportTest, AfterAnError_NothingIsLeft) {
  const std::string shard = "/save/step-00000100.gen-0001.0000000000001001.rank-0001.safetensors";
  const int64_t at =
      ParseSafetensorsHeader(ReadFile(fs_, shard).value(), fs_.Stat(shard)->bytes)->data_start;
  fs_.FlipBit(shard, at, 1);
  EXPECT_EQ(Run({"export", "/save", "/out/model"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("export: shard " + shard + ": entry "));
  EXPECT_THAT(Left(), ElementsAre());
  fs_.FlipBit(shard, at, 1);
  fs_.SetCapacity(0);
  EXPECT_EQ(Run({"export", "/save", "/out/model"}), 2);
  EXPECT_THAT(Left(), ElementsAre());
}

TEST_F(CheckpointExportTest, DamagedTableOrHeader_IsFoundBeforeAnythingIsBelieved) {
  const std::string shard = "/save/step-00000100.gen-0001.0000000000001001.rank-0001.safetensors";
  for (const int64_t at : {int64_t{40}, fs_.Stat(shard)->bytes - 1}) {
    fs_.FlipBit(shard, at, 1);
    EXPECT_EQ(Run({"export", "/save", "/out/model"}), 90);
    EXPECT_THAT(err_.str(), HasSubstr("the header or the table of checksums is damaged"));
    EXPECT_THAT(Left(), ElementsAre());
    fs_.FlipBit(shard, at, 1);
  }
}

// The sizes and checksums are right, and two names are exchanged: no checksum knows.
TEST_F(CheckpointExportTest, ManifestThatExchangesTwoTensors_IsRefusedByTheHeaders) {
  const std::string name = ListManifests(fs_, "/save").value().at(0);
  Manifest manifest = ReadManifest(fs_, "/save", name).value();
  std::vector<LayoutRecipe::Parameter>& parameters = manifest.layout->parameters;
  const auto find = [&](const std::string& parameter) {
    return std::find_if(parameters.begin(), parameters.end(),
                        [&](const auto& p) { return p.name == parameter; });
  };
  std::swap(find("h.0.ln_1.weight")->name, find("h.0.ln_2.weight")->name);
  ASSERT_TRUE(ComputePieces(manifest).ok());
  fs_.Write("/save/" + name, EncodeManifest(manifest));
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"export", "/save", "/out/model"},
        {"where", "--param", "h.0.ln_1.weight", "/save"}}) {
    EXPECT_EQ(Run(args), 90) << args[0];
    EXPECT_THAT(err_.str(), HasSubstr("its header has entry model/h.0.ln_"));
  }
  EXPECT_THAT(Left(), ElementsAre());
  EXPECT_EQ(Run({"verify", "/save"}), 1);
}

// Whole by its checksums, and none of its model: an error of the input, named, and no damage.
TEST_F(CheckpointExportTest, ManifestThatContradictsItsModel_IsSaidByVerifyAndNotExported) {
  const std::string name = ListManifests(fs_, "/save").value().at(0);
  Manifest manifest = ReadManifest(fs_, "/save", name).value();
  for (LayoutRecipe::Parameter& parameter : manifest.layout->parameters) {
    if (parameter.name == "wte.weight") std::swap(parameter.shape[0], parameter.shape[1]);
  }
  ASSERT_TRUE(ComputePieces(manifest).ok());
  fs_.Write("/save/" + name, EncodeManifest(manifest));
  const std::string what = "model/wte.weight: expected shape (100, 32), got (32, 100)";
  EXPECT_EQ(Run({"verify", "/save"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr(name + ": contradictory (job job-a"));
  EXPECT_THAT(out_.str(), HasSubstr(what));
  EXPECT_THAT(out_.str(), HasSubstr("0 checkpoints whole, 0 damaged, 0 unreadable, 1 "
                                    "contradictory; a job that loads it ends with this error"));
  EXPECT_EQ(Run({"verify", "/save", "--json"}), 1);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["checkpoints"][0]["state"], "contradictory");
  EXPECT_THAT(json["checkpoints"][0]["contradiction"].get<std::string>(), HasSubstr(what));
  EXPECT_EQ(Run({"export", "/save", "/out/model"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr(what));
  EXPECT_THAT(Left(), ElementsAre());
}

TEST_F(CheckpointExportTest, AnyNumberOfJobs_WritesTheSame) {
  ASSERT_EQ(Run({"export", "/save", "/out/one", "--jobs", "1", "--dtype", "f16"}), 0) << err_.str();
  ASSERT_EQ(Run({"export", "/save", "/out/six", "--jobs=6", "--dtype", "fp16"}), 0) << err_.str();
  EXPECT_EQ(ReadFile(fs_, "/out/one").value(), ReadFile(fs_, "/out/six").value());
  EXPECT_EQ(Run({"export", "/save", "/out/x", "--jobs", "0"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("--jobs: expected a number from 1 to 64, got \"0\""));
}

// One parameter of this model is beyond fp16.
TEST_F(CheckpointExportTest, Overflow_IsCountedAndRefusedUnlessItIsAllowed) {
  const worker::SaveOptions options;
  std::vector<std::vector<float>> memory;
  std::vector<worker::ShardRecord> records;
  ASSERT_TRUE(worker::BeginJob(fs_, "/large", "job-a").ok());
  LayoutRecipe recipe =
      worker::RecipeOf(state_.layout(), kAdamW, options.width, options.bucket_bytes);
  recipe.singles.clear();
  std::vector<float> large;
  for (int64_t rank = 0; rank < options.width; ++rank) {
    std::vector<worker::Slice> slices = worker::SlicesOfRank(state_, options, rank, memory);
    for (worker::Slice& slice : slices) {
      if (slice.tensor != "model/ln_f.bias") continue;
      large.assign(static_cast<size_t>(slice.end - slice.begin), 1e6f);
      slice.data = large.data();
    }
    const worker::ShardId id{
        "job-a",
        {options.step, options.generation, Incarnation(1), Rank(static_cast<int32_t>(rank))}};
    records.push_back(worker::WriteShard(fs_, "/large", id, slices, &recipe).value());
  }
  ASSERT_EQ(large.size(), 32u);
  ASSERT_TRUE(worker::CommitManifest(
                  fs_, "/large", state_.Facts("job-a", options.step, options.generation), records)
                  .ok());
  EXPECT_EQ(Run({"export", "/large", "/out/model", "--dtype", "f16"}), 90);
  EXPECT_THAT(err_.str(),
              HasSubstr("32 values, the first in ln_f.bias, beyond what F16 can hold; "
                        "give --allow-overflow to make them infinite, or --dtype bf16"));
  EXPECT_THAT(Left(), ElementsAre());
  EXPECT_EQ(Run({"export", "/large", "/out/model", "--dtype", "f16", "--allow-overflow"}), 0);
  EXPECT_THAT(err_.str(), HasSubstr("warning: 32 values beyond what F16 can hold became infinite"));
  EXPECT_EQ(Run({"export", "/large", "/out/bf16", "--dtype", "bf16"}), 0) << err_.str();
}

TEST_F(CheckpointExportTest, AskedToLeaveOff_LeavesNothing) {
  StopFlag stop;
  EXPECT_TRUE(stop.MayEndNow()) << "nothing is half done";
  {
    const StopFlag::HalfDone half_done(&stop);
    EXPECT_FALSE(stop.MayEndNow());
    EXPECT_TRUE(stop.MayEndNow()) << "a second time";
  }
  const std::vector<std::string> args = {"export", "/save", "/out/model"};
  EXPECT_EQ(CheckpointCommand(args, fs_, out_, err_, nullptr, &stop), 96);
  EXPECT_THAT(err_.str(), HasSubstr("stopped; there is no /out/model of it"));
  EXPECT_THAT(Left(), ElementsAre());
}

TEST_F(CheckpointExportTest, Where_NamesRanksFilesBytesAndNorms) {
  ASSERT_EQ(Run({"where", "--param", "wte.weight", "/save", "--json"}), 0) << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  ASSERT_EQ(json["tensors"].size(), 3u);
  std::vector<std::string> names;
  for (const auto& tensor : json["tensors"]) names.push_back(tensor["name"]);
  EXPECT_THAT(names, ElementsAre("model/wte.weight", "state/exp_avg/wte.weight",
                                 "state/exp_avg_sq/wte.weight"));
  const std::vector<float> values = ValuesOf(state_.layout().Find("wte.weight"));
  double sum = 0;
  int64_t elements = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  const auto& model = json["tensors"][0];
  EXPECT_NEAR(model["norm"].get<double>(), std::sqrt(sum), 1e-9);
  EXPECT_EQ(model["dtype"], "F32");
  EXPECT_GT(model["pieces"].size(), 1u);
  for (const auto& piece : model["pieces"]) {
    const std::string file = piece["file"];
    EXPECT_THAT(file, HasSubstr("rank-000" + std::to_string(piece["rank"].get<int>()) + "."));
    // The bytes that it names are these elements.
    const std::string bytes =
        ReadFile(fs_, JoinPath("/save", file))
            .value()
            .substr(piece["first_byte"],
                    piece["past_byte"].get<size_t>() - piece["first_byte"].get<size_t>());
    const int64_t begin = piece["begin"];
    const int64_t count = piece["end"].get<int64_t>() - begin;
    ASSERT_EQ(bytes.size(), static_cast<size_t>(4 * count));
    EXPECT_EQ(std::memcmp(bytes.data(), values.data() + begin, bytes.size()), 0);
    double squares = 0;
    for (int64_t i = begin; i < begin + count; ++i) {
      const double value = values[static_cast<size_t>(i)];
      squares += value * value;
    }
    EXPECT_NEAR(piece["norm"].get<double>(), std::sqrt(squares), 1e-9);
    elements += count;
  }
  EXPECT_EQ(elements, static_cast<int64_t>(values.size()));

  EXPECT_EQ(Run({"where", "--param", "state/exp_avg/wpe.weight", "/save"}), 0) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("\nstate/exp_avg/wpe.weight  (16, 32)  F32  norm "));
  EXPECT_THAT(out_.str(), HasSubstr(".rank-000"));
  EXPECT_EQ(Run({"where", "--param", "wt", "/save"}), 90);
  EXPECT_THAT(err_.str(), HasSubstr("--param: no parameter wt in manifest.step-00000100"));
  EXPECT_THAT(err_.str(), HasSubstr("such as h.0.attn.c_attn.bias, "));
}

}  // namespace
}  // namespace dsrun::launcher
