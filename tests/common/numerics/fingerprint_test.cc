#include "common/numerics/fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/differences.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

NumericsFingerprint Whole() {
  NumericsFingerprint out;
  out.library = "oneDNN";
  out.library_version = "3.7.1";
  out.isa = "avx2";
  out.sums = std::string(kExactSums);
  out.micro_batches_per_atom = 2;
  out.tiles = "512x384 or 192";
  out.attention_tiles = "32x64";
  out.denormals = "ftz daz";
  out.kernels_version = 3;
  return out;
}

TEST(Fingerprint, FieldsAndBack) {
  NumericsFingerprint fingerprint = Whole();
  fingerprint.others["sparsity"] = "2:4";
  NumericsFingerprint back;
  for (const FingerprintField& field : FieldsOf(fingerprint)) {
    ASSERT_TRUE(SetField(back, field.key, field.value).ok()) << field.key;
  }
  EXPECT_EQ(back, fingerprint);
  EXPECT_EQ(FieldsOf(fingerprint).size(), 10u);
  EXPECT_THAT(FieldsOf(NumericsFingerprint()), IsEmpty());
  for (const char* bad : {"", "3x", "0", "-1", "99999999999999999999"}) {
    EXPECT_EQ(SetField(back, "kernels_version", bad).code(), absl::StatusCode::kDataLoss) << bad;
  }
}

// All that the text ever was: two library versions, with one or two widths of tiles, three versions
// of the kernels.
TEST(Fingerprint, TextOfOldManifests_IsRead) {
  NumericsFingerprint expected = Whole();
  expected.sums = "";
  expected.micro_batches_per_atom = 0;
  EXPECT_EQ(ParseFingerprintText("oneDNN 3.7.1 avx2; tiles 512x384 or 192; attention 32x64; "
                                 "ftz daz; kernels v3"),
            expected);
  const auto first = ParseFingerprintText(
      "oneDNN 2.6.3 sse41; tiles 512x384; attention 32x64; ftz daz; kernels v1");
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->library_version, "2.6.3");
  EXPECT_EQ(first->isa, "baseline");
  EXPECT_EQ(first->tiles, "512x384");
  EXPECT_EQ(first->kernels_version, 1);
  EXPECT_EQ(ParseFingerprintText("oneDNN 2.6.3 isa 97; tiles 1x2; attention 3x4; ftz daz; "
                                 "kernels v1")
                ->isa,
            "isa 97");
}

TEST(Fingerprint, CanonicalBlocksOfBefore_AreAnotherWayToSum) {
  NumericsFingerprint old;
  ASSERT_TRUE(SetField(old, "canonical_blocks", "16").ok());
  NumericsFingerprint ours;
  ours.sums = std::string(kExactSums);
  ours.micro_batches_per_atom = 1;
  EXPECT_THAT(CompareFingerprints(old, ours, OurFields::kAll),
              ElementsAre(Difference{"sums over the batch", "tree over 16 blocks", "exact 1"}));
}

TEST(Fingerprint, AnyOtherText_IsNotGuessedAt) {
  const std::string good =
      "oneDNN 3.7.1 avx2; tiles 512x384 or 192; attention 32x64; ftz daz; kernels v3";
  ASSERT_TRUE(ParseFingerprintText(good).has_value());
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(ParseFingerprintText(good.substr(0, length)).has_value()) << length;
  }
  for (const std::string& bad :
       {good + "; more", good + "x", " " + good, std::string("cuBLAS 12.4 sm_90; tiles"),
        std::string("oneDNN 3.7.1 avx2; tiles 1x2; v1")}) {
    EXPECT_FALSE(ParseFingerprintText(bad).has_value()) << bad;
  }
}

TEST(Fingerprint, EveryFieldThatDiffers_IsNamedWithBothValues) {
  EXPECT_THAT(CompareFingerprints(Whole(), Whole(), OurFields::kAll), IsEmpty());
  for (const FingerprintField& field : FieldsOf(Whole())) {
    NumericsFingerprint other = Whole();
    ASSERT_TRUE(SetField(other, field.key, "7").ok());
    EXPECT_THAT(CompareFingerprints(Whole(), other, OurFields::kAll),
                ElementsAre(Difference{field.label, field.value, "7"}));
  }
  NumericsFingerprint other = Whole();
  other.others["sparsity"] = "2:4";
  EXPECT_THAT(CompareFingerprints(other, Whole(), OurFields::kOnlyThoseKnown),
              ElementsAre(Difference{"sparsity", "2:4", "not recorded"}));
}

// No rate is a rate of 0: manifests from before there was dropout say nothing of it.
TEST(Fingerprint, RatesOfDropout_AreFieldsWhereTheyAreNotZero) {
  NumericsFingerprint dropped = Whole();
  dropped.hidden_dropout = "0.1";
  dropped.attention_dropout = "0.25";
  EXPECT_EQ(FieldsOf(dropped).size(), FieldsOf(Whole()).size() + 2);
  EXPECT_THAT(CompareFingerprints(dropped, Whole(), OurFields::kOnlyThoseKnown),
              ElementsAre(Difference{"hidden dropout (--hidden-dropout)", "0.1", "0"},
                          Difference{"attention dropout (--attention-dropout)", "0.25", "0"}));
  EXPECT_THAT(CompareFingerprints(dropped, dropped, OurFields::kAll), IsEmpty());
}

TEST(Fingerprint, WhatOneSideDoesNotKnow) {
  NumericsFingerprint launcher;  // without the kernels
  launcher.isa = "avx2";
  launcher.kernels_version = 3;
  EXPECT_THAT(CompareFingerprints(Whole(), launcher, OurFields::kOnlyThoseKnown), IsEmpty());
  EXPECT_EQ(CompareFingerprints(Whole(), launcher, OurFields::kAll).size(), 7u);
  EXPECT_THAT(CompareFingerprints(NumericsFingerprint(), launcher, OurFields::kOnlyThoseKnown),
              ElementsAre(Difference{"instruction set (--isa-cap)", "not recorded", "avx2"},
                          Difference{"version of dsrun's kernels", "not recorded", "3"}));
}

TEST(DifferenceTable, StandsInColumns) {
  EXPECT_EQ(DifferenceTable({{"seed", "7", "9"}, {"instruction set", "avx2", "baseline"}},
                            "checkpoint", "this run"),
            "\n                     checkpoint  this run"
            "\n    seed             7           9"
            "\n    instruction set  avx2        baseline");
  EXPECT_EQ(DifferenceTable({}, "a", "b"), "");
}

}  // namespace
}  // namespace dsrun
