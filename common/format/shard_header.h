// The header of a shard against its manifest: every piece lies where the manifest says, or its
// recipe computes, in the type that it says, and nothing else is there. A recipe is believed only
// then: one that names the same sizes in another order would give every tensor another's values,
// and no checksum would know.
//
// Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_SHARD_HEADER_H_
#define DSRUN_COMMON_FORMAT_SHARD_HEADER_H_

#include <string>
#include <string_view>
#include <vector>

#include "common/format/manifest.h"

namespace dsrun {

// The last entry of a shard with pieces, from format 2 on.
inline constexpr std::string_view kTableEntry = "block_crc32c";

struct PieceOfFile {
  const ManifestTensor* tensor;
  const ManifestPiece* piece;
};

// Of every file, by its index, in the order of their bytes. `manifest` must outlive the result.
std::vector<std::vector<PieceOfFile>> PiecesByFile(const Manifest& manifest);

// Empty, or how they differ: what the header has, and what the manifest says. `pieces`: of `file`,
// in the order of their bytes. Of format 1 the start of the data is the header's to say.
std::string HeaderContradiction(const Manifest& manifest, const ManifestFile& file,
                                const std::vector<PieceOfFile>& pieces, std::string_view header);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_SHARD_HEADER_H_
