#include <gtest/gtest.h>

#include <string>

#include "common/base/crc32c.h"
#include "common/base/sha256.h"

namespace dsrun {
namespace {

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// FIPS 180-4 examples.
TEST(Sha256Test, GivesThePublishedDigests) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 pieces;
  for (int i = 0; i < 1000; ++i) pieces.Update(std::string(1000, 'a'));
  EXPECT_EQ(pieces.HexDigest(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// RFC 3720, appendix B.4, and the customary check value.
TEST(Crc32cTest, GivesThePublishedValues) {
  EXPECT_EQ(ExtendCrc32c(0, {}), 0u);
  EXPECT_EQ(ExtendCrc32c(0, Bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(ExtendCrc32c(0, Bytes(std::string(32, '\0'))), 0x8a9136aau);
  EXPECT_EQ(ExtendCrc32c(0, Bytes(std::string(32, '\xff'))), 0x62a8ab43u);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending += c;
  EXPECT_EQ(ExtendCrc32c(0, Bytes(ascending)), 0x46dd794eu);
}

TEST(Crc32cTest, PiecesOfAnyLengthGiveTheWhole) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i * 37);
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(ExtendCrc32c(ExtendCrc32c(0, Bytes(text.substr(0, cut))), Bytes(text.substr(cut))),
              ExtendCrc32c(0, Bytes(text)));
  }
}

}  // namespace
}  // namespace dsrun
