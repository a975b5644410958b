// What differs, and by how much: small checkpoints whose values are written here.

#include "launcher/commands/checkpoint_diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/base/crc32c.h"
#include "common/base/sha256.h"
#include "common/format/manifest.h"
#include "tests/fakes/faulty_file_system.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using Kind = TensorDifference::Kind;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

class CheckpointDiffTest : public ::testing::Test {
 protected:
  // One piece for every `piece` elements, all in one file, as format 1 had them.
  Checkpoint Make(const std::string& folder, const std::map<std::string, Tensor>& tensors,
                  int64_t piece = 4) {
    Manifest manifest = facts_;
    manifest.version = 1;
    std::string bytes;
    for (const auto& [name, tensor] : tensors) {
      manifest.tensors.push_back({name, tensor.shape, {}});
      const auto size = static_cast<int64_t>(tensor.values.size());
      for (int64_t begin = 0; begin < size; begin += piece) {
        const int64_t end = std::min(size, begin + piece);
        const auto part = std::as_bytes(
            std::span(tensor.values)
                .subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
        manifest.tensors.back().pieces.push_back({begin, end, /*file=*/0, /*shard=*/0,
                                                  static_cast<int64_t>(bytes.size()),
                                                  /*first_block=*/0, ExtendCrc32c(0, part)});
        bytes.append(reinterpret_cast<const char*>(part.data()), part.size());
      }
    }
    manifest.files = {{"shard", static_cast<int64_t>(bytes.size()), Sha256Hex(bytes)}};
    EXPECT_TRUE(CheckManifest(manifest).ok()) << CheckManifest(manifest);
    fs_.Write(folder + "/shard", bytes);
    return Checkpoint(fs_, folder, ManifestName(manifest.facts.key), manifest);
  }
  CheckpointDiff Diff(Checkpoint a, Checkpoint b) {
    out_.str("");
    DiffCommand(a, b, /*json=*/false, nullptr, out_, out_);
    return DiffCheckpoints(a, b, nullptr).value();
  }

  FaultyFileSystem fs_;
  Manifest facts_;
  std::ostringstream out_;
};

TEST_F(CheckpointDiffTest, Values) {
  const CheckpointDiff diff =
      Diff(Make("/a", {{"same", {{2}, {1, 2}}}, {"w", {{2, 3}, {1, 2, 3, 4, 5, 100}}}}),
           Make("/b", {{"same", {{2}, {1, 2}}}, {"w", {{2, 3}, {1, 2, 3, 4, 2, 101}}}}, 5));
  EXPECT_EQ(diff.same_tensors, 1);
  ASSERT_THAT(diff.tensors, SizeIs(1));
  const TensorDifference& w = diff.tensors[0];
  EXPECT_EQ(w.name, "w");
  EXPECT_EQ(w.elements, 6);
  EXPECT_EQ(w.differing, 2);
  EXPECT_EQ(w.first, 4);
  EXPECT_EQ(w.first_a, 5);
  EXPECT_EQ(w.first_b, 2);
  EXPECT_EQ(w.greatest_absolute, 3);
  EXPECT_EQ(w.greatest_relative, 0.6);
  EXPECT_EQ(w.not_finite, 0);
  EXPECT_THAT(out_.str(),
              HasSubstr("    w  2 of 6 elements, by at most 3 (0.6 relative), first at (1, 1): "
                        "5, 2\ndifferent: 1 of 2 tensors differ\n"));
}

TEST_F(CheckpointDiffTest, SignsOfZeroAndWhatIsNotFinite) {
  const float nan = std::nanf("");
  const CheckpointDiff diff = Diff(Make("/a", {{"w", {{5}, {0.0f, nan, kInf, nan, 1}}}}),
                                   Make("/b", {{"w", {{5}, {-0.0f, nan, -kInf, 7, 1}}}}));
  ASSERT_THAT(diff.tensors, SizeIs(1));
  EXPECT_EQ(diff.tensors[0].differing, 3);  // bits: the same NaN is the same
  EXPECT_EQ(diff.tensors[0].not_finite, 2);
  EXPECT_EQ(diff.tensors[0].greatest_absolute, 0);
  EXPECT_THAT(out_.str(), HasSubstr("; 2 of them not finite\n"));
}

TEST_F(CheckpointDiffTest, MissingTensorsAndOtherShapes) {
  const CheckpointDiff diff =
      Diff(Make("/a", {{"a", {{1}, {1}}}, {"s", {{2, 3}, {1, 2, 3, 4, 5, 6}}}}),
           Make("/b", {{"b", {{1}, {1}}}, {"s", {{3, 2}, {1, 2, 3, 4, 5, 6}}}}));
  ASSERT_THAT(diff.tensors, SizeIs(3));
  EXPECT_EQ(diff.tensors[0].kind, Kind::kOnlyInA);
  EXPECT_EQ(diff.tensors[1].kind, Kind::kOnlyInB);
  EXPECT_EQ(diff.tensors[2].kind, Kind::kShapes);
  EXPECT_THAT(out_.str(), HasSubstr("    a  only in A, (1)\n    b  only in B, (1)\n"
                                    "    s  shape (2, 3) in A, (3, 2) in B\n"));
}

TEST_F(CheckpointDiffTest, SettingsAndFingerprint) {
  facts_.facts.batch.seed = 7;
  facts_.facts.fingerprint.isa = "avx2";
  facts_.facts.fingerprint.tiles = "1x2";
  Checkpoint a = Make("/a", {});
  facts_.facts.batch.seed = 9;
  facts_.facts.fingerprint.isa = "avx512";
  facts_.facts.fingerprint.tiles = "";
  const CheckpointDiff diff = Diff(std::move(a), Make("/b", {}));
  EXPECT_THAT(out_.str(), HasSubstr("counters and settings:\n"
                                    "                                 A     B\n"
                                    "    seed                         7     9\n"
                                    "    instruction set (--isa-cap)  avx2  avx512\n"
                                    "    tiles of matrix products     1x2   not recorded\n"
                                    "different: 0 of 0 tensors differ\n"));
  EXPECT_FALSE(diff.empty());
}

// More elements than one part of the reading, and pieces that lie across the parts.
TEST_F(CheckpointDiffTest, LargeTensor_TheLastElement) {
  const int64_t size = (int64_t{1} << 19) + 3;
  Tensor tensor = {{size}, std::vector<float>(static_cast<size_t>(size), 1.5f)};
  Checkpoint a = Make("/a", {{"w", tensor}}, 100'000);
  tensor.values.back() = 2;
  const CheckpointDiff diff = Diff(std::move(a), Make("/b", {{"w", tensor}}, 77'777));
  ASSERT_THAT(diff.tensors, SizeIs(1));
  EXPECT_EQ(diff.tensors[0].first, size - 1);
  EXPECT_EQ(diff.tensors[0].differing, 1);
}

}  // namespace
}  // namespace dsrun::launcher
