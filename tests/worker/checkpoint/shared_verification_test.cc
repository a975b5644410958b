// Every byte is read by somebody, whatever the width; what one rank finds, all hear.

#include "worker/checkpoint/shared_verification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/format/checkpoint_reader.h"
#include "common/format/shard_verifier.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"

namespace dsrun::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using State = ShardVerdict::State;

constexpr char kFolder[] = "/save";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(ShareOf, EveryFileIsInOneShare_AndSharesAreEven) {
  for (const size_t files : {0, 1, 5, 1000}) {
    Manifest manifest;
    for (size_t i = 0; i < files; ++i) {
      const std::string name = "shard-" + std::to_string(10000 + i);
      manifest.files.push_back({name, static_cast<int64_t>(i * 7919 % 1000), ""});
    }
    for (const int width : {1, 2, 3, 8, 100}) {
      std::map<std::string, int> seen;
      std::vector<int64_t> loads;
      for (int rank = 0; rank < width; ++rank) {
        loads.push_back(0);
        for (const ManifestFile& file : ShareOf(manifest, rank, width)) {
          ++seen[file.name];
          loads.back() += file.bytes;
        }
      }
      EXPECT_EQ(seen.size(), files);
      for (const auto& [name, times] : seen) EXPECT_EQ(times, 1) << name;
      EXPECT_LE(*std::max_element(loads.begin(), loads.end()),
                *std::min_element(loads.begin(), loads.end()) + 999)
          << files << " files, width " << width;
    }
  }
}

class SharedVerificationTest : public ::testing::Test {
 protected:
  SharedVerificationTest() {
    EXPECT_TRUE(Save(fs_, kFolder, state_, {}).ok());
    manifest_ = FindNewestCheckpoint(fs_, kFolder, {}, nullptr).value().manifest();
  }
  std::string PathOf(size_t file) const { return JoinPath(kFolder, manifest_.files[file].name); }
  absl::Status Together(int width) {
    std::vector<absl::Status> found;
    for (int rank = 0; rank < width; ++rank) {
      found.push_back(VerifyShare(fs_, kFolder, manifest_, rank, width, [this] { ++moves_; }));
    }
    return JoinShares(found);
  }

  FaultyFileSystem fs_;
  const TrainingState state_;
  Manifest manifest_;
  int moves_ = 0;
};

TEST_F(SharedVerificationTest, Whole) {
  for (const int width : {1, 3, 7}) EXPECT_TRUE(Together(width).ok()) << Together(width);
  EXPECT_GT(moves_, 0);
}

TEST_F(SharedVerificationTest, DamageAnywhere_IsFoundAndNamedForAll) {
  for (const int width : {1, 2, 3, 7}) {
    for (size_t file = 0; file < manifest_.files.size(); ++file) {
      const int64_t last = manifest_.files[file].table_offset() - 1;
      fs_.FlipBit(PathOf(file), last, 3);
      const absl::Status status = Together(width);
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_THAT(Message(status), AllOf(HasSubstr("shard " + PathOf(file) + " is damaged"),
                                         HasSubstr(") of state/exp_avg_sq/")));
      fs_.FlipBit(PathOf(file), last, 3);
    }
  }
  for (size_t file = 0; file < 3; ++file) ASSERT_TRUE(fs_.RemoveFile(PathOf(file)).ok());
  fs_.Truncate(PathOf(3), 100);
  EXPECT_THAT(Message(Together(2)),
              AllOf(HasSubstr(PathOf(0) + " is missing"), HasSubstr(PathOf(2) + " is missing"),
                    HasSubstr(PathOf(3) + " is damaged: expected "), HasSubstr("got 100 (cut)")));
}

TEST_F(SharedVerificationTest, ReadError_IsNoDamage_AndNamesTheRank) {
  fs_.FailReads(PathOf(2), absl::UnavailableError("Input/output error"));
  const absl::Status status = Together(4);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("rank "), HasSubstr(PathOf(2)),
                                     HasSubstr("Input/output error"), Not(HasSubstr("damaged"))));
  // What is proven somewhere else counts more.
  fs_.FlipBit(PathOf(0), 9, 0);
  EXPECT_EQ(Together(4).code(), absl::StatusCode::kDataLoss);
}

TEST_F(SharedVerificationTest, Verdict_NamesEveryPieceAndBothChecksums) {
  const ManifestTensor& tensor = *manifest_.FindTensor("state/exp_avg_sq/h.0.attn.c_attn.weight");
  const ManifestPiece& piece = tensor.pieces.front();
  const ManifestFile& file = manifest_.FileOf(piece);
  fs_.FlipBit(JoinPath(kFolder, file.name), piece.offset, 0);
  ShardVerifier verifier(fs_, kFolder, manifest_);
  const ShardVerdict verdict = verifier.Verify(file, nullptr);
  EXPECT_EQ(verdict.state, State::kDamaged);
  // That of header and table.
  EXPECT_EQ(verdict.expected_sha256, file.sha256);
  EXPECT_EQ(verdict.computed_sha256, file.sha256);
  ASSERT_EQ(verdict.pieces.size(), 1u);
  EXPECT_EQ(verdict.pieces[0].tensor, tensor.name);
  EXPECT_EQ(verdict.pieces[0].entry, EntryName(manifest_, tensor, piece));
  EXPECT_EQ(verdict.pieces[0].begin, piece.begin);
  EXPECT_NE(verdict.pieces[0].computed_crc32c, verdict.pieces[0].expected_crc32c);
  // In the header no tensor is hit.
  fs_.FlipBit(JoinPath(kFolder, file.name), piece.offset, 0);
  fs_.FlipBit(JoinPath(kFolder, file.name), 8, 0);
  EXPECT_EQ(verifier.Verify(file, nullptr).pieces.size(), 0u);
  EXPECT_EQ(verifier.Verify(file, nullptr).state, State::kDamaged);
}

// The manifest says where pieces lie; so does the header. They are compared although both are
// whole.
TEST_F(SharedVerificationTest, HeaderThatContradictsItsManifest_IsNamed) {
  ASSERT_EQ(manifest_.tensors[0].pieces[0].begin, 0);
  Manifest other = manifest_;
  other.tensors[0].name += "x";
  const ManifestFile& file = other.FileOf(other.tensors[0].pieces[0]);
  const ShardVerdict verdict = ShardVerifier(fs_, kFolder, other).Verify(file, nullptr);
  EXPECT_EQ(verdict.state, State::kDamaged);
  EXPECT_THAT(Message(StatusOf(verdict, kFolder)),
              AllOf(HasSubstr("its header has entry " + manifest_.tensors[0].name + "@0:"),
                    HasSubstr("its manifest says " + other.tensors[0].name + "@0:")));
}

// Bytes that come back right are no proof of damage.
TEST_F(SharedVerificationTest, DamageThatASecondLookDoesNotFind_IsAReadError) {
  fs_.FlipBit(PathOf(1), 5000, 2);
  ShardVerifier verifier(fs_, kFolder, manifest_);
  int looks = 0;
  const ShardVerdict verdict = verifier.Verify(manifest_.files[1], [&](int64_t) {
    if (++looks == 3) fs_.FlipBit(PathOf(1), 5000, 2);  // header, pieces, table
  });
  EXPECT_EQ(looks, 6);
  EXPECT_EQ(verdict.state, State::kUnreadable);
  EXPECT_EQ(StatusOf(verdict, kFolder).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(StatusOf(verdict, kFolder)), HasSubstr("two looks found two things"));
}

}  // namespace
}  // namespace dsrun::worker
